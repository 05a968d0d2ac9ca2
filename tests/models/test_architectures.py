"""Sides of the feature maps, and the shortcuts, which no parameter count would show."""

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.models import build
from prunetune.models.architectures import Block, InvertedResidual


def maps(
    name: str, input_shape: tuple[int, int, int], kind: type[nn.Module], **arguments: int
) -> list[tuple[int, int]]:
    """(channels, side) of the output of every module of `kind`, in the order of the forward pass."""
    model, seen = build(Ref.of(name, arguments), input_shape, 10), []

    def look(module: nn.Module, _: object, output: Tensor) -> None:
        assert output.shape[2] == output.shape[3]
        seen.append((output.shape[1], output.shape[2]))

    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(look)
    model(torch.zeros(2, *input_shape))
    return seen


def test_small_on_28_pixels() -> None:
    assert maps("small", (1, 28, 28), nn.Conv2d) == [(16, 6), (32, 4), (64, 2)]


def test_resnet_halves_the_side_at_each_stage() -> None:
    assert maps("resnet20", (3, 32, 32), Block) == [(16, 32)] * 3 + [(32, 16)] * 3 + [(64, 8)] * 3
    assert maps("resnet", (3, 32, 32), Block, depth=8, width=4) == [(4, 32), (8, 16), (16, 8)]


def test_vgg_ends_at_one_pixel() -> None:
    assert maps("vgg16", (3, 32, 32), nn.MaxPool2d) == [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)]


def test_conv6_ends_at_four_pixels() -> None:
    assert maps("conv6", (3, 32, 32), nn.MaxPool2d) == [(64, 16), (128, 8), (256, 4)]


def test_mobilenetv2_ends_at_four_pixels() -> None:
    fine = [(16, 32)] + [(24, 32)] * 2 + [(32, 16)] * 3
    coarse = [(64, 8)] * 4 + [(96, 8)] * 3 + [(160, 4)] * 3 + [(320, 4)]
    assert maps("mobilenetv2", (3, 32, 32), InvertedResidual) == fine + coarse


def silence(residual: nn.Module) -> None:
    """Make a residual branch give exactly zero: its last batch norm scales by 0."""
    last = [module for module in residual.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (3, 6), (1, 2)])
def test_option_a_subsamples_and_pads_with_zero_channels(inputs: int, outputs: int) -> None:
    block = Block(inputs, outputs, stride=2)
    silence(block.residual)
    x = torch.rand(2, inputs, 5, 6)
    y = block(x)
    expected = torch.zeros(2, outputs, 3, 3)
    first = (outputs - inputs) // 2
    for channel in range(inputs):
        for row in range(3):
            for column in range(3):
                expected[:, first + channel, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(y, expected)


def test_a_block_of_one_stage_adds_its_input_and_rectifies() -> None:
    block = Block(3, 3, stride=1).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), (block.residual(x) + x).clamp(min=0))
    silence(block.residual)
    assert torch.equal(block(x), x.clamp(min=0))


def test_inverted_residual_shortcuts() -> None:
    x = torch.randn(2, 3, 4, 4)
    same = InvertedResidual(3, 3, expansion=6, stride=1)
    silence(same.residual)
    assert torch.equal(same(x), x)  # the identity, and no ReLU after it
    strided = InvertedResidual(3, 3, expansion=6, stride=2)
    silence(strided.residual)
    assert torch.equal(strided(x), torch.zeros(2, 3, 2, 2))  # none
    wider = InvertedResidual(3, 5, expansion=6, stride=1).eval()
    silence(wider.residual)
    assert wider.shortcut is not None
    projection = next(wider.shortcut.parameters())
    assert projection.shape == (5, 3, 1, 1)
    # Running statistics are 0 and 1, so that batch norm divides by sqrt(1 + 1e-5) alone.
    torch.testing.assert_close(wider(x), torch.einsum("oi,nihw->nohw", projection[:, :, 0, 0], x) / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize(("outputs", "stride"), [(3, 1), (5, 1), (5, 2)])
def test_the_bottleneck_is_linear(outputs: int, stride: int) -> None:
    """The projection's last batch norm has mean 0 over the batch, so a ReLU after it would show."""
    residual = InvertedResidual(3, outputs, expansion=6, stride=stride)
    y = residual(torch.randn(8, 3, 8, 8)) if stride == 2 else residual.residual(torch.randn(8, 3, 8, 8))
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(outputs), atol=1e-5, rtol=0)
    assert y.min() < 0


def test_depthwise_convolutions_stay_within_their_channel() -> None:
    model = build(Ref.of("mobilenetv2"), (3, 32, 32), 10)
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(spatial) == 18  # the stem and 17 blocks
    assert spatial[0].groups == 1
    assert all(m.groups == m.in_channels == m.out_channels for m in spatial[1:])
