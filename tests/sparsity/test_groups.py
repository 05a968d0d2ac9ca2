"""The pattern N:M against every choice of positions, group by group, and what it refuses."""

from itertools import combinations, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.sparsity.criteria import Magnitude
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.patterns import PATTERNS, Groups, require_density
from prunetune.sparsity.prune import choose, compute_mask
from tests.support.refusals import refused


def by_every_choice(score: Tensor, kept: int, size: int) -> Tensor:
    """Of all choices of `kept` positions of a group the one with the largest sum; of equal ones, the earliest."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    outputs, inputs, *kernel = score.shape
    for output in range(outputs):
        places = [(output, channel, *at) for at in product(*map(range, kernel)) for channel in range(inputs)]
        for begin in range(0, len(places), size):
            group = places[begin : begin + size]
            best = max(combinations(group, kept), key=lambda chosen: sum(float(score[place]) for place in chosen))
            for place in best:
                mask[place] = True
    return mask


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["1:2", "2:4", "1:4", "3:4", "2:6", "5:8"]),
    shape=st.sampled_from([(3, 24), (2, 24, 1, 1), (1, 8, 3, 1), (2, 6, 2, 2), (1, 3, 2, 4), (2, 12, 2)]),
    seed=st.integers(0, 1000),
)
def test_against_every_choice_in_every_group(name: str, shape: tuple[int, ...], seed: int) -> None:
    kept, size = map(int, name.split(":"))
    score = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(seed)).float()  # with ties
    mask = PATTERNS[name]({"w": score}, {"w": score.numel() * kept // size})
    assert torch.equal(mask["w"], by_every_choice(score, kept, size))


def test_a_group_is_channels_at_one_place_of_the_kernel() -> None:
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :, 0, 0] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    weight[0, :, 0, 1] = torch.tensor([0.1, 0.4, 0.2, 0.3])
    kept = choose({"w": weight}, 0.5, Magnitude(), pattern="2:4")["w"]
    assert kept[0, :, 0, 0].tolist() == [True, False, True, False]
    assert kept[0, :, 0, 1].tolist() == [False, True, False, True]


def test_a_model_is_pruned_by_name() -> None:
    model = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 4))
    mask = compute_mask(model, 0.75, pattern="1:4")
    for kept in mask.values():
        assert (kept.reshape(-1, 4).sum(1) == 1).all()


def test_any_n_below_m_is_a_name_and_nothing_else() -> None:
    assert PATTERNS["3:16"] == Groups(3, 16)
    assert "7:8" in PATTERNS
    assert {"unstructured", "2:4", "1:4"} <= set(PATTERNS)
    for name in ("4:2", "4:4", "0:4", "02:4", "2:4 ", "2:4:8", ":4", "a:b", "2:99999", "٢:٤"):
        assert name not in PATTERNS
        with refused("pattern", "unknown"):
            PATTERNS[name]


TWO = {"w": torch.rand(4, 8)}


@pytest.mark.parametrize(
    ("weights", "density", "rule", "line"),
    [
        (TWO, 0.3, {}, "pattern: '2:4' at sparsity 0.7; its only sparsity is 0.5"),
        (TWO, 0.5, {"allocation": "erk"}, "allocation: 'erk' has no say under pattern '2:4'; it must be 'uniform'"),
        (TWO, 0.5, {"allocation": "global"}, "allocation: 'global' has no say under pattern '2:4'"),
        (
            TWO,
            0.5,
            {"allocation": lambda scores, density: {"w": 15}},
            "pattern: '2:4' keeps 2 of every 4, and 15 of the 32 weights of 'w' were asked for",
        ),
        (
            {"fc": torch.rand(4, 6)},
            0.5,
            {},
            "pattern: '2:4' needs inputs in groups of 4; 'fc' has 6: leave it out with scope.exclude",
        ),
        (
            {"fc": torch.rand(2, 6), "ok": torch.rand(2, 8), "dw": torch.rand(8, 1, 3, 3)},
            0.5,
            {},
            "pattern: '2:4' needs inputs in groups of 4; 'dw' has 9, 'fc' has 6: leave them out with scope.exclude",
        ),
        ({"dw": torch.rand(8, 1, 3, 3)}, 0.5, {}, "pattern: '2:4' needs inputs in groups of 4; 'dw' has 9"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    weights: dict[str, Tensor], density: float, rule: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(weights, density, Magnitude(), pattern="2:4", **rule)
    assert str(caught.value).startswith(line)


def test_survivors_are_needed_in_every_group() -> None:
    within = Mask({"w": torch.tensor([[True, True, True, True, True, False, False, False]])})
    with refused("pattern", "2:4", "'w'", "survive"):
        choose({"w": torch.rand(1, 8)}, 0.5, Magnitude(), pattern="2:4", parent_mask=within)
    enough = Mask({"w": torch.tensor([[False, True, True, True, True, False, False, True]])})
    kept = choose({"w": torch.arange(8.0).flip(0)[None] + 1}, 0.5, Magnitude(), pattern="2:4", parent_mask=enough)
    assert kept["w"].tolist() == [[False, True, True, False, True, False, False, True]]


@pytest.mark.parametrize("density", [0.333333333, 0.333333333333, 1 / 3])
def test_a_third_may_be_written_in_decimals(density: float) -> None:
    require_density("1:3", "uniform", density)
    assert choose({"w": torch.rand(300, 300)}, density, Magnitude(), pattern="1:3").kept == 30_000
    with refused("pattern", "0.667", "0.666666667", "sparsity"):
        require_density("1:3", "uniform", 0.333)
