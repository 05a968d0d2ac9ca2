"""VGG networks in their CIFAR form: the convolutions of Simonyan & Zisserman 2014 (arXiv 1409.1556, table 1), each with
batch norm, and one linear layer in place of the three.

3x3 convolutions (with bias, as in the reference counts) in five stages of 64, 128, 256, 512 and 512 channels (1, 2, 4,
8 and 8 times `width`), each max-pooled by 2; global average (one pixel for 32x32 images); linear.
"""

from collections.abc import Callable
from typing import Annotated

from torch import nn

from prunetune.core.references import KEYED_WHERE_SET
from prunetune.models.common import MODELS, count_of, image_shape, initialise

_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (1, 2, 4, 8, 8)  # of a stage, in units of the first


def vgg(depth: int) -> Callable[..., nn.Module]:
    """The builder of VGG-`depth` (11, 13, 16 or 19), for images of at least 32x32 pixels."""

    def build(input_shape: tuple[int, ...], outputs: int, width: Annotated[int, KEYED_WHERE_SET] = 64) -> nn.Module:
        width = count_of("width", width)
        inputs, _, _ = image_shape(f"vgg{depth}", input_shape, least=32)
        layers: list[nn.Module] = []
        for convolutions, times in zip(_STAGES[depth], _WIDTHS, strict=True):
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


for _depth in _STAGES:
    MODELS.register(f"vgg{_depth}")(vgg(_depth))
