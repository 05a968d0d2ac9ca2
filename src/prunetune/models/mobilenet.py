"""MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381) in the form that is widely trained on CIFAR.

Against the paper's table 2: the stem and the 24-channel stage keep the side, so that 32x32 images end at 4x4; ReLU
stands for ReLU6; and a stride-1 block that changes the number of channels has a 1x1 shortcut with batch norm.
"""

from typing import Annotated

from torch import Tensor, nn

from prunetune.core.references import KEYED_WHERE_SET
from prunetune.models.common import MODELS, conv_norm, factor_of, image_shape, initialise

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
            nn.ReLU(inplace=True),
            *conv_norm(wide, wide, kernel=3, stride=stride, groups=wide),
            nn.ReLU(inplace=True),
            *conv_norm(wide, outputs, kernel=1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*conv_norm(inputs, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)), without a last ReLU."""
        return self.residual(x) if self.shortcut is None else self.residual(x).add_(self.shortcut(x))


@MODELS.register("mobilenetv2")
def mobilenetv2(
    input_shape: tuple[int, ...], outputs: int, width: Annotated[float, KEYED_WHERE_SET] = 1.0
) -> nn.Module:
    """A 3x3 stem of 32 channels, 17 inverted residual blocks, 1x1 to 1280 channels, global average, linear.

    `width` multiplies the numbers of channels, which are rounded as `scaled` says; below 1 all but the 1280, as in
    section 6.1 of the paper. Raises ConfigError for images of fewer than 8x8 pixels and a width that is not above 0.
    """
    width = factor_of("width", width)
    channels, _, _ = image_shape("mobilenetv2", input_shape, least=8)
    layers: list[nn.Module] = [*conv_norm(channels, scaled(32, width), kernel=3), nn.ReLU(inplace=True)]
    inputs = scaled(32, width)
    for expansion, full, blocks, first_stride in _STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(inputs, scaled(full, width), expansion, first_stride if block == 0 else 1))
            inputs = scaled(full, width)
    last = scaled(1280, max(1.0, width))
    layers += [*conv_norm(inputs, last, kernel=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return initialise(nn.Sequential(*layers, nn.Linear(last, outputs)))


def scaled(channels: int, width: float) -> int:
    """width · channels to the nearest multiple of 8 (a half goes up, at least 8), or the next if that loses over 10 %.

    The rule of the authors' implementation.

    >>> scaled(24, 1.0), scaled(96, 0.1), scaled(16, 0.75)
    (24, 16, 16)
    """
    wanted = width * channels
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
