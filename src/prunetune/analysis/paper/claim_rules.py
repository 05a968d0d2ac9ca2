"""The rules by which a published number or claim agrees with a study's figures (docs/explanation/paper.md)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prunetune.analysis.comparison import Comparison, Question, compare, sample_of
from prunetune.analysis.pairing import Pairs
from prunetune.analysis.statistics import Estimate, Rule, Sample, plain

Outcome = Literal["agrees", "disagrees", "undecided", "condition not met", "not tested at this scale"]
Kind = Literal["superiority", "non-inferiority", "equivalence"]
NOT_TESTED: Outcome = "not tested at this scale"
CONDITION: Outcome = "condition not met"
ONE_SEED = "one seed is never a verdict"


@dataclass(frozen=True)
class Finding:
    """An answer, and the figures of the place that decides it: a mean over seeds with one-sided bounds at alpha."""

    answer: Outcome
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""  # which place the figures are of, and what keeps the answer from being another


def number(values: Sequence[float], published: float, margin: float, alpha: float, why: str) -> Finding:
    """Agrees: both bounds of the mean within `margin` of the published value. Disagrees: the 1 − alpha interval
    (two-sided) wholly outside. At least one value; one alone is not tested.
    """
    sample = Sample.of(values)
    estimate = plain(sample)
    if estimate is None:
        return Finding(NOT_TESTED, sample.mean, n=sample.n, why=ONE_SEED)
    answer = _equal(estimate, published, margin, alpha, 1)
    return Finding(answer, estimate.mean, estimate.low(alpha), estimate.high(alpha), estimate.n, why)


def overlap(
    excesses: Sequence[tuple[str, Sequence[float]]], expected: Literal["above", "near"], limit: float, alpha: float
) -> Finding:
    """R_p minus chance at several places, each with its values over seeds, against `limit`.

    `above` agrees where every lower bound is above `limit`; `near` where all bounds lie within ± `limit`. Either
    disagrees where the opposite is shown at one place at alpha over the number of places.
    """
    found = [(where, plain(Sample.of(values)), values) for where, values in excesses]
    known = [(where, estimate) for where, estimate, _ in found if estimate is not None]
    if not known:
        return Finding(NOT_TESTED, Sample.of(found[0][2]).mean, n=1, why=ONE_SEED)
    count = len(known)
    if expected == "above":
        answers: list[Outcome] = [_above(estimate, limit, alpha, count) for _, estimate in known]
        where, worst = min(known, key=lambda one: one[1].low(alpha))
    else:
        answers = [_equal(estimate, 0.0, limit, alpha, count) for _, estimate in known]
        where, worst = max(known, key=lambda one: max(one[1].high(alpha), -one[1].low(alpha)))
    answer = _together(answers, len(known) == len(found))
    return Finding(answer, worst.mean, worst.low(alpha), worst.high(alpha), worst.n, where)


def ordering(kind: Kind, steps: Sequence[tuple[str, Pairs]], rule: Rule) -> Finding:
    """Paired differences of which a claim says the same in every step.

    `superiority`: above 0. `non-inferiority`: not below -margin. `equivalence`: within ± gap. Agrees: shown in every
    step by bounds at alpha each. Disagrees: the opposite shown in one, at alpha over the number of steps. The figures
    are of the step that disagrees, else of the weakest.
    """
    found = [(where, _step(kind, pairs, rule, len(steps))) for where, pairs in steps]
    if all(half.low is None for _, (half, _) in found):
        where, (half, _) = found[0]
        return Finding(NOT_TESTED, half.mean, n=half.n, why=ONE_SEED if half.n else f"{where}: no seed has both")
    answer = _together((outcome for _, (_, outcome) in found), complete=True)
    shown = [one for one in found if one[1][1] == "disagrees"] or found
    where, (worst, _) = min(shown, key=lambda one: _strength(kind, one[1][0]))
    notes = dict.fromkeys(note for _, (half, _) in found for note in half.notes)
    return Finding(answer, worst.mean, worst.low, worst.high, worst.n, "; ".join([where, *notes]))


def _step(kind: Kind, pairs: Pairs, rule: Rule, count: int) -> tuple[Comparison, Outcome]:
    if kind == "equivalence":
        return _equivalent(pairs, rule, count)
    null = 0.0 if kind == "superiority" else -rule.margin
    question = Question(null, -math.inf, null)
    half = _compared(pairs, question, rule.alpha)
    if _compared(pairs, question, rule.alpha / count).answer == "no":
        return half, "disagrees"
    return half, "agrees" if half.answer == "yes" else "undecided"


def _equivalent(pairs: Pairs, rule: Rule, count: int) -> tuple[Comparison, Outcome]:
    """What is left out may move the mean either way, so that it forbids every answer."""
    half = _compared(pairs, Question(-rule.gap, -math.inf, -rule.gap), rule.alpha)
    estimate = plain(sample_of(pairs))
    if estimate is None or pairs.blocked_answers:
        return half, "undecided"
    return half, _equal(estimate, 0.0, rule.gap, rule.alpha, count)


def _strength(kind: Kind, half: Comparison) -> float:
    """How well a step supports the claim; one without bounds stands last."""
    if half.low is None or half.high is None:
        return math.inf
    return -max(half.high, -half.low) if kind == "equivalence" else half.low


def _compared(pairs: Pairs, question: Question, alpha: float) -> Comparison:
    return compare(pairs, plain(sample_of(pairs)), question, alpha)


def _above(estimate: Estimate, limit: float, alpha: float, count: int) -> Outcome:
    if estimate.low(alpha) > limit:
        return "agrees"
    return "disagrees" if estimate.high(alpha / count) < limit else "undecided"


def _equal(estimate: Estimate, target: float, margin: float, alpha: float, count: int) -> Outcome:
    if target - margin < estimate.low(alpha) and estimate.high(alpha) < target + margin:
        return "agrees"
    share = alpha / (2 * count)  # outside on either side
    outside = estimate.high(share) < target - margin or estimate.low(share) > target + margin
    return "disagrees" if outside else "undecided"


def _together(answers: Iterable[Outcome], complete: bool) -> Outcome:
    found = set(answers)
    if "disagrees" in found:
        return "disagrees"
    return "agrees" if found == {"agrees"} and complete else "undecided"
