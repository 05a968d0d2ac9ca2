"""Parameter counts against the literature's numbers, and against closed forms that are written here a second time."""

from itertools import pairwise

import pytest

from prunetune.core.references import Ref
from prunetune.models import build

CIFAR = (3, 32, 32)
MNIST = (1, 28, 28)


def count(name: str, input_shape: tuple[int, ...] = CIFAR, outputs: int = 10, least_dims: int = 0, **arguments: float):
    model = build(Ref.of(name, arguments), input_shape, outputs)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() >= least_dims)


def dense_chain(sizes: list[int]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # He et al. 2015, table 6 prints 0.27M, 0.46M, 0.66M, 0.85M and 1.7M. The full digits are those of option A with
        # batch norm, as counted by the well-known public implementations with parameter-free shortcuts (272,474, which
        # is seen as often for ResNet-20, has 1x1 convolutions in the shortcuts).
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        # CIFAR VGG with batch norm, bias in the convolutions and one linear layer: 9.2M, 9.4M, 14.7M, 20.0M.
        ("vgg11", 9_231_114),
        ("vgg13", 9_416_010),
        ("vgg16", 14_728_266),
        ("vgg19", 20_040_522),
        # The CIFAR-10 form of MobileNet-V2 that is widely copied prints 2,296,922.
        ("mobilenetv2", 2_296_922),
    ],
)
def test_count_is_the_literature_s(name: str, parameters: int) -> None:
    assert count(name) == parameters


@pytest.mark.parametrize(
    ("name", "input_shape", "weights", "printed_in_millions"),
    [
        # Frankle & Carbin 2018, figure 2, weights of all layers: 266K, 4.3M, 2.4M. For Conv-6 the figure prints 1.7M,
        # which the layers that it lists do not give; they give 2.26M, as other reproductions count too.
        ("lenet_300_100", MNIST, 266_200, 0.2662),
        ("conv2", CIFAR, 4_300_992, 4.3),
        ("conv4", CIFAR, 2_425_024, 2.4),
        ("conv6", CIFAR, 2_261_184, 2.26),
    ],
)
def test_weights_of_the_first_lottery_tickets(
    name: str, input_shape: tuple[int, ...], weights: int, printed_in_millions: float
) -> None:
    assert count(name, input_shape, least_dims=2) == weights
    assert weights / 1e6 == pytest.approx(printed_in_millions, rel=0.02)


@pytest.mark.parametrize(("name", "weights"), [("conv2", 38e3), ("conv4", 260e3), ("conv6", 1.1e6)])
def test_convolution_weights_of_frankle_and_carbin(name: str, weights: float) -> None:
    """The second number of their figure 2: 38K, 260K and 1.1M weights in convolutions."""
    assert count(name, least_dims=4) == pytest.approx(weights, rel=0.05)


def test_lenet_300_100_with_biases() -> None:
    assert count("lenet_300_100", MNIST) == 266_610 == dense_chain([784, 300, 100, 10])


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
@pytest.mark.parametrize("width", [1, 5, 16])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 2), (3, 10), (4, 100)])
def test_resnet_closed_form(depth: int, width: int, channels: int, outputs: int) -> None:
    n = (depth - 2) // 6
    stem = 9 * channels * width
    stage_1 = 2 * n * 9 * width**2
    stage_2 = 9 * (2 * width**2 + (2 * n - 1) * 4 * width**2)
    stage_3 = 9 * (8 * width**2 + (2 * n - 1) * 16 * width**2)
    norms = 2 * (width + 2 * n * (width + 2 * width + 4 * width))
    expected = stem + stage_1 + stage_2 + stage_3 + norms + 4 * width * outputs + outputs
    assert count("resnet", (channels, 16, 16), outputs, depth=depth, width=width) == expected


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vgg11", [64, 128, 256, 256, 512, 512, 512, 512]),
        ("vgg13", [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]),
        ("vgg16", [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]),
        ("vgg19", [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512]),
    ],
)
def test_vgg_closed_form(name: str, channels: list[int]) -> None:
    """Columns A, B, D and E of Simonyan & Zisserman 2014, table 1: 9·i·o + o per convolution, 2·o per norm."""
    convolutions = sum(9 * i * o + 3 * o for i, o in pairwise([3, *channels]))
    assert count(name, outputs=100) == convolutions + 512 * 100 + 100


def test_mobilenetv2_closed_form() -> None:
    """Sandler et al. 2018, table 2, one row per block, with a 1x1 shortcut where channels change at stride 1."""
    strides_and_channels = [
        *[(1, 16)],
        *[(1, 24)] * 2,
        *[(2, 32), (1, 32), (1, 32)],
        *[(2, 64), (1, 64), (1, 64), (1, 64)],
        *[(1, 96)] * 3,
        *[(2, 160), (1, 160), (1, 160)],
        *[(1, 320)],
    ]
    total, inputs = 9 * 3 * 32 + 2 * 32, 32
    for index, (stride, outputs) in enumerate(strides_and_channels):
        wide = inputs * (1 if index == 0 else 6)
        total += inputs * wide + 2 * wide + 9 * wide + 2 * wide + wide * outputs + 2 * outputs
        if stride == 1 and inputs != outputs:
            total += inputs * outputs + 2 * outputs
        inputs = outputs
    total += 320 * 1280 + 2 * 1280 + 1280 * 10 + 10
    assert count("mobilenetv2") == total


@pytest.mark.parametrize(
    ("name", "channels", "flattened"),
    [
        ("conv2", [64, 64], 64 * 14 * 14),
        ("conv4", [64, 64, 128, 128], 128 * 7 * 7),
        ("conv6", [64, 64, 128, 128, 256, 256], 256 * 3 * 3),
    ],
)
def test_conv_net_closed_form_on_28_pixels(name: str, channels: list[int], flattened: int) -> None:
    convolutions = sum(9 * i * o + o for i, o in pairwise([1, *channels]))
    assert count(name, MNIST, outputs=7) == convolutions + dense_chain([flattened, 256, 256, 7])


@pytest.mark.parametrize(("width", "expected"), [(16, 24_314), (8, 25 * 8 + 9 * 128 + 9 * 512 + 2 * 56 + 330)])
def test_small(width: int, expected: int) -> None:
    """At width 16: 25·16 + 9·16·32 + 9·32·64 weights, 2·(16 + 32 + 64) of norms, 64·10 + 10."""
    assert 25 * 16 + 9 * 16 * 32 + 9 * 32 * 64 + 2 * 112 + 650 == 24_314
    assert count("small", MNIST, width=width) == expected


def test_vgg11_of_width_2_by_hand() -> None:
    """Channels 2, 4, 8, 8, 16, 16, 16, 16; 9·i·o + 3·o of each convolution with its norm; 16·10 + 10."""
    assert count("vgg11", width=2) == 60 + 84 + 312 + 600 + 1200 + 3 * 2352 + 170 == 9482


def test_mobilenetv2_of_width_a_tenth_by_hand() -> None:
    """Of 3.2, 1.6, 2.4, 3.2 and 6.4 channels 8 are left; 9.6 make 16, for 8 is below 90 %; 16; 32; the last are 1280.

    A block of e = 6·i inner channels (the first: i) has e·(i + 13 + o) + 2·o parameters, its shortcut i·o + 2·o.
    """
    stem, head, linear = 9 * 3 * 8 + 16, 32 * 1280 + 2560, 12_810
    of_8 = 248 + (2 + 3 + 4) * 1408  # 8·(8 + 13 + 8) + 16, then 48·(8 + 13 + 8) + 16
    to_16 = 48 * (8 + 13 + 16) + 32 + 8 * 16 + 32
    of_16 = (2 + 3) * (96 * (16 + 13 + 16) + 32)
    to_32 = 96 * (16 + 13 + 32) + 64 + 16 * 32 + 64
    assert count("mobilenetv2", width=0.1) == stem + of_8 + to_16 + of_16 + to_32 + head + linear == 99_706


@pytest.mark.parametrize(
    ("width", "channels"),  # the rule's outcomes for 32, 16, 24, 32, 64, 96, 160, 320, 1280 channels, by hand
    [
        (0.35, [16, 8, 8, 16, 24, 32, 56, 112, 1280]),
        (0.5, [16, 8, 16, 16, 32, 48, 80, 160, 1280]),
        (0.75, [24, 16, 24, 24, 48, 72, 120, 240, 1280]),
        (1.4, [48, 24, 32, 48, 88, 136, 224, 448, 1792]),
    ],
)
def test_mobilenetv2_s_channels_at_the_widths_of_its_paper(width: float, channels: list[int]) -> None:
    model = build(Ref.of("mobilenetv2", {"width": width}), CIFAR, 10)
    convolutions = [p for name, p in model.named_parameters() if p.dim() == 4 and "shortcut" not in name]
    # Stem, three convolutions in each of 17 blocks, the last; stages end with blocks 1, 3, 6, 10, 13, 16 and 17.
    assert [len(convolutions[at]) for at in (0, 3, 9, 18, 30, 39, 48, 51, 52)] == channels
