"""The rule of docs/how-to/compare.md on planted regimes, and its parts against scipy."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.regimes import LEAD, middle_sparsity, usual_mask
from prunetune.analysis.relations import p_values, relation, slope_within
from prunetune.analysis.statistics import USUAL_RULE, holm
from prunetune.analysis.thesis import at_chance, judge_thesis, leads_together
from tests.support.regime_makers import WOBBLE, regime, rising


def one_sided(values: Sequence[float], null: float, alternative: str) -> float:
    """scipy's p-value of a one-sided t test."""
    return float(stats.ttest_1samp(values, null, alternative=alternative)[1])  # type: ignore[arg-type]


def judged(rows, **more):
    return judge_thesis(rows, USUAL_RULE, resamples=400, **more)


def test_a_lead_that_rises_with_r_p_and_is_gone_at_chance_is_the_explanation() -> None:
    found = judged(rising())
    assert found.explanation == "holds"
    assert found.main is not None
    assert found.main.rho == pytest.approx(
        stats.spearmanr([row.mean_excess for row in rising()], [row.mean(LEAD) for row in rising()])[0]
    )
    assert found.main.low is not None
    assert found.main.low > 0


def test_a_lead_above_the_gap_at_chance_refutes_it() -> None:
    found = judged(rising(at_chance=1.5))
    assert found.explanation == "fails"
    assert {row.answer for row in found.at_chance} == {"above the gap"}


@pytest.mark.parametrize("change", [{"matches": False}, {"blocked_answers": frozenset({"yes"})}])
def test_no_counterexample_by_an_undertrained_network_or_a_stuck_baseline(change) -> None:
    assert judged(rising(at_chance=1.5, **change)).explanation == "not decided"


def test_a_lead_that_goes_with_length_alone_is_not_the_explanation() -> None:
    """Short trainings have a high R_p and a large lead, long ones neither; within a length nothing goes with R_p."""
    short = [regime(i, 0.3 + 0.05 * i, 1.5 + 0.2 * (-1) ** i, epochs=4) for i in range(5)]
    long = [regime(9 + i, 0.01 * i, 0.1 * (-1) ** i, epochs=24) for i in range(5)]
    found = judged([*short, *long])
    assert found.main is not None
    assert found.main.low is not None
    assert found.main.low > 0  # the relation alone would say that it holds
    assert found.explanation == "not decided"
    assert any("one length" in reason for reason in found.reasons)


def test_a_lead_that_falls_with_r_p_refutes_it() -> None:
    rows = [replace(row, leads={**row.leads, LEAD: other.leads[LEAD]}) for row, other in
            zip(rising(), [*rising()[:6][::-1], *rising()[6:][::-1]], strict=True)]  # fmt: skip
    rows = [regime(i, row.mean_excess, 0.2 - row.mean_excess, row.epochs) for i, row in enumerate(rows)]
    assert judged(rows).explanation == "fails"


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([regime(i, 0.2 + 0.1 * i, i) for i in range(6)], "about chance"),
        ([regime(i, 0.01 * i, 0.0) for i in range(6)], "above chance"),
        ([regime(i, 0.2 * i, i) for i in range(3)], "needs 5"),
        ([regime(i, 0.1 * i, i / 5, epochs=i + 1) for i in range(6)], "length"),
    ],
)
def test_what_is_lacking_is_named(rows, word) -> None:
    found = judged(rows)
    assert found.explanation == "not decided"
    assert any(word in reason for reason in found.reasons)


def test_at_chance_is_the_paired_t_of_scipy_with_holm() -> None:
    rows = [regime(i, 0.01, lead) for i, lead in enumerate((0.3, 0.45, 0.9))]
    found = at_chance(rows, USUAL_RULE)
    for row, out in zip(rows, found, strict=True):
        values = list(row.leads[LEAD].differences)
        above = one_sided(values, USUAL_RULE.gap, "greater")
        below = one_sided(values, USUAL_RULE.gap, "less")
        lower = one_sided(values, -USUAL_RULE.gap, "greater")
        assert out.p_above == pytest.approx(above)
        assert out.p_equal == pytest.approx(max(below, lower))
    assert [out.p_above_holm for out in found] == pytest.approx(holm([out.p_above or 0 for out in found]))
    assert [out.answer for out in found] == ["within the gap", "undecided", "above the gap"]


def test_leads_together_are_means_of_each_seed_by_sparsity_and_by_run() -> None:
    rows = [regime(0, 0.0, 0.2, sparsity=0.5), regime(0, 0.0, 0.4), regime(1, 0.01, 0.0), regime(2, 0.3, 3.0)]
    found = {row.of: row for row in leads_together(rows, USUAL_RULE)}
    assert {name: row.mean for name, row in found.items()} == pytest.approx(
        {"sparsity 50 %": 0.2, "sparsity 80 %": 0.2, "s0, rate 0.1": 0.3, "s1, rate 0.1": 0.0}
    )
    assert found["s0, rate 0.1"].p_equal == pytest.approx(one_sided([0.3 + w for w in WOBBLE], 0.5, "less"))


def test_a_permutation_p_is_near_the_exact_one() -> None:
    rows = [
        regime(i, excess, lead)
        for i, (excess, lead) in enumerate([(0.0, 0.1), (0.1, 0.3), (0.2, 0.2), (0.3, 0.9), (0.4, 1)])
    ]
    found = relation(rows, "R_p excess", LEAD, "fixed", 0.05, 4000)
    x, y = [row.mean_excess for row in rows], [row.mean(LEAD) for row in rows]
    exact = stats.permutation_test(
        (x,), lambda x: stats.spearmanr(x, y)[0], permutation_type="pairings", alternative="greater"
    ).pvalue
    assert found.p_rise == pytest.approx(exact, abs=0.02)


def test_a_slope_within_length_is_that_of_least_squares_with_an_intercept_each() -> None:
    rows = rising()
    found = slope_within(rows, "length", LEAD, 0.05, 200)
    design = np.array(
        [[row.mean_excess, row.epochs == 6, row.epochs == 12, np.mean(list(row.dense.values()))] for row in rows], float
    )
    expected = np.linalg.lstsq(design, np.array([row.mean(LEAD) for row in rows], float), rcond=None)[0][0]
    assert found.slope == pytest.approx(0.1 * expected)
    assert (found.n, found.strata) == (12, 2)


def test_p_values_count_the_data_itself() -> None:
    assert p_values(np.array([2.0, 1.0, 2.0, 3.0])) == (0.75, 0.75)
    assert p_values(np.array([np.nan, 1.0])) == (None, None)


def test_mask_and_sparsity_are_chosen_by_how_many_dense_runs_have_them() -> None:
    rows = [regime(i, 0.1, 1.0, sparsity=at) for i in range(3) for at in (0.3, 0.5, 0.8 + 0.002 * i, 0.9)]
    rows += [regime(0, 0.1, 1.0, sparsity=0.6), regime(0, 0.1, 1.0, mask="admm")]
    assert usual_mask(rows) == "iterative"
    assert middle_sparsity(rows, "iterative", 0.5) == 0.8


def test_equal_regimes_give_equal_numbers() -> None:
    assert judged(rising()) == judged(rising())
