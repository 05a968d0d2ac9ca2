"""Was the dense network trained well enough at a rate, and what does the weight correlation say beside it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunetune.analysis.comparison import Comparison, compare, figures, matches, sample_of
from prunetune.analysis.pairing import Evidence, Place
from prunetune.analysis.statistics import Rule, plain
from prunetune.study.results import Correlation

Sufficiency = Literal["sufficient", "insufficient", "inconclusive"]

USUAL_P = 0.2  # the paper's p for sparse networks; the explanation quotes the measured p nearest to it
NEAR_CHANCE = 0.05  # an excess of R_p over chance of less than this is called "about chance"

_ANSWERS: dict[str, Sufficiency] = {"yes": "sufficient", "no": "insufficient", "undecided": "inconclusive"}


@dataclass(frozen=True)
class Overlap:
    """Mean R_p(theta_0, theta_T) over seeds at one p; `expected` is what independent weights would give."""

    p: float
    value: float
    expected: float

    @property
    def excess(self) -> float:
        """What training left of the order of the initial weights, beyond chance."""
        return self.value - self.expected


@dataclass(frozen=True)
class Pretraining:
    """The answer at one learning rate: dense accuracy here minus dense accuracy at the best rate tried."""

    learning_rate: float
    answer: Sufficiency
    best: float | None  # the rate with the best mean dense accuracy; None when that is not known
    comparison: Comparison | None  # None at the best rate itself and where there is nothing to compare
    finding: str  # a sentence's worth of why, without its full stop
    overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...]  # what was left out

    @property
    def reasons(self) -> tuple[str, ...]:
        """The finding, what was left out, and the weight correlation beside it."""
        beside = explanation(self)
        return (f"pre-training {self.answer}: {self.finding}.", *self.notes, *([beside] if beside else []))


def pretraining(evidence: Evidence, rule: Rule, correlations: Sequence[Correlation]) -> dict[float, Pretraining]:
    """The sufficiency of pre-training at every learning rate of a study, sorted by rate."""
    rates = sorted({rate for _, _, rate, _ in evidence.places})
    best = _best_rate(evidence, rates)
    return {rate: _judge_rate(evidence, rule, rate, rates, best, _overlaps(correlations, rate)) for rate in rates}


def dense(rate: float) -> Place:
    """Where the dense runs of a learning rate are filed."""
    return "dense", None, rate, 0.0


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
    notes = evidence.notes(dense(rate))
    if hindrance := _hindrance(evidence, rates, best):
        return Pretraining(rate, "inconclusive", best, None, hindrance, overlaps, notes)
    assert best is not None  # _hindrance names a study without one
    if rate == best:
        finding = f"Of the {len(rates)} rates tried, this one gives the dense network its best mean accuracy"
        return Pretraining(rate, "sufficient", best, None, finding, overlaps, notes)
    pairs = evidence.pairs(dense(rate), dense(best))
    comparison = compare(pairs, plain(sample_of(pairs)), matches(rule), rule.alpha)
    finding = f"Dense accuracy at this rate, compared with rate {best:g}, the best tried: {figures(comparison)}"
    return Pretraining(rate, _ANSWERS[comparison.answer], best, comparison, finding, overlaps, comparison.notes)


def _hindrance(evidence: Evidence, rates: Sequence[float], best: float | None) -> str | None:
    """Why no rate of this study can be judged, if so."""
    if len(rates) < 2:
        return "Only one learning rate was tried, so its dense accuracy has nothing to be compared with"
    if best is None:
        return "No dense training has a result at any learning rate"
    if len(evidence.accuracies(dense(best))) < 2:
        return "One seed is never a verdict"
    if evidence.stuck(dense(best)):
        return f"Even at rate {best:g}, the best tried, a dense network is no better than guessing"
    return None


def _overlaps(correlations: Sequence[Correlation], rate: float) -> tuple[Overlap, ...]:
    """R_p(theta_0, theta_T) of the dense runs at a rate, by p; values of diverged runs are no numbers and drop out."""
    rows = [
        row
        for row in correlations
        if row.pair == "theta_0/theta_T" and row.learning_rate == rate and math.isfinite(row.value)
    ]
    by_p = {p: [row for row in rows if row.p == p] for p in sorted({row.p for row in rows})}
    return tuple(
        Overlap(p, math.fsum(row.value for row in at) / len(at), math.fsum(row.expected for row in at) / len(at))
        for p, at in by_p.items()
    )


def explanation(before: Pretraining) -> str | None:
    """What R_p says beside the answer, at the measured p nearest to the paper's; None when it was not measured."""
    overlap = min(before.overlaps, key=lambda row: abs(row.p - USUAL_P), default=None)
    if overlap is None:
        return None
    return (
        f"Of the {overlap.p * 100:g} % largest weights of each layer before dense training, "
        f"{overlap.value * 100:.0f} % are among the largest after it (R_p; by chance {overlap.expected * 100:.0f} %). "
        f"{overlap_means(before.answer, overlap)}"
    )


def overlap_means(answer: Sufficiency, overlap: Overlap) -> str:
    """What an R_p says beside the answer that the accuracies gave: it explains and never decides."""
    if abs(overlap.excess) < NEAR_CHANCE:
        return _ABOUT_CHANCE[answer]
    return _ABOVE_CHANCE[answer] if overlap.excess > 0 else _BELOW_CHANCE


_MOVED_LITTLE = "So training moved many weights little compared with their initial spread"
_FORGOTTEN = "So which weights are large after training hardly depends on the initial weights"

_ABOVE_CHANCE: dict[Sufficiency, str] = {
    "sufficient": (
        f"{_MOVED_LITTLE}, and yet no rate tried is more accurate by more than the margin. In the paper's long "
        "trainings this share fell to about chance where the rate was sufficient; here it did not, so a share above "
        "chance does not by itself show too little training. The accuracies decide."
    ),
    "insufficient": (
        f"{_MOVED_LITTLE}, which fits a dense accuracy below that of the best rate; by itself it would not show too "
        "little training."
    ),
    "inconclusive": f"{_MOVED_LITTLE}; whether it was too little, the accuracies do not decide.",
}
_ABOUT_CHANCE: dict[Sufficiency, str] = {
    "sufficient": f"{_FORGOTTEN}, as at the paper's sufficient rate.",
    "insufficient": f"{_FORGOTTEN}: weights that stayed where they were do not explain the lower accuracy.",
    "inconclusive": f"{_FORGOTTEN}; whether training was sufficient, the accuracies do not decide.",
}
_BELOW_CHANCE = "So weights that started large are less often large after training than chance would have it."
