"""Non-inferiority of drops: bounds against scipy's own t test, and seeds that more would take."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.noninferiority import Drop, chain_level, interval, seeds_needed

DROPS = (0.1, 0.3, -0.2, 0.25, 0.05)


@pytest.mark.parametrize("level", [0.05, 0.0125, 0.002])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_bound_is_that_of_scipys_one_sided_t_test(n: int, level: float) -> None:
    differences = DROPS[:n]
    high = stats.ttest_1samp(differences, 0.0, alternative="less").confidence_interval(1 - level).high
    found = Drop.of(differences, level)
    assert (found.n, found.mean) == (n, pytest.approx(np.mean(differences)))
    assert found.high == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("max_drop", [0.1, 0.2, 0.3, 0.35, 0.5, 1.0])
def test_a_drop_is_within_where_the_test_against_the_most_rejects(max_drop: float) -> None:
    p: Any = stats.ttest_1samp(DROPS, max_drop, alternative="less")[1]
    for level in (0.05, 0.01):
        assert Drop.of(DROPS, level).within(max_drop) is bool(p <= level)


def test_a_bound_by_hand() -> None:
    """Mean .1, deviation .1, three seeds: .1 + 2.9200 * .1 / sqrt(3), by the table of t with two degrees of freedom."""
    assert Drop.of((0.0, 0.1, 0.2), 0.05).high == pytest.approx(0.1 + 2.91999 * 0.1 / math.sqrt(3), abs=1e-5)


def test_seeds_that_all_agree_show_nothing() -> None:
    found = Drop.of((-1.0, -1.0, -1.0), 0.05)
    assert found.high is None
    assert not found.within(5.0)
    assert seeds_needed((-1.0, -1.0, -1.0), 0.05, 5.0) is None
    assert interval((-1.0, -1.0), 0.05, 3) is None


def test_chains_share_alpha() -> None:
    assert math.fsum([chain_level(0.05, 3)] * 3) == pytest.approx(0.05)


def test_the_interval_of_the_chosen_is_at_its_share_of_alpha() -> None:
    found = interval(DROPS, 0.05, 4)
    expected = stats.t.interval(1 - 0.05 / 4, len(DROPS) - 1, np.mean(DROPS), stats.sem(DROPS))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("max_drop", "level"), [(0.3, 0.05), (0.3, 0.01), (0.2, 0.05)])
def test_seeds_needed_is_the_least_number_with_room_for_an_unlucky_mean(max_drop: float, level: float) -> None:
    needed = seeds_needed(DROPS, level, max_drop)
    mean, deviation = np.mean(DROPS), np.std(DROPS, ddof=1)

    def shown(n: int) -> bool:
        return bool(mean + (0.8416 + stats.t.ppf(1 - level, n - 1)) * deviation / math.sqrt(n) <= max_drop)

    assert needed is not None
    assert needed > len(DROPS)
    assert shown(needed)
    assert not shown(needed - 1)


def test_no_number_of_seeds_helps_a_mean_that_is_not_within() -> None:
    assert seeds_needed(DROPS, 0.05, 0.1) is None
    assert seeds_needed((0.0, 10.0, -9.7), 0.05, 0.2) is None  # more than a hundred


def test_the_examples_add_the_jackknifes_variance() -> None:
    """The two variances of the mean, added, with Satterthwaite's degrees of freedom, written out."""
    left_out = (0.08, 0.11, 0.13, 0.07, 0.1, 0.12)
    n, blocks = len(DROPS), len(left_out)
    seeds = np.var(DROPS, ddof=1) / n
    examples = (blocks - 1) / blocks * np.sum((np.array(left_out) - np.mean(left_out)) ** 2)
    freedom = math.floor((seeds + examples) ** 2 / (seeds**2 / (n - 1) + examples**2 / (blocks - 1)))
    found = Drop.of(DROPS, 0.05, left_out)
    assert found.high == pytest.approx(np.mean(DROPS) + stats.t.ppf(0.95, freedom) * math.sqrt(seeds + examples))
    assert (found.of_seeds, found.of_examples) == pytest.approx((math.sqrt(seeds), math.sqrt(examples)))


def test_of_a_mean_the_jackknife_is_the_usual_variance() -> None:
    """Of examples scored alone: var / m, which a delete-one jackknife of their mean gives exactly."""
    scores = np.random.default_rng(0).normal(0.2, 1.0, 40)
    left_out = [(scores.sum() - one) / 39 for one in scores]
    assert Drop.of(DROPS, 0.05, left_out).of_examples == pytest.approx(math.sqrt(scores.var(ddof=1) / 40))
