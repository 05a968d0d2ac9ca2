"""A question put to paired differences: yes, no or undecided, by confidence bounds (docs/explanation/verdict.md)."""

import math
from dataclasses import dataclass

from prunetune.analysis.pairing import Answer, Pairs, signed
from prunetune.analysis.statistics import Estimate, Rule, Sample, plain
from prunetune.core.metric import ACCURACY, Metric


@dataclass(frozen=True)
class Question:
    """Yes: the lower bound is above `null` and the mean reaches `least`. No: the upper bound is below `ceiling`."""

    null: float
    least: float
    ceiling: float


@dataclass(frozen=True)
class Comparison:
    """One arm's score minus another's over paired seeds, with one-sided bounds at level alpha each.

    Differences are those of the scores as they are, so that a negative one is a lead where lower scores are better.
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
    metric: Metric = ACCURACY

    @property
    def least_lead(self) -> float | None:
        """By how much the first is better at least, by its bound."""
        return self.low if self.metric.higher_is_better else None if self.high is None else 0.0 - self.high


def matches(rule: Rule) -> Question:
    """Is the first about as good as the second, or better?"""
    return Question(-rule.margin, -math.inf, -rule.margin)


def beats(rule: Rule) -> Question:
    """Is the first surely better than the second, and by an estimate of at least the gap?

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
    mean, low, high = as_scored(estimate, alpha, pairs.metric)
    _, low_own, high_own = as_scored(own, alpha, pairs.metric)
    return Comparison(
        first=pairs.first,
        second=pairs.second,
        seeds=pairs.seeds,
        n=estimate.n,
        mean=mean,
        spread=math.sqrt(estimate.variance),
        low=low,
        high=high,
        low_own=low_own,
        high_own=high_own,
        p=estimate.shifted(-slack).p_above(question.null),
        answer="undecided" if answer in pairs.blocked_answers else answer,
        notes=pairs.notes,
        withheld=answer in pairs.blocked_answers,
        error_change=pairs.error_change,
        metric=pairs.metric,
    )


def as_scored(estimate: Estimate, alpha: float, metric: Metric) -> tuple[float, float, float]:
    """Mean, lower and upper bound of the scores' difference whose lead is estimated."""
    mean, low, high = estimate.mean, estimate.low(alpha), estimate.high(alpha)
    return (mean, low, high) if metric.higher_is_better else (0.0 - mean, 0.0 - high, 0.0 - low)


def _unanswered(pairs: Pairs, mean: float | None) -> Comparison:
    return Comparison(
        first=pairs.first,
        second=pairs.second,
        seeds=pairs.seeds,
        n=len(pairs.seeds),
        mean=None if mean is None else pairs.metric.oriented(mean),
        spread=None,
        low=None,
        high=None,
        low_own=None,
        high_own=None,
        p=None,
        answer="undecided",
        notes=pairs.notes,
        error_change=pairs.error_change,
        metric=pairs.metric,
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
    mean, low, high = (signed(value, half.metric.digits) for value in (half.mean, half.low, half.high))
    unit = f" {half.metric.difference_unit}".rstrip()
    return f"{mean}{unit} (bounds {low} and {high}, {half.n} seeds{errors})"


def errors_changed(change: float) -> str:
    """What a relative change in error is called.

    >>> errors_changed(-0.444)
    'errors −44 %'
    """
    return f"errors {signed(100 * change, 0)} %"
