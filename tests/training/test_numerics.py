"""Strided depthwise convolutions in float32 within a bf16 training: what it changes, and what it leaves alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from prunetune.sparsity.model_state import digest_tensors
from prunetune.training.numerics import strided_depthwise_in_float32
from prunetune.training.recipe import Recipe
from tests.support.train_makers import RECIPE, run

BF16 = replace(RECIPE, precision="bf16")
CPU = torch.device("cpu")


class ByHand(nn.Module):
    """Does for itself, and in other words, what the training does for a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = depthwise().weight, depthwise().bias

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            whole = images.to(torch.float32)
            found = nn.functional.conv2d(whole, self.weight, self.bias, stride=2, padding=1, groups=4)
        return found.to(torch.bfloat16)


def net(between: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), between, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    for parameter in layers.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return layers


def trained(between: nn.Module, recipe: Recipe) -> str:
    return digest_tensors(run(net(between), recipe=recipe).state)


def depthwise(stride: int = 2, groups: int = 4) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, stride, padding=1, groups=groups)


def seen(module: nn.Module, recipe: Recipe, device: torch.device = CPU) -> set[torch.dtype]:
    """The types in which the layer convolves in such a training."""
    types: set[torch.dtype] = set()
    whole = nn.Conv2d._conv_forward

    def watched(self: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        types.add(images.dtype if not torch.is_autocast_enabled("cpu") else torch.bfloat16)
        return whole(self, images, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "_conv_forward", watched)
        with (
            strided_depthwise_in_float32(module, recipe, device),
            torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"),
        ):
            outputs = module(torch.rand(2, 4, 6, 6))
    assert outputs.dtype is (torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    return types


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "AVX2",
    reason="bf16 kernels of AVX2 round otherwise in the two orders, before this test too",
)
def test_a_training_is_that_of_a_layer_that_does_it_by_hand() -> None:
    left_alone = depthwise()
    left_alone.forward = partial(nn.Conv2d.forward, left_alone)
    by_hand = trained(ByHand(), BF16)
    assert trained(depthwise(), BF16) == by_hand
    assert trained(left_alone, BF16) != by_hand


@pytest.mark.parametrize(
    ("module", "recipe", "device", "type_"),
    [
        (depthwise(), BF16, "cpu", torch.float32),
        (depthwise(), BF16, "cuda", torch.bfloat16),
        (depthwise(stride=1), BF16, "cpu", torch.bfloat16),
        (depthwise(groups=2), BF16, "cpu", torch.bfloat16),
        (depthwise(groups=1), BF16, "cpu", torch.bfloat16),
        (depthwise(), RECIPE, "cpu", torch.float32),
    ],
    ids=["strided", "on a GPU", "no stride", "groups", "dense", "f32"],
)
def test_which_layers(module: nn.Module, recipe: Recipe, device: str, type_: torch.dtype) -> None:
    assert seen(module, recipe, torch.device(device)) == {type_}


def test_the_layer_is_as_before_afterwards() -> None:
    layer = depthwise()
    with strided_depthwise_in_float32(layer, BF16, CPU):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


def test_a_forward_of_the_users_stays() -> None:
    layer = depthwise()
    mine = partial(nn.Conv2d.forward, layer)
    layer.forward = mine
    with strided_depthwise_in_float32(layer, BF16, CPU):
        assert layer.forward is mine
    assert layer.forward is mine
