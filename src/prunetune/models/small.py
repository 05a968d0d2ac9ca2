"""Small feed-forward networks: the default study's, and those of the first lottery tickets.

LeNet-300-100 and Conv-2, -4 and -6 are those of Frankle & Carbin 2018 (arXiv 1803.03635, figure 2), in OpenLTH's form:
no batch norm, biases everywhere. Their initialisation is `common.initialise`.
"""

from collections.abc import Callable
from math import prod

from torch import nn

from prunetune.models.common import MODELS, conv_norm, count_of, image_shape, initialise


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
