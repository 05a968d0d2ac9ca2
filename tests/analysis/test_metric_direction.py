"""Where lower scores are better, everything is judged as the negated scores would be."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.comparison import Comparison
from prunetune.analysis.pairing import Evidence
from prunetune.analysis.recommend import Recommendation, recommend
from prunetune.analysis.regimes import Answers, Study, regimes_of
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict, judge
from prunetune.report.answer import answers
from prunetune.report.comparison.comparison_rows import compare_studies
from prunetune.rows import Trial
from tests.support.planted import planted as whole_study
from tests.support.scored import ERROR, PERPLEXITY, REWARD, of_metric, rescored
from tests.support.verdict_trials import planted, spread, study

LOWER, HIGHER = Rule(metric=PERPLEXITY), Rule(metric=REWARD)


def both(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """As perplexities, and as their negatives."""
    return rescored(trials, lambda score: 200.0 - score), rescored(trials, lambda score: score - 200.0)


def negated(value: float | None) -> float | None:
    return None if value is None else -value


def mirrored(half: Comparison) -> Comparison:
    """With the signs of the scores turned: the lower bound is the upper one's negative."""
    return dataclasses.replace(
        half,
        mean=negated(half.mean),
        low=negated(half.high),
        high=negated(half.low),
        low_own=negated(half.high_own),
        high_own=negated(half.low_own),
        metric=PERPLEXITY,
    )


def assert_mirrored(lower: Verdict, higher: Verdict) -> None:
    for name in ("winning_property", "sparsity", "pretraining", "seeds_needed", "open", "exceeds_dense", "outlook"):
        assert getattr(lower, name) == getattr(higher, name), name
    assert lower.corrected_for == higher.corrected_for
    for one, other in zip(lower.tests, higher.tests, strict=True):
        assert (one.dense, one.reinit) == (mirrored(other.dense), mirrored(other.reinit))
        assert (one.p, one.p_holm, one.answer) == (other.p, other.p_holm, other.answer)
    assert lower.dense is not None
    assert higher.dense is not None
    for check, other in zip(lower.dense.checks, higher.dense.checks, strict=True):
        assert (check.name, check.answer) == (other.name, other.answer)
        if check.name != "forgotten":
            assert (check.mean, check.limit) == (negated(other.mean), negated(other.limit))
            assert (check.low, check.high) == (negated(other.high), negated(other.low))
    assert lower.dense.best == higher.dense.best


CASES: dict[str, Any] = {
    "holds": planted({0.5: ("yes", "yes"), 0.75: ("yes", "undecided")}),
    "fails": planted({0.5: ("no", "yes"), 0.75: ("yes", "no")}),
    "inconclusive": planted({0.5: ("undecided", "yes"), 0.75: ("yes", "undecided")}),
    "exceeds": study({0.75: spread(2.0, 0.3)}, {0.75: spread(2.0, 0.3)}),
    "one seed": study({0.75: [0.0]}, {0.75: [2.0]}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_that_of_the_negated_scores(name: str) -> None:
    below, above = both(CASES[name])
    [lower], [higher] = judge(below, LOWER), judge(above, HIGHER)
    assert_mirrored(lower, higher)


def test_the_cases_differ() -> None:
    found = {name: judge(both(trials)[0], LOWER)[0] for name, trials in CASES.items()}
    assert [found[name].winning_property for name in ("holds", "fails", "inconclusive")] == [
        "holds",
        "fails",
        "inconclusive",
    ]
    assert found["exceeds"].exceeds_dense == (0.75,)


def test_a_whole_study_with_two_rates_and_a_diverged_training() -> None:
    results = whole_study(masks=("iterative", "admm"))
    trials = [dataclasses.replace(row, diverged=row.arm == "reinit" and row.seed == 1) for row in results.trials]
    below, above = both(trials)
    lower = judge(below, LOWER, correlations=results.correlations)
    higher = judge(above, HIGHER, correlations=results.correlations)
    assert len(lower) == 4
    for one, other in zip(lower, higher, strict=True):
        assert_mirrored(one, other)


def test_a_difference_is_that_of_the_scores_and_its_bounds_are_scipys() -> None:
    rows, _ = both(study({0.75: spread(0.1, 0.3)}, {0.75: [2.0, 2.2, 1.7, 2.4, 1.9]}))
    [verdict] = judge(rows, LOWER)
    [test] = verdict.tests
    score = {(row.arm, row.seed): row.score or 0.0 for row in rows}
    differences = np.array([score["ticket", seed] - score["reinit", seed] for seed in range(5)])
    standard_error = differences.std(ddof=1) / np.sqrt(5)
    reach = float(stats.t.ppf(0.95, 4)) * standard_error
    assert test.reinit.mean == pytest.approx(differences.mean())
    assert differences.mean() < -1.5  # the ticket's perplexity is the lower one
    assert test.reinit.low_own == pytest.approx(differences.mean() - reach)
    assert test.reinit.high_own == pytest.approx(differences.mean() + reach)
    assert test.reinit.answer == "yes"
    assert test.reinit.p == pytest.approx(float(stats.t.cdf(differences.mean() / standard_error, 4)))
    assert "ticket − reinit: −2.04 (bounds " in verdict.reasons[0]


@pytest.mark.parametrize("chance", [105.0, 112.0, 113.0])
def test_a_level_of_guessing_is_met_from_the_worse_side(chance: float) -> None:
    rows, opposite = both(study({0.75: spread(0.0, 0.3)}, {0.75: spread(2.0, 0.3)}))
    [verdict], [other] = judge(rows, LOWER, chance=chance), judge(opposite, HIGHER, chance=-chance)
    assert_mirrored(verdict, other)
    worst = {row.seed for row in rows if row.arm == "reinit" and (row.score or 0.0) >= chance - LOWER.margin}
    assert set(verdict.tests[0].reinit.seeds) == set(range(5)) - worst


def test_classes_say_nothing_of_guessing_where_the_score_is_no_accuracy() -> None:
    rows, _ = both(study({0.75: spread(0.0, 0.3)}, {0.75: spread(2.0, 0.3)}))
    assert judge(rows, LOWER, outputs=2) == judge(rows, LOWER)


def test_what_to_train_from_is_that_of_the_negated_scores() -> None:
    below, above = both(whole_study().trials)
    lower, higher = recommend(below, LOWER), recommend(above, HIGHER)
    assert len(lower) == 4
    for one, other in zip(lower, higher, strict=True):
        turned = {"score": -other.score, "difference": negated(other.difference), "metric": PERPLEXITY}
        bounds = {"low": negated(other.high), "high": negated(other.low)}
        assert one == dataclasses.replace(other, **turned, **bounds)
        assert (one.accuracy, one.lead) == (None, other.lead)


def lowest(rows: Sequence[Trial], sparsity: float) -> tuple[str, float]:
    """By a plain search: the arm and rate of the lowest mean, controls none."""
    means: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row.mask is not None and row.sparsity == sparsity:
            means.setdefault((row.arm, row.learning_rate), []).append(row.score or 0.0)
    return min(means, key=lambda place: float(np.mean(means[place])))


def test_the_recommended_has_the_lowest_mean() -> None:
    below, _ = both(whole_study().trials)
    found: dict[float, Recommendation] = {row.sparsity: row for row in recommend(below, LOWER)}
    for sparsity, row in found.items():
        assert (row.arm, row.learning_rate) == lowest(below, sparsity)


def studies(name: str, metric: Any, sign: float) -> list[Study]:
    made = []
    for number, shift in enumerate((0.0, 1.0, 2.0)):
        results = of_metric(whole_study(seeds=3), metric, lambda score, by=shift: sign * (score + by - 200.0))
        fresh = [dataclasses.replace(row, key=f"{number}{row.key}") for row in results.trials]
        results = dataclasses.replace(results, trials=tuple(fresh))
        rule, verdicts = (found := answers(results)).rule, found.verdicts
        held: Answers = {(v.learning_rate, v.mask, t.sparsity): t.answer for v in verdicts for t in v.tests}
        evidence = Evidence(results.trials, metric=rule.metric)
        made.append(Study(f"{name}{number}", results, rule, evidence, held))
    return made


def test_a_comparison_reads_leads_whose_sign_is_turned() -> None:
    lower, higher = studies("s", PERPLEXITY, -1.0), studies("s", REWARD, 1.0)
    rows, others = (regimes_of(given, given[0].rule)[0] for given in (lower, higher))
    for row, other in zip(rows, others, strict=True):
        assert {name: p.differences for name, p in row.leads.items()} == {
            name: p.differences for name, p in other.leads.items()
        }
        assert (row.shortfall, row.dense_matches, row.winning) == (other.shortfall, other.dense_matches, other.winning)
    found, expected = (compare_studies(given, resamples=50) for given in (lower, higher))
    for name in ("explanation", "reasons", "at_chance", "together", "mask", "sparsity"):
        assert getattr(found.thesis, name) == getattr(expected.thesis, name), name
    for kind in ("relations", "slopes"):  # of which the dense score is a covariate, so that they round otherwise
        for one, other in zip(getattr(found.thesis, kind), getattr(expected.thesis, kind), strict=True):
            assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-9)
    assert (found.scores, found.improvements) == (expected.scores, expected.improvements)


def test_digits_show_a_tenth_of_the_margin() -> None:
    margins = {5.0: 2, 0.5: 2, 0.1: 2, 0.02: 3, 0.001: 4}
    assert {margin: dataclasses.replace(ERROR, margin=margin).digits for margin in margins} == margins
