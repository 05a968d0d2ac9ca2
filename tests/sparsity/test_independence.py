"""R_p of independent networks against enumeration, exact convolution, and simulation."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from prunetune.sparsity.correlation import LayerCorrelation, WeightCorrelation, correlation, independence, p_above


def layer(n: int, k: int, common: int) -> LayerCorrelation:
    return LayerCorrelation(common / k, k / n, n, k, common)


def of(*layers: LayerCorrelation) -> WeightCorrelation:
    total = sum(row.k for row in layers)
    expected = sum(row.k**2 / row.n for row in layers) / total
    return WeightCorrelation(
        sum(row.common for row in layers) / total, expected, {str(i): row for i, row in enumerate(layers)}
    )


def enumerated(n: int, k: int) -> np.ndarray:
    """P(C = c), c = 0 … k, by going through every set of k of n that the second network may choose."""
    counts = np.zeros(k + 1)
    for chosen in itertools.combinations(range(n), k):
        counts[sum(index < k for index in chosen)] += 1
    return counts / math.comb(n, k)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (9, 3), (10, 5), (8, 8)])
def test_a_layers_p_is_that_of_enumeration(n: int, k: int) -> None:
    chances = enumerated(n, k)
    for common in range(k + 1):
        assert p_above(layer(n, k, common)) == pytest.approx(chances[common:].sum(), abs=1e-12)


def test_a_layer_of_which_nothing_is_compared_shows_nothing() -> None:
    assert p_above(LayerCorrelation(math.nan, math.nan, 3, 0, 0)) == 1.0
    with_it = of(layer(9, 3, 2))
    padded = WeightCorrelation(
        with_it.value, with_it.expected, {**with_it.per_layer, "b": LayerCorrelation(math.nan, 0, 3, 0, 0)}
    )
    assert independence(padded) == independence(with_it)


@pytest.mark.parametrize("sizes", [[(9, 3)], [(9, 3), (10, 5), (5, 2)], [(8, 8), (6, 2)]])
def test_mean_and_deviation_are_those_of_the_exact_distribution(sizes: Sequence[tuple[int, int]]) -> None:
    chances = np.ones(1)
    for n, k in sizes:
        chances = np.convolve(chances, enumerated(n, k))
    values = np.arange(len(chances)) / sum(k for _, k in sizes)
    mean = (values * chances).sum()
    found = independence(of(*(layer(n, k, k) for n, k in sizes)))
    assert found.expected == pytest.approx(mean)
    assert found.deviation == pytest.approx(math.sqrt(((values - mean) ** 2 * chances).sum()))


def test_a_layer_that_is_compared_whole_says_nothing() -> None:
    found = independence(of(layer(8, 8, 8), layer(1, 1, 1)))
    assert (found.deviation, found.errors, found.p) == (0.0, 0.0, 1.0)


def test_errors_and_p_of_a_hand_worked_case() -> None:
    # n = 101, k = 20: variance (20 · 81 / 101)² / 100 = 2.5727, deviation 1.6040; 7 in common, 3.9604 expected
    found = independence(of(layer(101, 20, 7)))
    assert found.errors == pytest.approx((7 - 3.960396) / 1.603960, rel=1e-5)
    assert found.p == pytest.approx(0.05807, abs=1e-4)


def test_independent_networks_are_called_distinguishable_about_as_often_as_alpha() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"a": (20, 30), "b": (10, 20), "c": (15, 8)}
    studies = 1000

    def draw() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    found = [independence(correlation(draw(), draw(), 0.2)) for _ in range(studies)]
    rate = sum(row.p < 0.05 for row in found) / studies
    assert abs(rate - 0.05) < 4 * math.sqrt(0.05 * 0.95 / studies)
    errors = np.array([row.errors for row in found])
    assert abs(errors.mean()) < 4 / math.sqrt(studies)
    assert abs(errors.std() - 1) < 4 / math.sqrt(2 * studies)
