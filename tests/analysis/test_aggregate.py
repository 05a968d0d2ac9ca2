import numpy as np
import pytest

from prunetune.analysis.across_studies import arm_scores, improvements, interquartile_mean, probability
from prunetune.analysis.regimes import Regime
from tests.support.regime_makers import regime


def with_arms(number: int, **arms: list[float]) -> Regime:
    from dataclasses import replace

    row = regime(number, 0.1, 0.0, wobble=(0.0, 0.0, 0.0, 0.0), dense=80.0)
    level = dict.fromkeys(range(4), 80.0)
    return replace(row, dense=level, arms={arm: dict(enumerate(values)) for arm, values in arms.items()})


def slow_probability(ones: list[float], twos: list[float]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a in ones for b in twos) / (len(ones) * len(twos))


def test_a_probability_of_improvement_counts_pairs() -> None:
    ones, twos = [1.0, 2.0, 2.0, 5.0], [2.0, 0.0, 3.0]
    assert probability(np.array(ones), np.array(twos)) == pytest.approx(slow_probability(ones, twos))


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0, 4.0, -50.0, 100.0, 5.0])) == pytest.approx(3.5)


def test_scores_are_over_the_dense_run_and_all_regimes() -> None:
    rows = [with_arms(0, ticket=[81, 82, 83, 84], reinit=[80, 80, 80, 80]), with_arms(1, ticket=[79, 80, 81, 82])]
    by_arm = {row.arm: row for row in arm_scores(rows, 0.05, 200)}
    assert by_arm["ticket"].iqm == pytest.approx(1.5)  # of -1, 0, 1, 1, 2, 2, 3, 4
    assert (by_arm["ticket"].regimes, by_arm["reinit"].regimes) == (2, 1)
    assert by_arm["reinit"].iqm == by_arm["reinit"].low == by_arm["reinit"].high == 0.0
    low, high = by_arm["ticket"].low, by_arm["ticket"].high
    assert low is not None
    assert high is not None
    assert low < 1.5 < high
    [row] = improvements(rows, ["reinit"], 0.05, 200)
    assert (row.first, row.regimes, row.probability) == ("ticket", 1, 1.0)
