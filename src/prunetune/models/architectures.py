"""The registered networks, each in the form in which it is widely trained on CIFAR, and what they share.

Small feed-forward networks, residual networks, VGG and MobileNet-V2; weights are drawn as `initialise` says.
"""

from collections.abc import Callable
from math import prod
from typing import Annotated

from torch import Tensor, nn

from prunetune.core.references import KEYED_WHERE_SET
from prunetune.core.registry import Registry
from prunetune.errors import ConfigError, shown
from prunetune.sparsity.channel_operations import ChannelPad

MOST_CHANNELS, MOST_TIMES = 100_000, 1000  # of layers or channels, and as a multiple of a network's usual width
MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Models by name: functions of `input_shape` and `outputs` to a module."""


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights by He et al. 2015 (arXiv 1502.01852, eq. 10), in place; returns `model`.

    Weights of convolutions and linear layers: normal, mean 0, variance 2 / fan_in, as OpenLTH's `kaiming_normal`.
    Biases 0. Batch norm: weight 1, bias 0. All draws come from torch's global generator. A network on torch's meta
    device, which has shapes and no values, stays as it is: to "draw" there, torch would import sympy for two seconds.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return model
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def count_of(argument: str, value: object) -> int:
    """`value` as a whole number from 1 to MOST_CHANNELS; ConfigError naming `argument` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CHANNELS:
        raise ConfigError(
            f"model_args.{argument}: {shown(value)} is not a whole number of at least 1, at most {MOST_CHANNELS:,}"
        )
    return value


def factor_of(argument: str, value: object) -> float:
    """`value` as a number above 0 and at most MOST_TIMES; ConfigError naming `argument` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_TIMES:
        raise ConfigError(f"model_args.{argument}: {shown(value)} is not a number above 0, at most {MOST_TIMES:,}")
    return float(value)


def image_shape(model: str, input_shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    """`input_shape` as (channels, height, width), both sides at least `least` pixels; ConfigError otherwise.

    `least` is the side of the smallest image that leaves one whole pixel at the end.
    """
    if len(input_shape) != 3:
        raise ConfigError(f"model: {model} takes images of shape (channels, height, width); got {input_shape}")
    channels, height, width = input_shape
    if min(height, width) < least:
        raise ConfigError(f"model: {model} needs images of at least {least}x{least} pixels; got {height}x{width}")
    return channels, height, width


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, pad: bool = True
) -> list[nn.Module]:
    """A convolution without bias, and its batch norm; padded, it keeps the side (divided by `stride`, rounded up)."""
    padding = kernel // 2 if pad else 0
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


# Small networks: the default study's, and LeNet-300-100 and Conv-2, -4 and -6 of Frankle & Carbin 2018 (arXiv
# 1803.03635, figure 2) in OpenLTH's form: no batch norm, biases everywhere.


@MODELS.register("small")
def small(input_shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Module:
    """The default study's network: three convolutions of `width`, 2 and 4 times as many channels, made for 28x28.

    5x5 with stride 4, 3x3, both without padding, and 3x3 with stride 2, each with batch norm and ReLU; global average;
    linear.
    """
    channels, _, _ = image_shape("small", input_shape, least=13)
    width = count_of("width", width)
    return initialise(
        nn.Sequential(
            *conv_norm(channels, width, kernel=5, stride=4, pad=False),
            nn.ReLU(inplace=True),
            *conv_norm(width, 2 * width, kernel=3, pad=False),
            nn.ReLU(inplace=True),
            *conv_norm(2 * width, 4 * width, kernel=3, stride=2),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, outputs),
        )
    )


@MODELS.register("lenet_300_100")
def lenet_300_100(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """LeNet-300-100: hidden layers of 300 and 100 units with ReLU, on the flattened image."""
    return initialise(nn.Sequential(nn.Flatten(), *_classifier(prod(input_shape), (300, 100), outputs)))


def conv_net(pairs: int) -> Callable[[tuple[int, ...], int], nn.Module]:
    """The builder of Conv-(2 `pairs`): pairs of 3x3 convolutions (64, 128, 256 channels), each pair max-pooled by 2,
    then linear layers of 256, 256 and `outputs` units.
    """

    def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, width = image_shape(f"conv{2 * pairs}", input_shape, least=2**pairs)
        layers: list[nn.Module] = []
        for wide in [64, 128, 256][:pairs]:
            for inputs in (channels, wide):
                layers += [nn.Conv2d(inputs, wide, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
            channels, height, width = wide, height // 2, width // 2
        return initialise(
            nn.Sequential(*layers, nn.Flatten(), *_classifier(channels * height * width, (256, 256), outputs))
        )

    return build


def _classifier(inputs: int, hidden: tuple[int, ...], outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU(inplace=True)]
        inputs = units
    return [*layers, nn.Linear(inputs, outputs)]


for _pairs in (1, 2, 3):
    MODELS.register(f"conv{2 * _pairs}")(conv_net(_pairs))


# The CIFAR residual networks of He et al. 2015 (arXiv 1512.03385, section 4.2), of any depth 6n + 2 and any width: a
# 3x3 stem; three stages of n blocks with `width`, 2 and 4 times as many channels, each halving the side but the first;
# global average; linear. Shortcuts are option A: no parameters (subsampled, and padded with zero channels).

_DEEPEST_RESNET = 1202


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
    if layers > _DEEPEST_RESNET:
        raise ConfigError(f"model_args.depth: {layers}; at most {_DEEPEST_RESNET}, the deepest of the paper")
    blocks = max(1, round((layers - 2) / 6))
    if layers != 6 * blocks + 2:
        raise ConfigError(f"model_args.depth: {layers} is not 6n + 2; the nearest is {6 * blocks + 2}")
    return blocks


def _resnet_of_depth(depth: int) -> Callable[..., nn.Module]:
    def build(input_shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Module:
        return resnet(input_shape, outputs, depth, width)

    return build


for _depth in (20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}")(_resnet_of_depth(_depth))


# VGG in its CIFAR form: the convolutions of Simonyan & Zisserman 2014 (arXiv 1409.1556, table 1), each with batch norm,
# and one linear layer in place of the three. 3x3 convolutions (with bias, as in the reference counts) in five stages of
# 64, 128, 256, 512 and 512 channels (1, 2, 4, 8 and 8 times `width`), each max-pooled by 2; global average (one pixel
# for 32x32 images); linear.

_VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_VGG_WIDTHS = (1, 2, 4, 8, 8)  # of a stage, in units of the first


def vgg(depth: int) -> Callable[..., nn.Module]:
    """The builder of VGG-`depth` (11, 13, 16 or 19), for images of at least 32x32 pixels."""

    def build(input_shape: tuple[int, ...], outputs: int, width: Annotated[int, KEYED_WHERE_SET] = 64) -> nn.Module:
        width = count_of("width", width)
        inputs, _, _ = image_shape(f"vgg{depth}", input_shape, least=32)
        layers: list[nn.Module] = []
        for convolutions, times in zip(_VGG_STAGES[depth], _VGG_WIDTHS, strict=True):
            channels = times * width
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, channels, kernel_size=3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        return initialise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs)))

    return build


for _depth in _VGG_STAGES:
    MODELS.register(f"vgg{_depth}")(vgg(_depth))


# MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381). Against the paper's table 2: the stem and the 24-channel stage
# keep the side, so that 32x32 images end at 4x4; ReLU stands for ReLU6; and a stride-1 block that changes the number of
# channels has a 1x1 shortcut with batch norm.

_MOBILENET_STAGES = (  # expansion, channels, blocks, stride of the first block
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
    for expansion, full, blocks, first_stride in _MOBILENET_STAGES:
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
