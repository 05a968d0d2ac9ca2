"""Pre-training: was the dense network trained well enough? Three checks by bounds (docs/explanation/verdict.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prunetune.analysis.comparison import Comparison, compare, figures, matches, sample_of
from prunetune.analysis.pairing import Answer, Evidence, Place, signed
from prunetune.analysis.statistics import Rule, Sample, plain
from prunetune.errors import given
from prunetune.rows import DENSE, DENSE_LONGER, Correlation

Sufficiency = Literal[
    "sufficient", "insufficient", "converged, still correlated", "best of those tried", "inconclusive"
]
CheckName = Literal["not worse than the best rate tried", "converged", "forgotten"]

USUAL_P = 0.2  # the paper's p for sparse networks; the check uses the measured p nearest to it
NEAR_CHANCE = 0.05  # an excess of R_p over chance of less than this is called "about chance"


@dataclass(frozen=True)
class Overlap:
    """Mean R_p(theta_0, theta_T) over seeds at one p; `expected` is what independent weights would give."""

    p: float
    value: float
    expected: float
    excesses: tuple[float, ...] = ()  # by seed: R_p less what independent weights would give

    @property
    def excess(self) -> float:
        """What training left of the order of the initial weights, beyond chance."""
        return self.value - self.expected


@dataclass(frozen=True)
class Check:
    """One of the three questions: its answer, and the mean over `n` seeds with one-sided bounds at alpha each.

    `mean`, `low` and `high` are differences of scores, or a share for `forgotten`; None where there are none. The
    answer is decided by the bounds' place beside `limit`.
    """

    name: CheckName
    answer: Answer | Literal["not asked"]
    finding: str  # why, in a sentence without its full stop
    limit: float
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def line(self) -> str:
        """`Converged: yes. Dense accuracy after 12 epochs, compared with that after 6: …`."""
        return f"{self.name[0].upper()}{self.name[1:]}: {self.answer}. {self.finding}."


@dataclass(frozen=True)
class Pretraining:
    """The answer at one learning rate, and the checks that it follows from."""

    learning_rate: float
    answer: Sufficiency
    best: float | None  # the rate with the best mean dense score; None when that is not known
    comparison: Comparison | None  # dense - dense at the best rate; None there, and where nothing can be compared
    checks: tuple[Check, ...]  # not worse, converged, forgotten
    overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...]  # what was left out

    @property
    def lines(self) -> tuple[str, ...]:
        """A sentence or two for each check."""
        return tuple(check.line for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The answer, the checks, what was left out, and the weight correlation in words."""
        beside = explanation(self)
        return (f"pre-training: {self.answer}.", *self.lines, *self.notes, *([beside] if beside else []))


def pretraining(evidence: Evidence, rule: Rule, correlations: Sequence[Correlation]) -> dict[float, Pretraining]:
    """The sufficiency of pre-training at every learning rate of a study, sorted by rate."""
    rates = sorted({rate for _, _, rate, _ in evidence.places})
    best = _best_rate(evidence, rates)
    seeds = set(evidence.seeds)
    known = [row for row in correlations if row.seed in seeds]
    return {rate: _judge_rate(evidence, rule, rate, rates, best, _overlaps(known, rate)) for rate in rates}


def dense(rate: float) -> Place:
    """Where the dense runs of a learning rate are filed."""
    return DENSE, None, rate, 0.0


def longer(rate: float) -> Place:
    """Where the longer dense runs of a learning rate are filed."""
    return DENSE_LONGER, None, rate, 0.0


def label(not_worse: str, converged: str, forgotten: str) -> Sufficiency:
    """What follows from the answers to the three checks: a claim only where all that it says is shown.

    >>> label("yes", "yes", "no"), label("yes", "yes", "undecided"), label("yes", "not asked", "yes")
    ('converged, still correlated', 'inconclusive', 'best of those tried')
    """
    if "no" in (not_worse, converged):
        return "insufficient"
    if not_worse == "yes" and converged == "not asked":
        return "best of those tried"
    if not_worse == converged == "yes" and forgotten in ("yes", "no"):
        return "sufficient" if forgotten == "yes" else "converged, still correlated"
    return "inconclusive"


def _best_rate(evidence: Evidence, rates: Sequence[float]) -> float | None:
    """The rate of the best mean; one without a diverged seed goes before any with one. The lower rate wins ties."""
    means = {rate: evidence.chosen_by(dense(rate)) for rate in rates}
    known = {rate: mean for rate, mean in means.items() if mean is not None}
    steady = {rate: mean for rate, mean in known.items() if not evidence.diverged(dense(rate))}
    candidates = steady or known
    return max(candidates, key=lambda rate: (round(candidates[rate], 9), -rate), default=None)


def _judge_rate(
    evidence: Evidence,
    rule: Rule,
    rate: float,
    rates: Sequence[float],
    best: float | None,
    overlaps: tuple[Overlap, ...],
) -> Pretraining:
    not_worse, comparison = _not_worse(evidence, rule, rate, rates, best)
    converged, notes = _converged(evidence, rule, rate)
    checks = (not_worse, converged, _forgotten(overlaps, rule))
    answer = label(*(check.answer for check in checks))
    notes = (*(comparison.notes if comparison else evidence.notes(dense(rate))), *notes)
    return Pretraining(rate, answer, best, comparison, checks, overlaps, tuple(dict.fromkeys(notes)))


def _not_worse(
    evidence: Evidence, rule: Rule, rate: float, rates: Sequence[float], best: float | None
) -> tuple[Check, Comparison | None]:
    """Is the dense score at this rate less than the margin worse than that at the best rate tried?"""
    name: CheckName = "not worse than the best rate tried"
    metric, limit = rule.metric, rule.metric.oriented(-rule.margin)
    if hindrance := _hindrance(evidence, rates, best):
        return Check(name, "undecided", hindrance, limit), None
    best = given(best, "_hindrance names a study without one")
    if rate == best:
        finding = f"Of the {len(rates)} rates tried, this one gives the dense network its best mean {metric.name}"
        return Check(name, "yes", finding, limit), None
    pairs = evidence.pairs(dense(rate), dense(best))
    found = compare(pairs, plain(sample_of(pairs)), matches(rule), rule.alpha)
    finding = f"Dense {metric.name} at this rate, compared with rate {best:g}, the best tried: {figures(found)}"
    return _check(name, found, finding, limit), found


def _hindrance(evidence: Evidence, rates: Sequence[float], best: float | None) -> str | None:
    """Why no rate of this study can be compared, if so."""
    if len(rates) < 2:
        score = evidence.metric.name
        return f"Only one learning rate was tried, so its dense {score} has nothing to be compared with"
    if best is None:
        return "No dense training has a result at any learning rate"
    if len(evidence.scores(dense(best))) < 2:
        return "One seed is never a verdict"
    if evidence.at_chance(dense(best)):
        return f"Even at rate {best:g}, the best tried, a dense network is no better than guessing"
    return None


def _converged(evidence: Evidence, rule: Rule, rate: float) -> tuple[Check, tuple[str, ...]]:
    """Does a longer dense training gain less than the margin? With the notes on what was left out of it.

    It asks whether dense matches the longer run, so its bounds are those of dense − longer turned round. A longer run
    that diverged shows nothing about convergence, and leaving it out forbids the yes.
    """
    metric, limit = rule.metric, rule.metric.oriented(rule.margin)
    if longer(rate) not in evidence.places:
        finding = "No dense network was trained for longer; pretraining: {longer: 2} in the spec asks for it"
        return Check("converged", "not asked", finding, limit), ()
    pairs = evidence.pairs(dense(rate), longer(rate))
    if evidence.diverged(longer(rate)):
        pairs = replace(pairs, blocked_answers=pairs.blocked_answers | {"yes"})
    found = compare(pairs, plain(sample_of(pairs)), matches(rule), rule.alpha)
    gain = _turned(found)
    short, long = evidence.epochs(dense(rate)), evidence.epochs(longer(rate))
    trained = f"after {long} epochs, compared with that after {short}" if short and long else "after a longer training"
    finding = f"Dense {metric.name} {trained}: {figures(gain)}; a gain of less than {rule.margin:g} counts as converged"
    return _check("converged", gain, finding, limit), found.notes


def _turned(found: Comparison) -> Comparison:
    """Second − first in place of first − second; the answer and its p stay those of the question that was put."""
    return replace(
        found,
        first=found.second,
        second=found.first,
        mean=_minus(found.mean),
        low=_minus(found.high),
        high=_minus(found.low),
        low_own=_minus(found.high_own),
        high_own=_minus(found.low_own),
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _check(name: CheckName, found: Comparison, finding: str, limit: float) -> Check:
    withheld = ", which decides nothing with what was left out" if found.withheld else ""
    return Check(name, found.answer, f"{finding}{withheld}", limit, found.n, found.mean, found.low, found.high)


def _forgotten(overlaps: Sequence[Overlap], rule: Rule) -> Check:
    """Is the excess of R_p(theta_0, theta_T) over chance surely below `NEAR_CHANCE`, or (no) surely above it?"""
    overlap = usual_overlap(overlaps)
    if overlap is None:
        return Check("forgotten", "undecided", "R_p of the weights before and after was not measured", NEAR_CHANCE)
    sample = Sample.of(overlap.excesses)
    estimate = plain(sample)
    what = f"R_{overlap.p:g} of the weights before and after dense training, less chance"
    if estimate is None:
        finding = f"{what}: {signed(sample.mean, 3)}, of one seed, which is never a verdict"
        return Check("forgotten", "undecided", finding, NEAR_CHANCE, sample.n, sample.mean)
    low, high = estimate.low(rule.alpha), estimate.high(rule.alpha)
    answer: Answer = "yes" if high < NEAR_CHANCE else "no" if low > NEAR_CHANCE else "undecided"
    finding = f"{what}: {signed(sample.mean, 3)} (bounds {signed(low, 3)} and {signed(high, 3)}, {sample.n} seeds)"
    finding += f"; less than {NEAR_CHANCE:g} counts as forgotten"
    return Check("forgotten", answer, finding, NEAR_CHANCE, sample.n, sample.mean, low, high)


def _overlaps(correlations: Sequence[Correlation], rate: float) -> tuple[Overlap, ...]:
    """R_p(theta_0, theta_T) of the dense runs at a rate, by p; values of diverged runs are no numbers and drop out."""
    rows = [
        row
        for row in correlations
        if row.pair == "theta_0/theta_T" and row.learning_rate == rate and math.isfinite(row.value)
    ]
    by_p = {p: [row for row in rows if row.p == p] for p in sorted({row.p for row in rows})}
    return tuple(
        Overlap(
            p,
            math.fsum(row.value for row in at) / len(at),
            math.fsum(row.expected for row in at) / len(at),
            tuple(row.value - row.expected for row in at),
        )
        for p, at in by_p.items()
    )


def usual_overlap(overlaps: Sequence[Overlap]) -> Overlap | None:
    """R_p at the measured p nearest to the paper's; None when it was not measured."""
    return min(overlaps, key=lambda row: abs(row.p - USUAL_P), default=None)


def explanation(before: Pretraining) -> str | None:
    """What R_p of the dense run says in words, at the p that the check uses; None when it was not measured."""
    overlap = usual_overlap(before.overlaps)
    if overlap is None:
        return None
    means = _meaning(before.checks[-1])
    return (
        f"Of the {overlap.p * 100:g} % largest weights of each layer before dense training, "
        f"{overlap.value * 100:.0f} % are among the largest after it (R_p; by chance {overlap.expected * 100:.0f} %)"
        f"{means}."
    )


def _meaning(check: Check) -> str:
    """What the bounds of R_p's excess over chance show, as the end of a sentence."""
    if check.high is not None and check.high < -check.limit:
        return ": weights that started large are less often large after training than chance would have it"
    return _MEANINGS.get(check.answer, "")


_MEANINGS = {
    "no": ": which weights are large after training still depends on which were large before",
    "yes": ": about as many as if training had forgotten which weights were large before",
}
