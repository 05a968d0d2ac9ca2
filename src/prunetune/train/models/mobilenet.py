"""MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381) in the form that is widely trained on CIFAR.

Against the paper's table 2: the stem and the 24-channel stage keep the side, so that 32x32 images end at 4x4; ReLU
stands for ReLU6; and a stride-1 block that changes the number of channels has a 1x1 shortcut with batch norm.
"""

import torch
from torch import Tensor, nn

from prunetune.train.models.common import MODELS, conv_norm, image_shape, initialise

_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, convolve each channel by 3x3, project by 1x1; added to the input where the side stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = nn.Sequential(
            *conv_norm(inputs, wide, kernel=1),
            nn.ReLU(),
            *conv_norm(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.ReLU(),
            *conv_norm(wide, outputs, kernel=1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*conv_norm(inputs, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)), without a last ReLU."""
        return self.residual(x) if self.shortcut is None else torch.add(self.residual(x), self.shortcut(x))


@MODELS.register("mobilenetv2")
def mobilenetv2(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A 3x3 stem of 32 channels, 17 inverted residual blocks, 1x1 to 1280 channels, global average, linear.

    Raises RequestError for images of fewer than 8x8 pixels.
    """
    channels, _, _ = image_shape("mobilenetv2", input_shape, least=8)
    layers: list[nn.Module] = [*conv_norm(channels, 32, kernel=3), nn.ReLU()]
    inputs = 32
    for expansion, width, blocks, first_stride in _STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(inputs, width, expansion, first_stride if block == 0 else 1))
            inputs = width
    layers += [*conv_norm(inputs, 1280, kernel=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return initialise(nn.Sequential(*layers, nn.Linear(1280, outputs)))
