"""The shuffle control: what it must move, and what it must leave alone."""

import pytest
import torch
from torch import Tensor

from prunetune.sparsity.mask import Mask
from prunetune.steps.transforms import TRANSFORMS, shuffle


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(20, 30, generator=generator),
        "b.weight": torch.randn(4, 5, 3, 3, generator=generator),
        "a.bias": torch.randn(20, generator=generator),
        "norm.running_mean": torch.randn(4, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
    }


@pytest.fixture
def mask(state: dict[str, Tensor]) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask({n: torch.rand(state[n].shape, generator=generator) < 0.6 for n in ("a.weight", "b.weight")})


def shuffled(state: dict[str, Tensor], mask: Mask, seed: int = 3) -> dict[str, Tensor]:
    return TRANSFORMS["shuffle"](state, mask, torch.Generator().manual_seed(seed))


def test_survivors_are_permuted_within_their_layer(state: dict[str, Tensor], mask: Mask):
    new = shuffled(state, mask)
    for name, kept in mask.items():
        before, after = state[name][kept], new[name][kept]
        assert torch.equal(before.sort().values, after.sort().values)
        moved = (before != after).double().mean()
        assert moved > 0.9  # a permutation of n leaves one in place on average


def test_all_else_stays_to_the_bit(state: dict[str, Tensor], mask: Mask):
    new = shuffled(state, mask)
    assert list(new) == list(state)
    for name, tensor in state.items():
        untouched = ~mask[name] if name in mask else torch.ones_like(tensor, dtype=torch.bool)
        assert torch.equal(new[name][untouched], tensor[untouched])
        assert new[name].dtype == tensor.dtype


def test_pruned_zeros_stay_where_they_are(state: dict[str, Tensor], mask: Mask):
    new = shuffled(mask.apply(state), mask)
    for name, kept in mask.items():
        assert not new[name][~kept].any()
        assert torch.equal(new[name][kept], shuffled(state, mask)[name][kept])  # masked before or after: the same


def test_the_input_is_neither_changed_nor_aliased(state: dict[str, Tensor], mask: Mask):
    before = {name: tensor.clone() for name, tensor in state.items()}
    new = shuffled(state, mask)
    for tensor in new.values():
        tensor.zero_()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_the_seed_decides_and_the_order_of_the_names_does_not(state: dict[str, Tensor], mask: Mask):
    again = shuffled(dict(reversed(state.items())), Mask(dict(reversed(list(mask.items())))))
    first = shuffled(state, mask)
    assert all(torch.equal(first[name], again[name]) for name in state)
    other = shuffled(state, mask, seed=4)
    assert not torch.equal(first["a.weight"], other["a.weight"])


def test_a_layer_with_one_survivor_or_none_is_left(state: dict[str, Tensor]):
    for survivors in (0, 1):
        kept = torch.zeros(20, 30, dtype=torch.bool)
        kept.view(-1)[:survivors] = True
        new = shuffle(state, Mask({"a.weight": kept}), torch.Generator().manual_seed(0))
        assert torch.equal(new["a.weight"], state["a.weight"])
