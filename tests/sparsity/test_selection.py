"""Thresholds of very many numbers, with small blocks and samples, against a sort of all of them."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunetune.sparsity import selection
from prunetune.sparsity.allocation import globally
from prunetune.sparsity.criteria import Magnitude
from prunetune.sparsity.mask import keep_top
from prunetune.sparsity.prune import choose
from prunetune.sparsity.selection import Threshold, largest, largest_of_all, threshold

FLOATS = st.floats(-4, 4, width=16) | st.sampled_from([0.0, -0.0, -torch.inf, torch.inf])
COMMON, RARE = st.sampled_from([0.0, 1.0]), st.sampled_from([-3.0, 0.5, 2.0])


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few dozen numbers are narrowed down in several rounds, with samples that mislead now and then."""
    for name, value in {"FEW": 3, "FEW_OF": 1000, "_BLOCK": 7, "_SAMPLE": 5, "_MARGIN": 1}.items():
        monkeypatch.setattr(selection, name, value)


def by_sorting(parts: Sequence[Sequence[float]], k: int) -> list[list[bool]]:
    """The k largest, ties by (part, index)."""
    places = [(-value, part, index) for part, values in enumerate(parts) for index, value in enumerate(values)]
    chosen = {(part, index) for _, part, index in sorted(places)[:k]}
    return [[(part, index) in chosen for index in range(len(values))] for part, values in enumerate(parts)]


@given(
    parts=st.lists(
        st.lists(FLOATS | COMMON, max_size=40) | st.lists(COMMON | RARE, max_size=40), min_size=1, max_size=4
    ),
    share=st.floats(0, 1),
)
def test_the_largest_of_several_tensors_against_sorting(parts: list[list[float]], share: float) -> None:
    k = round(share * sum(map(len, parts)))
    chosen = largest_of_all([torch.tensor(values) for values in parts], k)
    assert [kept.tolist() for kept in chosen] == by_sorting(parts, k)


@pytest.mark.parametrize("order", ["as drawn", "sorted", "periodic"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_every_rank_of_any_order_and_type(order: str, dtype: torch.dtype) -> None:
    numbers = (100 * torch.rand(12, 17, generator=torch.Generator().manual_seed(0))).to(dtype)
    if order == "sorted":
        numbers = numbers.flatten().sort().values.reshape(12, 17)
    if order == "periodic":  # a sample at equal distances sees one value alone
        numbers = torch.arange(204).remainder(5).to(dtype).reshape(12, 17)
    for view in (numbers, numbers.t()):
        values = sorted(view.flatten().tolist(), reverse=True)
        for k in range(1, 205, 7):
            value, above = threshold([view], k)
            assert (value, above) == (values[k - 1], sum(other > value for other in values))


def test_types_meet_in_one_that_holds_them_all() -> None:
    fine, coarse = torch.tensor([1.001, 2.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.bfloat16)
    assert threshold([coarse, fine], 3) == Threshold(1.001, 2)
    assert [kept.tolist() for kept in largest_of_all([coarse, fine], 3)] == [[False, True], [True, True]]


def test_a_global_mask_is_its_counts_kept_of_every_layer() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randint(-9, 9, (13, 11), generator=generator) / 4 for name in ("b", "c", "a")}
    scores = {name: weight.abs() for name, weight in weights.items()}
    for density in (0.01, 0.3, 0.5, 0.99, 1.0):
        by_counts = keep_top(scores, globally(scores, density))
        assert choose(weights, density, Magnitude(), allocation="global") == by_counts
        assert by_counts.kept == round(density * 3 * 143)


def test_the_source_stays_as_it_is() -> None:
    numbers = torch.rand(50)
    before: Tensor = numbers.clone()
    largest(numbers, 20)
    assert numbers.equal(before)
