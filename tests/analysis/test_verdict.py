import dataclasses
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prunetune.analysis.verdict import Rule, SparsityTest, judge
from prunetune.rows import Trial
from tests.support.verdict_trials import DENSE, REINIT, Differences, one, planted, said, spread, study, substance


@pytest.mark.parametrize("dense", DENSE)
@pytest.mark.parametrize("reinit", REINIT)
def test_every_cell_of_the_three_way_table(dense: str, reinit: str) -> None:
    verdict = one(planted({0.75: (dense, reinit)}))
    [test] = verdict.tests
    assert (test.dense.answer, test.reinit.answer) == (dense, reinit)
    if "no" in (dense, reinit):
        assert (test.answer, verdict.winning_property) == ("no", "fails")
    elif (dense, reinit) == ("yes", "yes"):
        assert (test.answer, verdict.winning_property) == ("yes", "holds")
    else:
        assert (test.answer, verdict.winning_property) == ("undecided", "inconclusive")
    assert verdict.sparsity == (0.75 if verdict.winning_property == "holds" else None)
    assert (verdict.outlook == "") == (verdict.winning_property != "inconclusive")


@pytest.mark.parametrize(
    ("cells", "expected", "sparsity"),
    [
        ({0.5: ("yes", "yes"), 0.75: ("no", "yes")}, "holds", 0.5),
        ({0.5: ("yes", "yes"), 0.75: ("yes", "yes"), 0.9: ("undecided", "yes")}, "holds", 0.75),
        ({0.5: ("no", "yes"), 0.75: ("yes", "yes")}, "holds", 0.75),
        ({0.5: ("no", "yes"), 0.75: ("yes", "no")}, "fails", None),
        ({0.5: ("no", "yes"), 0.75: ("yes", "undecided")}, "inconclusive", None),
        ({0.3: ("yes", "yes"), 0.75: ("no", "yes")}, "fails", None),  # 0.3 is trivial
        ({0.3: ("yes", "yes"), 0.75: ("undecided", "yes")}, "inconclusive", None),
    ],
)
def test_sparsities_together(cells: dict[float, tuple[str, str]], expected: str, sparsity: float | None) -> None:
    verdict = one(planted(cells))
    assert (verdict.winning_property, verdict.sparsity) == (expected, sparsity)
    assert [test.sparsity for test in verdict.tests] == sorted(at for at in cells if at >= 0.5)


def recomputed(against_dense: Differences, against_reinit: Differences) -> list[tuple[float, ...]]:
    """The rule written down a second time, with numpy and scipy, for equal seeds at two or more sparsities."""

    def bounds(differences: Differences, null: float) -> list[tuple[float, float, float, float]]:
        values = np.array([differences[at] for at in sorted(differences)])
        n = values.shape[1]
        own = values.var(axis=1, ddof=1)
        errors = np.sqrt((2 * own.mean() + (n - 1) * own) / (n + 1) / n)
        means = values.mean(axis=1)
        freedom = n + 1 if n > 2 else min(3, len(values))
        reach = stats.t.ppf(0.95, freedom) * errors
        p = stats.t.sf((means - null) / errors, freedom)
        return list(zip(means, means - reach, means + reach, p, strict=True))

    dense, reinit = bounds(against_dense, -0.5), bounds(against_reinit, 0.0)
    p = [max(a[3], b[3]) for a, b in zip(dense, reinit, strict=True)]
    order = np.argsort(p)
    steps = np.maximum.accumulate([min(1.0, (len(p) - i) * p[k]) for i, k in enumerate(order)])
    holm = dict(zip(order, steps, strict=True))
    return [(*a, *b, p[i], holm[i]) for i, (a, b) in enumerate(zip(dense, reinit, strict=True))]


def figures(test: SparsityTest) -> tuple[float | None, ...]:
    dense, reinit = test.dense, test.reinit
    first = (dense.mean, dense.low, dense.high, dense.p)
    return (*first, reinit.mean, reinit.low, reinit.high, reinit.p, test.p, test.p_holm)


def random_study(generator: np.random.Generator, sparsities: int, seeds: int) -> tuple[Differences, Differences]:
    at = [0.5 + 0.1 * i for i in range(sparsities)]
    dense = {s: generator.normal(-0.4, 0.4 + s, seeds).round(2).tolist() for s in at}
    return dense, {s: generator.normal(1.0, 0.5 + s, seeds).round(2).tolist() for s in at}


@pytest.mark.parametrize("case", range(12))
def test_figures_are_those_of_the_written_rule(case: int) -> None:
    generator = np.random.default_rng(case)
    dense, reinit = random_study(generator, 2 + case % 3, 2 + case % 5)
    verdict = one(study(dense, reinit))
    for test, expected in zip(verdict.tests, recomputed(dense, reinit), strict=True):
        assert figures(test) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        own = stats.ttest_1samp(dense[test.sparsity], 0, alternative="two-sided").confidence_interval(0.9)
        assert (test.dense.low_own, test.dense.high_own) == pytest.approx((own.low, own.high), rel=1e-6)
        assert test.dense.n == len(dense[test.sparsity])


def test_holm_withholds_what_one_sparsity_alone_would_give() -> None:
    # At 0.5 both halves are a yes with p = .03; three hopeless sparsities beside it make its Holm p .12.
    width, n = 0.3, 5
    deviation = float(np.std(spread(0, width), ddof=1))
    mean = -0.5 + float(stats.t.isf(0.03, n + 1)) * deviation / math.sqrt(n)
    at = (0.5, 0.6, 0.7, 0.8)
    dense = {s: spread(mean if s == 0.5 else -0.5, width) for s in at}
    verdict = one(study(dense, {s: spread(2.0, width) for s in at}))
    [first, *_] = verdict.tests
    assert (first.dense.answer, first.reinit.answer, first.answer) == ("yes", "yes", "undecided")
    assert first.p == pytest.approx(0.03, rel=1e-3)
    assert first.p_holm == pytest.approx(0.12, rel=1e-3)
    assert verdict.winning_property == "inconclusive"


def test_better_than_reinit_by_less_than_the_gap_is_not_notable() -> None:
    # ticket - reinit = 0.3 without a doubt: above zero, below the gap.
    close = one(study({0.75: spread(0, 0.05)}, {0.75: spread(0.3, 0.05)}))
    assert close.tests[0].reinit.answer == "no"
    # With more noise, above zero but perhaps notable: neither.
    noisy = one(study({0.75: spread(0, 0.05)}, {0.75: spread(0.4, 0.3)}))
    assert noisy.tests[0].reinit.answer == "undecided"
    assert (noisy.tests[0].reinit.low or 0) > 0


def test_a_mean_at_the_gap_reaches_it_whatever_floats_say() -> None:
    differences = [1.0, 1.3, 1.0]
    assert sum(differences) / 3 < 1.1
    verdict = one(study({0.75: [0.0] * 3}, {0.75: differences}), Rule(gap=1.1))
    assert verdict.tests[0].reinit.answer == "yes"


def test_no_spread_at_all_is_decided_by_the_mean() -> None:
    same = one(study({0.75: [0.1] * 4}, {0.75: [1.0] * 4}))
    assert same.winning_property == "holds"
    assert "ticket at sparsity 75 % minus dense is the same in all seeds" in said(same)
    assert one(study({0.75: [-0.7] * 4}, {0.75: [1.0] * 4})).winning_property == "fails"
    at_margin = one(study({0.75: [-0.5] * 4}, {0.75: [1.0] * 4}))
    assert (at_margin.winning_property, at_margin.seeds_needed) == ("inconclusive", None)


def test_one_seed_is_never_a_verdict() -> None:
    verdict = one(study({0.75: [5.0]}, {0.75: [5.0]}))
    assert (verdict.winning_property, verdict.pretraining, verdict.seeds_needed) == ("inconclusive", "inconclusive", 5)
    [test] = verdict.tests
    assert (test.dense.n, test.dense.mean, test.dense.low, test.p, test.p_holm) == (
        1,
        pytest.approx(5.0),
        None,
        1.0,
        1.0,
    )
    assert "One seed is never a verdict" in said(verdict)


def test_two_seeds_can_be_one_when_the_difference_is_plain() -> None:
    verdict = one(study({0.5: [-9, -10], 0.75: [-9, -11]}, {0.5: [1, 2], 0.75: [1, 3]}))
    assert verdict.winning_property == "fails"


def test_verdicts_are_one_per_rate_and_mask_and_sorted() -> None:
    trials = [
        row
        for rate, mask in ((0.1, "one_shot"), (0.1, "iterative"), (0.01, "iterative"))
        for row in study({0.75: spread(0, 0.3)}, {0.75: spread(2, 0.3)}, rate, mask)
    ]
    found = [(verdict.learning_rate, verdict.mask) for verdict in judge(trials)]
    assert found == [(0.01, "iterative"), (0.1, "iterative"), (0.1, "one_shot")]


def test_arms_that_the_study_does_not_have_leave_it_open() -> None:
    trials = [row for row in planted({0.75: ("yes", "yes")}) if row.arm != "reinit"]
    verdict = one(trials)
    assert (verdict.winning_property, verdict.seeds_needed) == ("inconclusive", None)
    assert verdict.unasked == ("reinit",)
    assert "add to the study's arms: reinit." in said(verdict)
    assert "has no result" not in said(verdict)
    short = one([row for row in planted({0.75: ("no", "yes")}) if row.arm != "reinit"])
    assert (short.winning_property, short.unasked) == ("fails", ())


def test_an_arm_without_a_result_leaves_it_open() -> None:
    trials = planted({0.75: ("yes", "yes"), 0.5: ("yes", "yes")})
    verdict = one([row for row in trials if row.sparsity == 0.0 or (row.arm == "reinit") == (row.sparsity == 0.5)])
    assert (verdict.winning_property, verdict.unasked) == ("inconclusive", ())
    assert "reinit at sparsity 75 % has no result in seeds 0, 1, 2, 3 and 4" in said(verdict)
    assert "need results for the same seeds" in said(verdict)


def test_sparsities_that_count_for_nothing_leave_it_open() -> None:
    only_trivial = one(planted({0.3: ("yes", "yes")}))
    assert only_trivial.winning_property == "inconclusive"
    assert "No sparsity of at least 50 % was tried" in said(only_trivial)


small = st.floats(-3, 3).map(lambda value: round(value, 2))
columns = st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(small, min_size=n, max_size=n), min_size=2, max_size=6))


def as_study(values: list[list[float]], lower: Sequence[float] = ()) -> list[Trial]:
    half = len(values) // 2
    drop = [*lower, *([0.0] * half)]
    at = [0.5 + 0.1 * i for i in range(half)]
    return study(
        {s: [value - drop[i] for value in values[i]] for i, s in enumerate(at)},
        {s: [value + 1.0 - drop[i] for value in values[half + i]] for i, s in enumerate(at)},
    )


@given(columns, st.floats(-50, 5).map(lambda value: round(value, 2)))
@settings(max_examples=60, deadline=None)
def test_shifting_all_arms_of_a_seed_changes_nothing(values: list[list[float]], shift: float) -> None:
    trials = as_study(values)
    moved = [
        dataclasses.replace(row, test_accuracy=(row.test_accuracy or 0.0) + shift * (row.seed + 1)) for row in trials
    ]
    assert substance(one(moved)) == substance(one(trials))


@given(columns, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_names_of_seeds_and_order_of_rows_change_nothing(values: list[list[float]], random: object) -> None:
    trials = as_study(values)
    names = list(range(len(values[0])))
    random.shuffle(names)  # type: ignore[attr-defined]
    renamed = [dataclasses.replace(row, seed=names[row.seed]) for row in trials]
    random.shuffle(renamed)  # type: ignore[attr-defined]
    assert substance(one(renamed)) == substance(one(trials))


@given(columns, st.lists(st.floats(0, 4).map(lambda value: round(value, 2)), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_worse_ticket_never_gets_a_better_verdict(values: list[list[float]], lower: list[float]) -> None:
    order = ("fails", "inconclusive", "holds")
    before, after = one(as_study(values)), one(as_study(values, lower[: len(values) // 2]))
    assert order.index(after.winning_property) <= order.index(before.winning_property)
    assert (after.sparsity or 0) <= (before.sparsity or 0)


def test_seeds_needed_is_the_least_number_whose_bound_decides_with_room_to_spare() -> None:
    differences = [-0.8, 0.1, 0.0, -0.6, 0.3]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)

    def decides(n: int) -> bool:
        return mean - float(stats.t.ppf(0.95, n - 1) + stats.norm.ppf(0.8)) * deviation / math.sqrt(n) > -0.5

    verdict = one(study({0.75: differences}, {0.75: spread(5, 0.1)}))
    assert verdict.seeds_needed == next(n for n in range(6, 21) if decides(n))
    assert f"In all, {verdict.seeds_needed} seeds would probably decide it; 5 were run." in verdict.reasons


def test_seeds_needed_pays_for_the_sparsities_tried() -> None:
    # Three of four sparsities sit at the margin, so the p-value of the first must stay below .05 / 4.
    width, mean = 0.3, -0.3
    deviation = statistics.stdev(spread(0, width))
    at = (0.5, 0.6, 0.7, 0.8)

    def decides(n: int) -> bool:
        error = deviation / math.sqrt(n)
        return 4 * float(stats.t.sf((mean + 0.5) / error - stats.norm.ppf(0.8), n + 1)) < 0.05

    verdict = one(study({s: spread(mean if s == 0.5 else -0.5, width) for s in at}, {s: spread(5, width) for s in at}))
    assert verdict.winning_property == "inconclusive"
    assert verdict.seeds_needed == next(n for n in range(6, 21) if decides(n))


def test_seeds_needed_come_true() -> None:
    # Studies of the planned size drawn from the very truth that was planned for are mostly decided, and fewer of the
    # smaller ones that were planned from.
    mean, deviation = -0.2, 0.4
    values = spread(0, 1.0)
    first = [mean + deviation * value / statistics.stdev(values) for value in values]
    needed = one(study({0.75: first}, {0.75: spread(5, 0.1)})).seeds_needed
    assert needed is not None
    generator = np.random.default_rng(0)

    def decided(seeds: int) -> float:
        draws = generator.normal(mean, deviation, (300, seeds))
        verdicts = [one(study({0.75: row.tolist()}, {0.75: spread(5, 0.1, seeds)})) for row in draws]
        return float(np.mean([verdict.winning_property == "holds" for verdict in verdicts]))

    assert decided(needed) > 0.72
    assert decided(5) < 0.6


def test_at_the_margin_no_number_of_seeds_is_promised() -> None:
    verdict = one(planted({0.75: ("undecided", "yes")}))
    assert verdict.seeds_needed is None
    assert verdict.outlook == "Seeds needed: more than 20: the difference sits at the margin."
    assert one(planted({0.75: ("yes", "yes")})).seeds_needed is None


def test_the_judge_does_without_torch() -> None:
    code = "import sys, prunetune.report.text, prunetune.analysis.verdict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
