"""The allocation by measured losses: against every combination of the sparsities, and against the hulls' slopes."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from prunetune.sparsity.allocation import LayerLosses
from tests.support.refusals import refused

LEVELS = (0.3, 0.5, 0.7, 0.9)
LOSSES: dict[str, list[float | None]] = {
    "a": [0.5, 1.0, 4.0, 30.0],
    "b": [0.1, 0.3, 0.4, 2.0],
    "c": [2.0, 8.0, 20.0, 60.0],
}
SIZES = {"a": 1000, "b": 500, "c": 250}


def loss_at(name: str, share: float) -> float:
    """What a layer loses, straight between the sparsities at which it was measured."""
    return float(np.interp(1 - share, [0.0, *LEVELS], [0.0, *LOSSES[name]]))  # type: ignore[list-item]


def test_no_combination_of_measured_sparsities_loses_less() -> None:
    found = LayerLosses(LEVELS, LOSSES)
    total = sum(SIZES.values())
    for places in itertools.product((0.0, *LEVELS), repeat=3):
        kept = dict(zip(SIZES, (1 - s for s in places), strict=True))
        density = sum(kept[name] * size for name, size in SIZES.items()) / total
        shares = found.shares(SIZES, density)
        assert sum(shares[name] * size for name, size in SIZES.items()) == pytest.approx(density * total)
        assert sum(loss_at(n, shares[n]) for n in SIZES) <= sum(loss_at(n, kept[n]) for n in SIZES) + 0.1


def test_shares_follow_the_slopes_of_the_hulls() -> None:
    """The cheapest weights go first: those of the segment of a layer's convex hull with the lowest loss per weight."""
    segments = []
    for name, size in SIZES.items():
        points = list(zip((0.0, *LEVELS), (0.0, *LOSSES[name]), strict=True))
        at: Any = points[0]
        while at[0] < LEVELS[-1]:
            following = min((p for p in points if p[0] > at[0]), key=lambda p: ((p[1] - at[1]) / (p[0] - at[0]), -p[0]))
            segments.append(
                ((following[1] - at[1]) / ((following[0] - at[0]) * size), name, (following[0] - at[0]) * size)
            )
            at = following
    for density in (0.95, 0.8, 0.62, 0.4, 0.2, 0.1):
        left, kept = (1 - density) * sum(SIZES.values()), {name: float(size) for name, size in SIZES.items()}
        for _, name, weights in sorted(segments):
            taken = min(left, weights)
            kept[name], left = kept[name] - taken, left - taken
        expected = {name: kept[name] / size for name, size in SIZES.items()}
        assert LayerLosses(LEVELS, LOSSES).shares(SIZES, density) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_layer_keeps_more_at_a_smaller_density(seed: int) -> None:
    """As nested masks need: also where layers lose alike, gain, or score nothing finite."""
    generator = np.random.default_rng(seed)
    losses: dict[str, list[float | None]] = {
        str(i): [round(float(x), 1) for x in generator.normal(1, 1, 4).cumsum()] for i in range(6)
    }
    losses["flat"] = losses["flat too"] = [0.0, 0.0, 0.0, None]
    sizes = {name: int(generator.integers(10, 500)) for name in losses} | {"flat": 80, "flat too": 80}
    found, before = LayerLosses(LEVELS, losses), dict.fromkeys(sizes, 1.0)
    for density in np.linspace(1.0, 0.1, 31):
        shares = found.shares(sizes, round(float(density), 12))
        assert all(shares[name] <= before[name] + 1e-6 for name in sizes), density
        before = shares


def test_layers_that_lose_nothing_share_evenly() -> None:
    found = LayerLosses(LEVELS, {name: [0.0] * 4 for name in SIZES}).shares(SIZES, 0.5)
    assert found == pytest.approx(dict.fromkeys(SIZES, 0.5), abs=1e-6)


def test_counts_are_rounded_shares() -> None:
    scores = {name: torch.rand(size) for name, size in SIZES.items()}
    found = LayerLosses(LEVELS, LOSSES)
    assert found.counts(scores, 0.37) == {n: round(s * SIZES[n]) for n, s in found.shares(SIZES, 0.37).items()}


def test_a_density_beyond_what_was_measured_is_refused() -> None:
    with refused("density", "0.05", "sensitivity", "0.9"):
        LayerLosses(LEVELS, LOSSES).shares(SIZES, 0.05)
