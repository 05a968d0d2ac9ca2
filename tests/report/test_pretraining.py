import dataclasses
import math

import pytest
from scipy import stats
from verdict_trials import LEVEL, one, overlap, planted, said, spread, study, substance

from prunetune.analysis.verdict import judge
from prunetune.study.results import Trial


# Pre-training: dense accuracy at 0.01 minus that at 0.1, whose five-seed bounds are the mean -+ 0.2262.
def two_rates(difference: float, width: float = 0.3) -> list[Trial]:
    low = [LEVEL + 0.3 * seed + value for seed, value in enumerate(spread(difference, width))]
    cells = {0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}
    return [*study(*cells, rate=0.01, dense=low), *study(*cells, rate=0.1)]


@pytest.mark.parametrize(
    ("difference", "expected"), [(-0.1, "sufficient"), (-0.5, "inconclusive"), (-0.75, "insufficient")]
)
def test_every_answer_about_pretraining(difference: float, expected: str) -> None:
    low, high = judge(two_rates(difference))
    assert (low.pretraining, high.pretraining) == (expected, "sufficient")
    assert low.dense is not None
    assert low.dense.comparison is not None
    interval = stats.ttest_1samp(spread(difference, 0.3), 0).confidence_interval(0.9)
    found = low.dense.comparison
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert low.dense.best == 0.1


def test_one_rate_has_nothing_to_be_compared_with() -> None:
    verdict = one(planted({0.75: ("yes", "yes")}))
    assert verdict.pretraining == "inconclusive"
    assert "Only one learning rate was tried" in said(verdict)


def test_a_dense_network_that_diverges_is_named_and_not_sufficient() -> None:
    trials = two_rates(-0.1)
    hurt = [
        dataclasses.replace(row, diverged=True) if (row.arm, row.learning_rate, row.seed) == ("dense", 0.01, 2) else row
        for row in trials
    ]
    low, high = judge(hurt)
    assert (low.pretraining, high.pretraining) == ("inconclusive", "sufficient")
    assert "dense at learning rate 0.01 diverged in seed 2" in said(low)
    best_hurt = [
        dataclasses.replace(row, diverged=True) if (row.arm, row.learning_rate, row.seed) == ("dense", 0.1, 2) else row
        for row in trials
    ]
    # A rate that diverged for one seed is not the best while another did not.
    assert {verdict.dense.best for verdict in judge(best_hurt) if verdict.dense} == {0.01}


def test_a_rate_that_never_left_chance_is_insufficient_and_two_are_undecided() -> None:
    stuck = study({0.75: spread(0, 0.3)}, {0.75: spread(0, 0.3)}, rate=1e-6, dense=[10.0, 10.1, 9.9, 10.0, 10.2])
    fine = study({0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}, rate=0.1)
    assert [verdict.pretraining for verdict in judge([*stuck, *fine], outputs=10)] == ["insufficient", "sufficient"]
    other = [dataclasses.replace(row, learning_rate=1e-5) for row in stuck]
    verdicts = judge([*stuck, *other], outputs=10)
    assert {verdict.pretraining for verdict in verdicts} == {"inconclusive"}
    assert "no better than guessing" in said(verdicts[0])


@pytest.mark.parametrize("value", [0.51, 0.2, 0.1])
@pytest.mark.parametrize("difference", [-0.1, -0.5, -0.75])
def test_the_weight_correlation_explains_and_never_decides(difference: float, value: float) -> None:
    rows = [overlap(rate, value, seed=seed) for rate in (0.01, 0.1) for seed in range(5)]
    trials = two_rates(difference)
    with_rows, without = judge(trials, correlations=rows), judge(trials)
    assert [substance(verdict) for verdict in with_rows] == [substance(verdict) for verdict in without]
    text = said(with_rows[0])
    assert f"{100 * value:.0f} % are among the largest after it (R_p; by chance 20 %)" in text
    assert ("moved many weights little" in text) == (value == 0.51)
    assert ("hardly depends on the initial weights" in text) == (value == 0.2)
    assert ("less often large" in text) == (value == 0.1)


def test_overlaps_are_means_over_seeds_by_p_without_broken_ones() -> None:
    rows = [overlap(0.1, value, seed=seed) for seed, value in enumerate((0.4, 0.6, math.nan))]
    rows += [
        overlap(0.1, 0.7, 0.5),
        overlap(0.01, 0.9),
        dataclasses.replace(overlap(0.1, 0.0), pair="finetune_T/theta_T"),
    ]
    before = one(planted({0.75: ("yes", "yes")}), correlations=rows).dense
    assert before is not None
    assert [(row.p, row.value, row.expected) for row in before.overlaps] == [(0.2, 0.5, 0.2), (0.5, 0.7, 0.5)]
    assert before.overlaps[0].excess == pytest.approx(0.3)


def test_held_out_images_choose_the_best_rate_and_test_images_compare_with_it() -> None:
    """0.1 is better on the test images, 0.01 on the held-out ones: 0.01 is the best, and is no longer judged."""
    held_out = {0.01: 99.0, 0.1: 98.0}
    rows = [dataclasses.replace(row, validation_accuracy=held_out[row.learning_rate]) for row in two_rates(-0.75)]
    low, high = judge(rows)
    assert {verdict.dense.best for verdict in (low, high) if verdict.dense} == {0.01}
    assert (low.pretraining, high.pretraining) == ("sufficient", "sufficient")
    assert high.dense is not None
    assert high.dense.comparison is not None
    assert high.dense.comparison.mean == pytest.approx(0.75)  # of the test accuracies
