"""Weighted ranks and correlations against scipy on the sample written out, and against plain loops."""

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.relations import (
    constant,
    interval,
    partial_correlation,
    partial_slope,
    residuals,
    weighted_ranks,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def slow_ranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def test_unweighted_ranks_are_those_of_a_slow_count(random: np.random.Generator) -> None:
    values = random.integers(0, 4, size=(5, 9)).astype(float)  # with ties
    found = weighted_ranks(values, np.ones_like(values))
    assert found.tolist() == [slow_ranks(row) for row in values.tolist()]


def test_a_weighted_spearman_is_scipys_on_the_sample_written_out(random: np.random.Generator) -> None:
    x, y = random.integers(0, 5, size=(2, 12)).astype(float)
    weights = random.integers(0, 4, size=12).astype(float)
    first, second = (weighted_ranks(values[None], weights[None]) for values in (x, y))
    [found] = partial_correlation(first, second, constant(1, 12), weights[None])
    times = weights.astype(int)
    assert found == pytest.approx(stats.spearmanr(np.repeat(x, times), np.repeat(y, times))[0])


def test_a_partial_correlation_is_of_what_least_squares_leaves(random: np.random.Generator) -> None:
    x, y, z = random.normal(size=(3, 30))
    design = np.stack([np.ones(30), z], axis=1)
    left = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (x + z, y + x + z)]
    [found] = partial_correlation((x + z)[None], (y + x + z)[None], design[None], np.ones((1, 30)))
    assert found == pytest.approx(np.corrcoef(*left)[0, 1])
    assert residuals((x + z)[None], design[None], np.ones((1, 30)))[0] == pytest.approx(left[0])


def test_a_partial_slope_is_the_coefficient_of_least_squares(random: np.random.Generator) -> None:
    x, y, z = random.normal(size=(3, 25))
    design = np.stack([x, np.ones(25), z], axis=1)
    [found] = partial_slope(x[None], y[None], design[None, :, 1:], np.ones((1, 25)))
    assert found == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][0])


def test_what_the_covariates_determine_has_no_correlation() -> None:
    x = np.arange(6.0)
    design = np.stack([np.ones(6), 2 * x + 1], axis=1)[None]
    y = np.array([[3.0, 1.0, 2.0, 5.0, 4.0, 0.0]])
    assert np.isnan(partial_correlation(x[None], y, design, np.ones((1, 6)))).all()
    assert np.isnan(partial_slope(x[None], y, design, np.ones((1, 6)))).all()
    assert np.isnan(partial_correlation(np.full((1, 6), 0.1), y, constant(1, 6), np.ones((1, 6)))).all()


def test_an_interval_is_of_percentiles_and_needs_nearly_all_values() -> None:
    assert interval(np.arange(101.0), 0.1) == pytest.approx((5.0, 95.0))
    assert interval(np.array([1.0, np.nan, 2.0, 3.0]), 0.05) == (None, None)
