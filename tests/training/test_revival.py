"""The check of the zeros: planted revivals of every kind are counted, nothing else is."""

import math

import pytest
import torch
from torch import nn

from prunetune.sparsity.mask import Mask
from prunetune.training.zero_check import PrunedZeroCheck

KEPT = torch.tensor([[True, False, False], [False, True, True]])


def watched(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, PrunedZeroCheck]:
    layer = nn.Linear(3, 2).to(dtype)
    layer.weight.data.masked_fill_(~KEPT, 0)
    return layer, PrunedZeroCheck(layer, Mask({"weight": KEPT}))


def test_zeros_of_both_signs_and_any_kept_value_pass() -> None:
    layer, watch = watched()
    layer.weight.data[0, 1] = -0.0
    layer.weight.data[0, 0], layer.weight.data[1, 1], layer.bias.data[0] = math.nan, -math.inf, 3.0
    watch.check()
    assert watch.count() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [1.0, -1.0, 1e-7, math.nan, math.inf, -math.inf])
def test_anything_else_at_a_pruned_position_is_counted(dtype: torch.dtype, value: float) -> None:
    layer, watch = watched(dtype)
    layer.weight.data[1, 0] = value
    watch.check()
    assert watch.count() == 1


def test_the_smallest_number_there_is() -> None:
    layer, watch = watched()
    layer.weight.data[0, 2] = 1.4e-45
    watch.check()
    assert watch.count() == 1


def test_a_revival_is_remembered_and_a_position_counted_once() -> None:
    layer, watch = watched()
    for position in ((0, 1), (0, 2), (0, 1)):
        layer.weight.data[position] = 2.0
        watch.check()
        layer.weight.data[position] = 0.0
        watch.check()
    assert watch.count() == 2


def test_between_looks_nothing_is_seen() -> None:
    layer, watch = watched()
    watch.check()
    layer.weight.data[0, 1] = 2.0
    assert watch.count() == 0


def test_channels_last_weights() -> None:
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    kept[1, 2, 0, 1] = False
    watch = PrunedZeroCheck(layer, Mask({"weight": kept}))
    layer.weight.data[1, 2, 0, 1] = 0
    watch.check()
    assert watch.count() == 0
    layer.weight.data[1, 2, 0, 1] = 1
    watch.check()
    assert watch.count() == 1
