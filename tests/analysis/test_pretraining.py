import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
from scipy import stats

from prunetune.analysis.pretraining import Check, Pretraining, label
from prunetune.analysis.verdict import Verdict, judge
from prunetune.report.answer import answers
from prunetune.report.results_files import read_results
from prunetune.report.write_report import render_again
from prunetune.rows import Correlation, Missing, Trial
from tests.support.verdict_trials import LEVEL, one, overlap, planted, said, spread, study, trial

STUDIES = Path(__file__).parents[2] / "studies"


# With five seeds, spread(m, .3) has bounds m -+ .2262 (verdict_trials.py). Rate 0.1 is the better one.
def two_rates(difference: float, width: float = 0.3) -> list[Trial]:
    low = [LEVEL + 0.3 * seed + value for seed, value in enumerate(spread(difference, width))]
    cells = {0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}
    return [*study(*cells, rate=0.01, dense=low), *study(*cells, rate=0.1)]


def longer(trials: list[Trial], gain: float, rate: float, width: float = 0.3) -> list[Trial]:
    """A longer dense training beside each dense one of a rate, better by `gain`."""
    dense = sorted((row for row in trials if (row.arm, row.learning_rate) == ("dense", rate)), key=lambda row: row.seed)
    return [
        dataclasses.replace(row, key=f"longer{row.key}", arm="dense_longer", epochs=12, test_accuracy=accuracy + by)
        for row, by in zip(dense, spread(gain, width), strict=True)
        if (accuracy := row.test_accuracy) is not None
    ]


def excesses(mean: float, rate: float, width: float = 0.01) -> list[Correlation]:
    return [overlap(rate, 0.2 + value, seed=seed) for seed, value in enumerate(spread(mean, width))]


def dense_of(verdict: Verdict) -> Pretraining:
    assert verdict.dense is not None
    return verdict.dense


def check(verdict: Verdict, name: str) -> Check:
    [found] = [check for check in dense_of(verdict).checks if check.name == name]
    return found


# the answer: what each check is to be planted with, bounds -+ .2262 of points and -+ .0075 of shares
NOT_WORSE = {"yes": -0.1, "undecided": -0.5, "no": -0.75}
GAIN = {"yes": 0.1, "undecided": 0.5, "no": 0.75, "not asked": None}
EXCESS = {"yes": 0.03, "undecided": 0.05, "no": 0.31}
EXPECTED = {  # not worse, converged, forgotten -> label, worked out by hand; what is not here is inconclusive
    ("yes", "yes", "yes"): "sufficient",
    ("yes", "yes", "no"): "converged, still correlated",
    **{("no", b, c): "insufficient" for b in GAIN for c in EXCESS},
    **{(a, "no", c): "insufficient" for a in NOT_WORSE for c in EXCESS},
    **{("yes", "not asked", c): "best of those tried" for c in EXCESS},
}
ANSWERS = list(itertools.product(NOT_WORSE, GAIN, EXCESS))


@pytest.mark.parametrize("given", ANSWERS, ids="/".join)
def test_every_label_from_planted_trainings(given: tuple[str, str, str]) -> None:
    not_worse, converged, forgotten = given
    trials, gain = two_rates(NOT_WORSE[not_worse]), GAIN[converged]
    more = [] if gain is None else [*longer(trials, gain, 0.01), *longer(trials, 0.0, 0.1)]
    low, _ = judge([*trials, *more], correlations=excesses(EXCESS[forgotten], 0.01))
    assert tuple(check.answer for check in dense_of(low).checks) == given
    assert low.pretraining == dense_of(low).answer == EXPECTED.get(given, "inconclusive") == label(*given)


def test_nothing_but_what_is_shown_is_claimed() -> None:
    """Sufficient needs three times yes: no answer that is undecided or was not asked is ever one."""
    assert [given for given in ANSWERS if label(*given) == "sufficient"] == [("yes", "yes", "yes")]
    assert {label(*given) for given in ANSWERS if given[1] == "not asked"} == {
        "best of those tried",
        "inconclusive",
        "insufficient",
    }


def test_two_bad_rates_are_not_sufficient() -> None:
    """20 and 30 %: the better of the two is the best of those tried, and nothing more."""
    cells = {0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}
    low, high = (
        study(*cells, rate=rate, dense=[level + 0.1 * s for s in range(5)]) for rate, level in ((0.01, 20), (0.1, 30))
    )
    verdicts = judge([*low, *high], correlations=[*excesses(0.4, 0.01), *excesses(0.3, 0.1)])
    assert [verdict.pretraining for verdict in verdicts] == ["insufficient", "best of those tried"]


def test_the_figures_of_each_check() -> None:
    trials = two_rates(-0.1)
    low, high = judge([*trials, *longer(trials, 0.4, 0.01)], correlations=excesses(0.31, 0.01))
    planted_by_hand = {
        "not worse than the best rate tried": (-0.5, spread(-0.1, 0.3)),
        "converged": (0.5, spread(0.4, 0.3)),
        "forgotten": (0.05, spread(0.31, 0.01)),
    }
    for name, (limit, values) in planted_by_hand.items():
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        found = check(low, name)
        assert (found.n, found.limit) == (5, limit)
        assert (found.mean, found.low, found.high) == pytest.approx((sum(values) / 5, interval.low, interval.high))
    assert dense_of(low).best == 0.1
    assert dense_of(high).comparison is None
    best = check(high, "not worse than the best rate tried")
    assert (best.answer, best.n, best.mean) == ("yes", 0, None)
    assert "after 12 epochs, compared with that after 6: +0.40 points (bounds +0.17 and +0.63, 5 seeds)" in said(low)
    assert "R_0.2 of the weights before and after dense training, less chance: +0.310 (bounds" in said(low)


def test_one_rate_has_nothing_to_be_compared_with_and_may_yet_not_have_converged() -> None:
    trials = planted({0.75: ("yes", "yes")})
    verdict = one(trials)
    assert verdict.pretraining == "inconclusive"
    assert "Only one learning rate was tried" in said(verdict)
    assert one([*trials, *longer(trials, 0.0, 0.1)], correlations=excesses(0, 0.1)).pretraining == "inconclusive"
    assert one([*trials, *longer(trials, 2.0, 0.1)]).pretraining == "insufficient"


def test_one_seed_decides_nothing() -> None:
    trials = [trial("dense", 0, 90.0, rate=rate) for rate in (0.01, 0.1)]
    trials += [trial("ticket", 0, 90.0, 0.75, rate) for rate in (0.01, 0.1)]
    more = [dataclasses.replace(row, arm="dense_longer", test_accuracy=99.0) for row in trials if row.arm == "dense"]
    for verdict in judge([*trials, *more], correlations=[overlap(0.01, 0.9), overlap(0.1, 0.2)]):
        assert verdict.pretraining == "inconclusive"
        assert {check.answer for check in dense_of(verdict).checks} == {"undecided"}


def test_a_dense_network_that_diverges_is_named_and_not_sufficient() -> None:
    trials = two_rates(-0.1)
    hurt = [
        dataclasses.replace(row, diverged=True) if (row.arm, row.learning_rate, row.seed) == ("dense", 0.01, 2) else row
        for row in trials
    ]
    low, high = judge(hurt)
    assert (low.pretraining, high.pretraining) == ("inconclusive", "best of those tried")
    assert "dense at learning rate 0.01 diverged in seed 2" in said(low)
    best_hurt = [
        dataclasses.replace(row, diverged=True) if (row.arm, row.learning_rate, row.seed) == ("dense", 0.1, 2) else row
        for row in trials
    ]
    # A rate that diverged for one seed is not the best while another did not.
    assert {verdict.dense.best for verdict in judge(best_hurt) if verdict.dense} == {0.01}


@pytest.mark.parametrize("arm", ["dense", "dense_longer"])
@pytest.mark.parametrize(("gain", "without", "answer"), [(0.0, "yes", "undecided"), (2.0, "no", "no")])
def test_convergence_is_not_shown_over_a_run_that_diverged(arm: str, gain: float, without: str, answer: str) -> None:
    trials = two_rates(-0.1)
    trials += [*longer(trials, gain, 0.1)]
    hurt = [
        dataclasses.replace(row, diverged=True) if (row.arm, row.learning_rate, row.seed) == (arm, 0.1, 2) else row
        for row in trials
    ]
    whole, found = (next(v for v in judge(rows) if v.learning_rate == 0.1) for rows in (trials, hurt))
    assert (check(whole, "converged").answer, check(found, "converged").answer) == (without, answer)
    assert check(found, "converged").n == 4 or arm == "dense"  # where dense diverged 0.1 may no longer be the best
    assert f"{arm} at learning rate 0.1 diverged in seed 2" in said(found)


def test_a_longer_run_that_failed_leaves_convergence_open() -> None:
    trials = two_rates(-0.1)
    gone = [Missing("dense_longer", None, 0.1, 0.0, seed, "failed: disk full", True) for seed in range(5)]
    high = judge(trials, missing=gone)[1]
    assert (high.pretraining, check(high, "converged").answer) == ("inconclusive", "undecided")


def test_a_rate_that_never_left_chance_is_insufficient_and_two_are_undecided() -> None:
    stuck = study({0.75: spread(0, 0.3)}, {0.75: spread(0, 0.3)}, rate=1e-6, dense=[10.0, 10.1, 9.9, 10.0, 10.2])
    fine = study({0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}, rate=0.1)
    labels = [verdict.pretraining for verdict in judge([*stuck, *fine], outputs=10)]
    assert labels == ["insufficient", "best of those tried"]
    other = [dataclasses.replace(row, learning_rate=1e-5) for row in stuck]
    verdicts = judge([*stuck, *other], outputs=10)
    assert {verdict.pretraining for verdict in verdicts} == {"inconclusive"}
    assert "no better than guessing" in said(verdicts[0])


@pytest.mark.parametrize(("value", "words"), [(0.51, "still depends"), (0.2, "as if"), (0.1, "less often large")])
def test_what_the_weight_correlation_says_beside_it(value: float, words: str) -> None:
    rows = [overlap(rate, value, seed=seed) for rate in (0.01, 0.1) for seed in range(5)]
    text = said(judge(two_rates(-0.1), correlations=rows)[0])
    assert f"{100 * value:.0f} % are among the largest after it (R_p; by chance 20 %)" in text
    assert [phrase in text for phrase in ("still depends", "as if", "less often large")].count(True) == 1
    assert words in text


def test_what_is_undecided_about_the_correlation_is_not_told() -> None:
    text = said(judge(two_rates(-0.1), correlations=excesses(0.05, 0.01))[0])
    assert "25 % are among the largest after it (R_p; by chance 20 %)." in text


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
    assert (low.pretraining, high.pretraining) == ("best of those tried", "best of those tried")
    assert high.dense is not None
    assert high.dense.comparison is not None
    assert high.dense.comparison.mean == pytest.approx(0.75)  # of the test accuracies


# --- files of before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in STUDIES.glob("*/results.json")))
def test_every_study_of_this_repository_is_judged_by_the_new_rule(folder: str) -> None:
    verdicts = answers(read_results(STUDIES / folder / "results.json")).verdicts
    assert verdicts
    for verdict in verdicts:
        assert verdict.pretraining in ("best of those tried", "insufficient", "inconclusive")
        assert check(verdict, "converged").answer == "not asked"


def test_a_file_of_version_1_is_rendered_as_one_of_version_2(tmp_path: Path) -> None:
    shutil.copy(STUDIES / "cifar10" / "results.json", tmp_path)
    before = json.loads((tmp_path / "results.json").read_text())
    before["schema_version"] = 1
    before.pop("pretraining", None)
    (tmp_path / "results.json").write_text(json.dumps(before))
    report = render_again(tmp_path)
    after = json.loads((tmp_path / "results.json").read_text())
    assert after["schema_version"] == 2
    scored = [row | {"score": row["test_accuracy"], "validation_score": None} for row in before["trials"]]
    assert after["trials"] == scored
    assert [row["check"] for row in after["pretraining"]] == [
        check.name for rate in sorted({v.learning_rate for v in report.verdicts}) for check in _checks(report, rate)
    ]
    assert report.page.is_file()


def _checks(report: object, rate: float) -> tuple[Check, ...]:
    return next(dense_of(v).checks for v in report.verdicts if v.learning_rate == rate)  # type: ignore[attr-defined]
