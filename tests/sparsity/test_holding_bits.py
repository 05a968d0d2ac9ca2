"""Zeroing touches the pruned positions alone, to the bit, in every type and memory order, also after they change."""

import pytest
import torch
from torch import Tensor, nn

from prunetune.sparsity.enforce import apply_mask

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDERS = (torch.contiguous_format, torch.channels_last)
ODD = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-30)


def odd_weights(shape: torch.Size) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values.view(-1)[:: len(ODD) + 1][: len(ODD)] = torch.tensor(ODD)
    values.view(-1)[1 :: len(ODD) + 1][: len(ODD)] = torch.tensor(ODD)
    return values


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_only_the_pruned_bits_become_zero(dtype: torch.dtype, order: torch.memory_format) -> None:
    model = nn.Conv2d(4, 6, 3).to(dtype=dtype, memory_format=order)  # type: ignore[call-overload]
    before = odd_weights(model.weight.shape).to(dtype)
    model.weight.data.copy_(before)
    mask = torch.arange(before.numel()).view(before.shape) % 2 == 0
    apply_mask(model, {"weight": mask})
    assert torch.equal(bits(model.weight), torch.where(mask, bits(before), 0))


@pytest.mark.parametrize("then", [{"dtype": torch.bfloat16}, {"memory_format": torch.channels_last}], ids=str)
def test_a_weight_that_changes_its_form_is_held_on(then: dict[str, torch.dtype]) -> None:
    model = nn.Conv2d(4, 6, 3)
    mask = torch.rand(model.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    apply_mask(model, {"weight": mask})
    model.to(**then)  # type: ignore[call-overload]
    model.weight.data.fill_(2.0)
    model(torch.zeros(1, 4, 3, 3, dtype=model.weight.dtype))
    assert torch.equal(model.weight.detach().float(), 2.0 * mask)


def test_a_weight_that_is_spread_over_its_memory_is_held() -> None:
    model = nn.Linear(3, 4, bias=False)
    wide = torch.ones(4, 6)
    model.weight = nn.Parameter(wide[:, ::2])
    mask = torch.arange(12).view(4, 3) % 3 == 0
    apply_mask(model, {"weight": mask})
    assert torch.equal(wide[:, ::2], mask.float())
    assert torch.equal(wide[:, 1::2], torch.ones(4, 3))
