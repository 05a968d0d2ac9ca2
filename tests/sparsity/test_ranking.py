"""The k largest with ties to the lower index, against an obvious sort by (-score, index)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunetune.sparsity.selection import largest


def by_sorting(scores: Tensor, k: int) -> list[bool]:
    values = scores.flatten().tolist()
    chosen = set(sorted(range(len(values)), key=lambda index: (-values[index], index))[:k])
    return [index in chosen for index in range(len(values))]


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        ([1.0, 2.0, 3.0], 1, [0, 0, 1]),
        ([5.0, 5.0, 5.0, 5.0], 2, [1, 1, 0, 0]),
        ([1.0, 7.0, 1.0, 7.0, 1.0], 3, [1, 1, 0, 1, 0]),
        ([0.0, -0.0, 0.0], 2, [1, 1, 0]),
        ([-torch.inf, 3.0, -torch.inf, torch.inf], 3, [1, 1, 0, 1]),
        ([2.0, 1.0], 0, [0, 0]),
        ([2.0, 1.0], 2, [1, 1]),
    ],
)
def test_worked_by_hand(scores: list[float], k: int, expected: list[int]) -> None:
    assert largest(torch.tensor(scores), k).int().tolist() == expected


@given(values=st.lists(st.integers(-2, 3), min_size=1, max_size=40), data=st.data())
def test_many_ties_against_sorting(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    assert largest(scores, k).tolist() == by_sorting(scores, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_every_type_and_any_strides(dtype: torch.dtype) -> None:
    scores = torch.randint(-9, 9, (7, 11), generator=torch.Generator().manual_seed(0)).to(dtype)
    for view in (scores, scores.t(), scores[::2, 1::3]):
        chosen = largest(view, view.numel() // 3)
        assert chosen.shape == view.shape
        assert chosen.flatten().tolist() == by_sorting(view, view.numel() // 3)


def test_an_empty_tensor_has_nothing_to_choose() -> None:
    assert largest(torch.empty(0, 3), 0).shape == (0, 3)
