"""A question put to paired differences: yes, no or undecided, by confidence bounds (docs/explanation/verdict.md)."""

import math
from dataclasses import dataclass

from prunetune.analysis.pairing import Answer, Pairs, signed
from prunetune.analysis.statistics import Estimate, Rule, Sample, plain


@dataclass(frozen=True)
class Question:
    """Yes: the lower bound is above `null` and the mean reaches `least`. No: the upper bound is below `ceiling`."""

    null: float
    least: float
    ceiling: float


@dataclass(frozen=True)
class Comparison:
    """One arm minus another over paired seeds, in points, with one-sided bounds at level alpha each.

    `low`, `high` and `p` use the variance that decides (for the winning property: the shrunk one), `low_own` and
    `high_own` the differences' own. They are None where fewer than two pairs exist.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    n: int
    mean: float | None
    spread: float | None  # the standard deviation that decides
    low: float | None
    high: float | None
    low_own: float | None
    high_own: float | None
    p: float | None  # one-sided, of the `yes`
    answer: Answer
    notes: tuple[str, ...] = ()  # what was left out, and why
    withheld: bool = False  # the bounds would answer, but not over trainings that diverged or never learned
    error_change: float | None = None  # relative change in mean error, where the second is near the ceiling


def matches(rule: Rule) -> Question:
    """Is the first about as accurate as the second, or better?"""
    return Question(-rule.margin, -math.inf, -rule.margin)


def beats(rule: Rule) -> Question:
    """Is the first surely more accurate than the second, and by an estimate of at least the gap?

    The bound is held against 0 and the mean against the gap: see docs/explanation/verdict.md for why not the bound.
    """
    return Question(0.0, rule.gap, rule.gap)


def sample_of(pairs: Pairs) -> Sample | None:
    """The differences summarised; None when there are none."""
    return Sample.of(pairs.differences) if pairs.differences else None


def compare(
    pairs: Pairs, estimate: Estimate | None, question: Question, alpha: float, slack: float = 0.0
) -> Comparison:
    """Answer `question` by `estimate`, within what the pairs allow.

    `slack` asks more than the bounds do: the answer must stand with the mean so many standard errors less favourable
    to it (for planning, where the mean to come is not the one at hand).
    """
    sample = sample_of(pairs)
    own = plain(sample)
    if sample is None or estimate is None or own is None:
        return _unanswered(pairs, None if sample is None else sample.mean)
    answer = _answer(estimate, question, alpha, slack)
    return Comparison(
        first=pairs.first,
        second=pairs.second,
        seeds=pairs.seeds,
        n=estimate.n,
        mean=estimate.mean,
        spread=math.sqrt(estimate.variance),
        low=estimate.low(alpha),
        high=estimate.high(alpha),
        low_own=own.low(alpha),
        high_own=own.high(alpha),
        p=estimate.shifted(-slack).p_above(question.null),
        answer="undecided" if answer in pairs.blocked_answers else answer,
        notes=pairs.notes,
        withheld=answer in pairs.blocked_answers,
        error_change=pairs.error_change,
    )


def _unanswered(pairs: Pairs, mean: float | None) -> Comparison:
    return Comparison(
        first=pairs.first,
        second=pairs.second,
        seeds=pairs.seeds,
        n=len(pairs.seeds),
        mean=mean,
        spread=None,
        low=None,
        high=None,
        low_own=None,
        high_own=None,
        p=None,
        answer="undecided",
        notes=pairs.notes,
        error_change=pairs.error_change,
    )


def _answer(estimate: Estimate, question: Question, alpha: float, slack: float) -> Answer:
    worse, better = estimate.shifted(-slack), estimate.shifted(slack)
    if worse.low(alpha) > question.null and worse.mean >= question.least:
        return "yes"
    if better.high(alpha) < question.ceiling:
        return "no"
    return "undecided"


def figures(half: Comparison) -> str:
    """`−0.21 points (bounds −0.66 and +0.24, 5 seeds)`, or why there are no bounds."""
    if half.mean is None or half.low is None or half.high is None:
        return "no seed has both results" if half.n == 0 else "one seed is never a verdict"
    errors = "" if half.error_change is None else f"; {errors_changed(half.error_change)}"
    return f"{signed(half.mean)} points (bounds {signed(half.low)} and {signed(half.high)}, {half.n} seeds{errors})"


def errors_changed(change: float) -> str:
    """What a relative change in error is called.

    >>> errors_changed(-0.444)
    'errors −44 %'
    """
    return f"errors {signed(100 * change, 0)} %"
