"""What the registered models share: their registry, their initialisation, and checks of what they are asked for."""

from collections.abc import Callable

from torch import nn

from prunetune.core.registry import Registry
from prunetune.errors import ConfigError, shown

MOST, MOST_TIMES = 100_000, 1000  # of layers or channels, and as a multiple of a network's usual width
MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Models by name: functions of `input_shape` and `outputs` to a module."""


def initialise(model: nn.Module) -> nn.Module:
    """Draw the weights by He et al. 2015 (arXiv 1502.01852, eq. 10), in place; returns `model`.

    Weights of convolutions and linear layers: normal, mean 0, variance 2 / fan_in, as OpenLTH's `kaiming_normal`.
    Biases 0. Batch norm: weight 1, bias 0. All draws come from torch's global generator.
    """
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
    """`value` as a whole number of at least 1 and at most MOST; ConfigError naming `argument` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigError(
            f"model_args.{argument}: {shown(value)} is not a whole number of at least 1, at most {MOST:,}"
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
