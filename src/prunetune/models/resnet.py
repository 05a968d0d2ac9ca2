"""The CIFAR residual networks of He et al. 2015 (arXiv 1512.03385, section 4.2), of any depth 6n + 2 and any width.

A 3x3 stem; three stages of n blocks with `width`, 2 and 4 times as many channels, each halving the side but the first;
global average; linear. Shortcuts are option A: no parameters (subsampled, and padded with zero channels).
"""

from collections.abc import Callable

from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.models.common import MODELS, conv_norm, count_of, image_shape, initialise
from prunetune.sparsity.channel_operations import ChannelPad

DEEPEST = 1202


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut of the block's input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm(inputs, outputs, kernel=3, stride=stride),
            nn.ReLU(inplace=True),
            *conv_norm(outputs, outputs, kernel=3),
        )
        self.stride = stride
        self.padding = nn.Identity() if inputs == outputs else ChannelPad(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        shortcut = self.padding(x[:, :, :: self.stride, :: self.stride])
        return self.residual(x).add_(shortcut).relu_()


@MODELS.register("resnet")
def resnet(input_shape: tuple[int, ...], outputs: int, depth: int = 20, width: int = 16) -> nn.Module:
    """The network of `depth` = 6n + 2 layers whose first stage has `width` channels (16 in the paper).

    Raises ConfigError for another depth, a width below 1, or images of fewer than 4x4 pixels.
    """
    width, blocks = count_of("width", width), _blocks_per_stage(depth)
    channels, _, _ = image_shape(f"resnet{depth}", input_shape, least=4)
    layers: list[nn.Module] = [*conv_norm(channels, width, kernel=3), nn.ReLU(inplace=True)]
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Block(inputs, width * 2**stage, stride))
            inputs = width * 2**stage
    return initialise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs)))


def _blocks_per_stage(depth: object) -> int:
    layers = count_of("depth", depth)
    if layers > DEEPEST:
        raise ConfigError(f"model_args.depth: {layers}; at most {DEEPEST}, the deepest of the paper")
    blocks = max(1, round((layers - 2) / 6))
    if layers != 6 * blocks + 2:
        raise ConfigError(f"model_args.depth: {layers} is not 6n + 2; the nearest is {6 * blocks + 2}")
    return blocks


def _of_depth(depth: int) -> Callable[..., nn.Module]:
    def build(input_shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Module:
        return resnet(input_shape, outputs, depth, width)

    return build


for _depth in (20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}")(_of_depth(_depth))
