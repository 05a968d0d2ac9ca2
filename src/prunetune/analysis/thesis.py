"""Does the paper's explanation of a ticket's lead, that its training left θ0 in place, hold (docs/how-to/compare.md)?

The explanation says that the ticket's lead over reinit rises with R_p(θ0, θT) and is gone where R_p is at chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunetune.analysis.comparison import sample_of
from prunetune.analysis.regimes import (
    LEAD,
    SAME_SPARSITY,
    TO_DENSE,
    Regime,
    middle_sparsity,
    pick,
    sparsity_names,
    usual_mask,
)
from prunetune.analysis.relations import RESAMPLES, Relation, Slope, relation, slope_within
from prunetune.analysis.statistics import Estimate, Rule, Sample, holm, plain
from prunetune.errors import given

Explanation = Literal["holds", "fails", "not decided"]
FAR = 0.15  # an excess of R_p over chance of at least this is called far above chance
LEAST_RUNS = 5  # dense runs under the fixed mask and sparsity: fewer make no relation


@dataclass(frozen=True)
class AtChance:
    """ticket − reinit at a regime whose R_p is about chance, held against the gap both ways (paired t, own spread).

    `p_equal` is the larger of the two one-sided tests (TOST) of "within the gap of zero", `p_above` of "above the gap".
    The Holm p of `p_above` runs over the regimes that count as counterexamples; None where the regime cannot be one.
    """

    regime: str
    n: int
    mean: float | None
    low: float | None  # one-sided bounds at alpha each
    high: float | None
    p_equal: float | None
    p_equal_holm: float | None
    p_above: float | None
    p_above_holm: float | None
    shortfall: float | None
    dense_matches: bool
    answer: Literal["within the gap", "above the gap", "undecided"]


@dataclass(frozen=True)
class Together:
    """ticket − reinit over all regimes about chance of one sparsity, or of one dense run: the mean of each seed's mean.

    `p_equal` is of "within the gap of zero" (TOST, paired t over seeds).
    """

    of: str
    regimes: int
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p_equal: float | None


@dataclass(frozen=True)
class Thesis:
    """The verdict on the explanation, and all that it rests on."""

    explanation: Explanation
    reasons: tuple[str, ...]
    mask: str | None  # fixed in advance, for the relation
    sparsity: float | None
    relations: tuple[Relation, ...]
    slopes: tuple[Slope, ...]
    at_chance: tuple[AtChance, ...]
    together: tuple[Together, ...]

    @property
    def main(self) -> Relation | None:
        """R_p's excess and ticket − reinit at the fixed mask and sparsity: what the verdict reads."""
        return next(iter(self.relations), None)

    @property
    def within_length(self) -> Slope | None:
        """The slope of ticket − reinit among regimes of one length."""
        return next(iter(self.slopes), None)


def judge_thesis(
    regimes: Sequence[Regime],
    rule: Rule,
    mask: str | None = None,
    sparsity: float | None = None,
    resamples: int = RESAMPLES,
    brief: bool = False,
) -> Thesis:
    """Judge the explanation over regimes, the relation at one mask and sparsity (else the usual mask, the middle one).

    `brief`, for simulations, computes no more than decides the verdict.
    """
    mask = usual_mask(regimes) if mask is None else mask
    if mask is not None and sparsity is None:
        sparsity = middle_sparsity(regimes, mask, rule.nontrivial_sparsity)
    fixed = [] if mask is None or sparsity is None else pick(regimes, mask, sparsity)
    chance, together = at_chance(regimes, rule), leads_together(regimes, rule)
    relations = (relation(fixed, "R_p excess", LEAD, "fixed", rule.alpha, resamples, brief),)
    known = fixed if relations[0].low is not None or not brief else []
    slopes = (slope_within(known, "length", LEAD, rule.alpha, resamples),)
    explanation, reasons = _settle(fixed, relations[0], slopes[0], chance, together, rule)
    if not brief:
        relations += _other_relations(fixed, regimes, rule, resamples)
        slopes += _other_slopes(fixed, rule, resamples)
    return Thesis(explanation, reasons, mask, sparsity, relations, slopes, chance, together)


def at_chance(regimes: Sequence[Regime], rule: Rule) -> tuple[AtChance, ...]:
    """The tests at every regime of a non-trivial sparsity whose R_p is about chance."""
    near = _near(regimes, rule)
    estimates = [plain(sample_of(row.leads[LEAD])) for row in near]
    equal = [_p_equal(estimate, row, rule) for row, estimate in zip(near, estimates, strict=True)]
    above = [_p_above(estimate, row, rule) for row, estimate in zip(near, estimates, strict=True)]
    corrected = holm([1.0 if p is None else p for p in equal])
    counted = [i for i, p in enumerate(above) if p is not None and near[i].dense_matches]
    against = dict(zip(counted, holm([above[i] or 0.0 for i in counted]), strict=True))
    return tuple(
        _chance_row(row, estimates[i], equal[i], corrected[i], above[i], against.get(i), rule)
        for i, row in enumerate(near)
    )


def leads_together(regimes: Sequence[Regime], rule: Rule) -> tuple[Together, ...]:
    """The lead at all regimes about chance, sparsity by sparsity and dense run by dense run."""
    groups: dict[str, list[Regime]] = {}
    near = _near(regimes, rule)
    names = sparsity_names(near)
    for row in sorted(near, key=lambda row: row.sparsity):
        groups.setdefault(f"sparsity {names[row.sparsity]}", []).append(row)
    for row in near:
        groups.setdefault(f"{row.study}, rate {row.learning_rate:g}", []).append(row)
    return tuple(_together(of, rows, rule) for of, rows in groups.items())


def _near(regimes: Sequence[Regime], rule: Rule) -> list[Regime]:
    least = rule.nontrivial_sparsity - SAME_SPARSITY
    return [row for row in regimes if row.near_chance and row.sparsity >= least]


def _together(of: str, rows: Sequence[Regime], rule: Rule) -> Together:
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        for seed, value in zip(row.leads[LEAD].seeds, row.leads[LEAD].differences, strict=True):
            by_seed.setdefault(seed, []).append(value)
    means = [math.fsum(values) / len(values) for _, values in sorted(by_seed.items())]
    sample = Sample.of(means)
    estimate = plain(sample)
    blocked_answers = any("no" in row.leads[LEAD].blocked_answers for row in rows)
    p = None if estimate is None or blocked_answers else _tost(estimate, rule)
    low, high = (estimate.low(rule.alpha), estimate.high(rule.alpha)) if estimate else (None, None)
    return Together(of, len(rows), sample.n, sample.mean, low, high, p)


def _chance_row(
    row: Regime,
    estimate: Estimate | None,
    equal: float | None,
    equal_holm: float,
    above: float | None,
    above_holm: float | None,
    rule: Rule,
) -> AtChance:
    counter = above_holm is not None and above_holm < rule.alpha / 2
    within = equal is not None and equal < rule.alpha
    return AtChance(
        regime=row.label,
        n=len(row.leads[LEAD].differences),
        mean=row.mean(LEAD),
        low=estimate.low(rule.alpha) if estimate else None,
        high=estimate.high(rule.alpha) if estimate else None,
        p_equal=equal,
        p_equal_holm=None if equal is None else equal_holm,
        p_above=above,
        p_above_holm=above_holm,
        shortfall=row.shortfall,
        dense_matches=row.dense_matches,
        answer="above the gap" if counter else "within the gap" if within else "undecided",
    )


def _p_equal(estimate: Estimate | None, row: Regime, rule: Rule) -> float | None:
    """TOST; nothing where trainings that diverged or never learned forbid a `no lead`."""
    if estimate is None or "no" in row.leads[LEAD].blocked_answers:
        return None
    return _tost(estimate, rule)


def _tost(estimate: Estimate, rule: Rule) -> float:
    return max(1.0 - estimate.p_above(rule.gap), estimate.p_above(-rule.gap))


def _p_above(estimate: Estimate | None, row: Regime, rule: Rule) -> float | None:
    return None if estimate is None or "yes" in row.leads[LEAD].blocked_answers else estimate.p_above(rule.gap)


def _other_relations(
    fixed: Sequence[Regime], regimes: Sequence[Regime], rule: Rule, resamples: int
) -> tuple[Relation, ...]:
    return (
        relation(fixed, "R_p excess", TO_DENSE, "fixed", rule.alpha, resamples),
        *(relation(fixed, "kappa", lead, "fixed", rule.alpha, resamples) for lead in (LEAD, TO_DENSE)),
        *(relation(regimes, "R_p excess", lead, "all", rule.alpha, resamples) for lead in (LEAD, TO_DENSE)),
        *(relation(regimes, "kappa", lead, "all", rule.alpha, resamples) for lead in (LEAD, TO_DENSE)),
    )


def _other_slopes(fixed: Sequence[Regime], rule: Rule, resamples: int) -> tuple[Slope, ...]:
    return (
        slope_within(fixed, "rate", LEAD, rule.alpha, resamples),
        *(slope_within(fixed, within, TO_DENSE, rule.alpha, resamples) for within in ("length", "rate")),
    )


def _settle(
    fixed: Sequence[Regime],
    main: Relation,
    slope: Slope,
    chance: Sequence[AtChance],
    together: Sequence[Together],
    rule: Rule,
) -> tuple[Explanation, tuple[str, ...]]:
    counter = [row for row in chance if row.answer == "above the gap"]
    if counter:
        named = "; ".join(
            f"{row.regime}: {rule.metric.text_difference(given(row.mean, 'a test was made'))} "
            f"(Holm p {row.p_above_holm:.2g})"
            for row in counter
        )
        return "fails", (f"R_p is about chance and the ticket leads reinit by more than the gap all the same: {named}",)
    if lacking := _lacking(fixed, main, slope, chance):
        return "not decided", lacking
    if _falls(main, rule.alpha / 2) and _falls(slope, rule.alpha / 2):
        return "fails", ("the ticket's lead falls where R_p is higher, also among trainings of one length",)
    doubts = _doubts(main, slope, together, rule)
    if doubts:
        return "not decided", doubts
    return "holds", (
        "the ticket's lead rises with R_p, also among trainings of one length, and is within the gap of zero where R_p "
        "is about chance, at every sparsity and in every dense run",
    )


def _lacking(fixed: Sequence[Regime], main: Relation, slope: Slope, chance: Sequence[AtChance]) -> tuple[str, ...]:
    """What the studies do not have that the question needs."""
    far = any(row.mean_excess >= FAR for row in fixed)
    found = []
    if not chance:
        found.append("no regime of a non-trivial sparsity has R_p about chance")
    if not far:
        found.append(f"no regime of the fixed mask and sparsity has R_p at least {FAR:g} above chance")
    if main.runs < LEAST_RUNS or main.rho is None:
        found.append(f"{main.runs} dense runs have the fixed mask and sparsity; a relation needs {LEAST_RUNS}")
    elif slope.slope is None:
        found.append("too few regimes of one length differ in R_p: it cannot be told from length")
    return tuple(found)


def _doubts(main: Relation, slope: Slope, together: Sequence[Together], rule: Rule) -> tuple[str, ...]:
    found = []
    if not _rises(main, rule.alpha):
        found.append("over all dense runs, a rise of the ticket's lead with R_p is not shown")
    if not _rises(slope, rule.alpha):
        found.append("among trainings of one length, a rise of the ticket's lead with R_p is not shown")
    open_ = [row.of for row in together if row.p_equal is None or row.p_equal >= rule.alpha]
    if open_:
        found.append(
            f"where R_p is about chance, the lead is not shown to be within the gap of zero: {', '.join(open_)}"
        )
    return tuple(found)


def _rises(found: Relation | Slope, alpha: float) -> bool:
    return found.low is not None and found.low > 0 and found.p_rise is not None and found.p_rise < alpha


def _falls(found: Relation | Slope, alpha: float) -> bool:
    return found.high is not None and found.high < 0 and found.p_fall is not None and found.p_fall < alpha
