"""Paper and here: each published number, ordering and claim that a study can speak to, beside what the study found."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prunetune.analysis.pairing import Chance, Evidence, Place, guessing, percent
from prunetune.analysis.paper import claim_rules
from prunetune.analysis.paper.claim_rules import CONDITION, NOT_TESTED, Finding, Outcome
from prunetune.analysis.paper.published_numbers import (
    Accuracy,
    Cell,
    Ordering,
    Overlap,
    OverlapOrder,
    TableA1,
    Winning,
    published,
)
from prunetune.analysis.paper.scale import Scale
from prunetune.analysis.pretraining import NEAR_CHANCE
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict
from prunetune.rows import Correlation, Results

SAME_SPARSITY = 0.005  # the paper gives its sparsities in whole percents
TABLE_A1 = Cell("finetune", "admm", 0.1)
TABLE_A1_SPARSITY, TABLE_A1_P = 0.5, 0.2
LOW, DESIRABLE = 0.01, 0.1  # the paper's learning rates; at the second R_p is near chance
DENSE_PAIR, CONDITION_P = "theta_0/theta_T", 0.2
_ANSWERS: dict[str, Outcome] = {"holds": "agrees", "fails": "disagrees", "inconclusive": "undecided"}


@dataclass(frozen=True)
class PaperRow:
    """One published thing and its counterpart here. Accuracies and differences in points, R_p as shares.

    `here` with its one-sided bounds at alpha is the mean over seeds of: the number itself; the deciding difference of
    an ordering or of the winning property; the excess of R_p over chance that decides a claim about it.
    """

    kind: Literal["winning", "overlap", "ordering", "accuracy", "correlation"]
    place: str  # in the paper
    claim: str
    published: float | str
    here: float | None
    low: float | None
    high: float | None
    n: int
    answer: Outcome
    paper_scale: bool  # whether model, data, settings and κ are the paper's (the number of seeds may differ)
    why: str


@dataclass(frozen=True)
class _Study:
    """What the rules look at."""

    evidence: Evidence
    correlations: tuple[Correlation, ...]
    verdicts: tuple[Verdict, ...]
    rule: Rule
    scale: Scale

    def dense_overlaps(self, rate: float) -> list[Correlation]:
        """R_.2(θ0, θT) of every seed."""
        return [
            row
            for row in self.correlations
            if (row.pair, row.learning_rate, row.p) == (DENSE_PAIR, rate, CONDITION_P) and math.isfinite(row.value)
        ]

    def sparsities(self, low: float, high: float) -> list[float]:
        """The sparsities tried between two, which the paper gives in whole percents."""
        found = {sparsity for _, mask, _, sparsity in self.evidence.places if mask is not None}
        return sorted(at for at in found if low - SAME_SPARSITY <= at <= high + SAME_SPARSITY)


def paper_rows(results: Results, verdicts: Sequence[Verdict], rule: Rule) -> tuple[PaperRow, ...]:
    """The rows of the section, claims first; none where the study bears on nothing that the paper says.

    General claims always have a row; numbers, and what is claimed of one network, only with that model and data. The
    paper speaks of accuracies, so that a study with other scores has none.
    """
    if not rule.metric.is_accuracy:
        return ()
    chance = Chance.of(**guessing(results.environment))
    evidence = Evidence(results.trials, results.missing, chance, ragged=bool(rule.looks))
    scale = scale_of(results)
    study = _Study(evidence, results.correlations, tuple(verdicts), rule, scale)
    known = published()
    rows = [
        *(_winning_row(claim, study) for claim in known.winning if _concerns(claim, scale)),
        *(_overlap_row(claim, study) for claim in known.overlaps),
        *(_overlap_order_row(claim, study) for claim in known.overlap_orders),
        *(_ordering_row(claim, study) for claim in known.orderings if _concerns(claim, scale)),
        *(_accuracy_row(value, study) for value in known.accuracies if _concerns(value, scale)),
        *(_correlation_row(value, study) for value in known.correlations if _concerns(value, scale)),
    ]
    return tuple(rows) if any(row.here is not None for row in rows) else ()


def scale_of(results: Results) -> Scale:
    """What of the study is not as in the paper."""
    return Scale.of(results)


def _concerns(published: Winning | Ordering | Accuracy | TableA1, scale: Scale) -> bool:
    network = scale.model, scale.data
    if isinstance(published, Winning) and network in published.exceptions:
        return False
    return published.model is None or (published.model, published.data) == network


def _winning_row(claim: Winning, study: _Study) -> PaperRow:
    says = f"winning property at {claim.learning_rate:g}, {claim.mask} masks"
    key = claim.mask, claim.learning_rate
    verdict = next((one for one in study.verdicts if (one.mask, one.learning_rate) == key and one.tests), None)
    finding = _absent(*key) if verdict is None else _winning(verdict, claim.published)
    return _row("winning", claim.place, says, claim.published, _in_regime(finding, [claim.learning_rate], study), study)


def _winning(verdict: Verdict, expected: str) -> Finding:
    """The verdict's answer, with the half that refuses at the lowest sparsity, or the weaker where it holds."""
    answer = _ANSWERS[verdict.winning_property]
    if expected == "fails" and answer != "undecided":
        answer = "disagrees" if answer == "agrees" else "agrees"
    test = next((test for test in verdict.tests if test.sparsity == verdict.sparsity), verdict.tests[0])
    halves = (test.dense, test.reinit)
    half = next((half for half in halves if half.answer == test.answer), test.dense)
    why = f"{verdict.winning_property}; {half.first} − {half.second} at {percent(test.sparsity)}"
    if half.low is None:
        return Finding(NOT_TESTED, half.mean, n=half.n, why=claim_rules.ONE_SEED)
    return Finding(answer, half.mean, half.low, half.high, half.n, why)


def _overlap_row(claim: Overlap, study: _Study) -> PaperRow:
    masks = "" if claim.mask is None else f", {claim.mask} masks"
    says = f"R_p({claim.pair.replace('/', ', ')}) {claim.published} chance at {claim.learning_rate:g}{masks}"
    low, high = claim.sparsities or (0.0, 0.0)
    chosen = [
        row
        for row in study.correlations
        if (row.pair, row.learning_rate) == (claim.pair, claim.learning_rate)
        and claim.mask in (None, row.mask)
        and low <= row.sparsity <= high
    ]
    excesses = _excesses(chosen)
    if not excesses:
        finding = Finding(NOT_TESTED, why="this study does not measure it")
    else:
        finding = claim_rules.overlap(list(excesses.items()), claim.published, NEAR_CHANCE, study.rule.alpha)
        finding = _withheld(finding, "the values of diverged trainings are left out", len(chosen) - _counted(excesses))
        finding = _in_regime(finding, [claim.learning_rate], study, conditional=claim.pair != DENSE_PAIR)
    return _row("overlap", claim.place, says, claim.published, finding, study)


def _overlap_order_row(claim: OverlapOrder, study: _Study) -> PaperRow:
    says = f"R_p({claim.pair.replace('/', ', ')}) at {claim.higher:g} > at {claim.lower:g}"
    chosen = [row for row in study.correlations if row.pair == claim.pair and math.isfinite(row.value)]
    high, low = (
        {(row.p, row.seed): row.value for row in chosen if row.learning_rate == rate}
        for rate in (claim.higher, claim.lower)
    )
    differences: dict[str, list[float]] = {}
    for p, seed in sorted(high.keys() & low.keys()):
        differences.setdefault(f"p = {p:g}", []).append(high[p, seed] - low[p, seed])
    if not differences:
        finding = Finding(NOT_TESTED, why="this study does not measure it at both rates")
    else:
        finding = claim_rules.overlap(list(differences.items()), "above", 0.0, study.rule.alpha)
        finding = _in_regime(finding, [claim.higher, claim.lower], study, conditional=False)
    return _row("overlap", claim.place, says, "superiority", finding, study)


def _excesses(rows: Sequence[Correlation]) -> dict[str, list[float]]:
    """R_p minus chance over seeds, for each mask, sparsity and p."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if math.isfinite(row.value):
            where = f"p = {row.p:g}" if row.mask is None else f"{row.mask} masks at {percent(row.sparsity)}"
            found.setdefault(where, []).append(row.value - row.expected)
    return found


def _counted(excesses: dict[str, list[float]]) -> int:
    return sum(map(len, excesses.values()))


def _ordering_row(claim: Ordering, study: _Study) -> PaperRow:
    low, high = claim.sparsities or (study.rule.nontrivial_sparsity, 1.0)
    steps, gone = _steps(claim, study, study.sparsities(low, high))
    if gone is not None:
        finding = _absent(gone.mask, gone.learning_rate, gone.arm)
    else:
        finding = claim_rules.ordering(
            claim.kind, [(_step_name(pair), study.evidence.pairs(*pair)) for pair in steps], study.rule
        )
        finding = _in_regime(finding, sorted({cell.learning_rate for step in claim.steps for cell in step}), study)
    return _row("ordering", claim.place, claim.says, claim.kind, finding, study)


def _steps(
    claim: Ordering, study: _Study, sparsities: Sequence[float]
) -> tuple[list[tuple[Place, Place]], Cell | None]:
    """Every comparison that a claim makes, or a cell of it that this study lacks at all of the sparsities."""
    found: list[tuple[Place, Place]] = []
    for first, second in claim.steps:
        at = [0.0] if first.mask is None and second.mask is None else sparsities
        pairs = [(_place(first, sparsity), _place(second, sparsity)) for sparsity in at]
        for cell, column in ((first, 0), (second, 1)):
            if not any(pair[column] in study.evidence.places for pair in pairs):
                return [], cell
        found += [pair for pair in pairs if study.evidence.places.issuperset(pair)]
    return found, None


def _place(cell: Cell, sparsity: float) -> Place:
    return cell.arm, cell.mask, cell.learning_rate, 0.0 if cell.mask is None else sparsity


def _step_name(pair: tuple[Place, Place]) -> str:
    """`finetune (admm) − finetune (iterative) at 62.29 %`."""
    (arm, mask, rate, sparsity), (other, other_mask, other_rate, _) = pair
    if other_mask is None and mask is None:
        return f"{arm} at {rate:g} − {other} at {other_rate:g}"
    if rate != other_rate:
        return f"{arm} at {rate:g} − {other} at {other_rate:g}, {percent(pair[1][3])}"
    beside = (f" ({mask})", f" ({other_mask})") if mask != other_mask and other_mask else ("", "")
    return f"{arm}{beside[0]} − {other}{beside[1]} at {percent(max(sparsity, pair[1][3]))}"


def _accuracy_row(value: Accuracy, study: _Study) -> PaperRow:
    cell = value.cell
    masks = "" if cell.mask is None else f", {cell.mask} masks, {percent(value.sparsity)}"
    says = f"accuracy of {cell.arm} at {cell.learning_rate:g}{masks}, {value.model} on {value.data}"
    at = [0.0] if cell.mask is None else study.sparsities(value.sparsity, value.sparsity)
    place = next((spot for spot in (_place(cell, one) for one in at) if study.evidence.scores(spot)), None)
    if place is None:
        finding = _absent(cell.mask, cell.learning_rate, cell.arm)
    else:
        values = list(study.evidence.scores(place).values())
        finding = claim_rules.number(values, value.value, study.rule.margin, study.rule.alpha, "")
        notes = study.evidence.notes(place)
        finding = _only_at_scale(_withheld(finding, "; ".join(notes), len(notes)), study.scale)
    return _row("accuracy", value.place, says, value.value, finding, study)


def _correlation_row(value: TableA1, study: _Study) -> PaperRow:
    says = f"R_.2({value.pair.replace('/', ', ')}), {TABLE_A1.mask} masks, 50 %, {value.model} on {value.data}"
    rows = [
        row
        for row in study.correlations
        if (row.pair, row.mask, row.learning_rate, row.p)
        == (value.pair, TABLE_A1.mask, TABLE_A1.learning_rate, TABLE_A1_P)
        and abs(row.sparsity - TABLE_A1_SPARSITY) <= SAME_SPARSITY
    ]
    values = [row.value for row in rows if math.isfinite(row.value)]
    if not values:
        finding = Finding(NOT_TESTED, why="this study does not measure it")
    else:
        finding = claim_rules.number(values, value.value, NEAR_CHANCE, study.rule.alpha, "")
        finding = _withheld(finding, "the values of diverged trainings are left out", len(rows) - len(values))
        finding = _only_at_scale(finding, study.scale)
    return _row("correlation", "Table A1", says, value.value, finding, study)


def _absent(mask: str | None, rate: float, arm: str | None = None) -> Finding:
    what = f"{arm or 'ticket'} at {rate:g}" if mask is None else f"{arm or 'ticket'} with {mask} masks at {rate:g}"
    where = "" if mask is None else ", at the sparsities that count"
    return Finding(NOT_TESTED, why=f"this study has no {what}{where}")


def _withheld(finding: Finding, note: str, lost: int) -> Finding:
    """What is left out may flatter what remains, so that it no longer agrees."""
    if not lost:
        return finding
    answer: Outcome = "undecided" if finding.answer == "agrees" else finding.answer
    return replace(finding, answer=answer, why="; ".join(filter(None, [finding.why, note])))


def _only_at_scale(finding: Finding, scale: Scale) -> Finding:
    """A number can be compared at the paper's settings only; the value stays beside."""
    return _answered(finding, NOT_TESTED, scale.differs) if scale.differs else finding


def _in_regime(finding: Finding, rates: Sequence[float], study: _Study, conditional: bool = True) -> Finding:
    """What a claim about these learning rates comes to in a study that may not be in the paper's regime there.

    What is said of the desirable rate holds where R_p(θ0, θT) is near chance, but for what is said of that R_p itself.
    """
    if finding.answer == NOT_TESTED:
        return finding
    reasons = (*_unlike_overlaps(rates, study), *study.scale.bars(rates)) if conditional else study.scale.bars(rates)
    if conditional and DESIRABLE in rates and not _near_chance(study):
        return _answered(finding, CONDITION, reasons)
    return _answered(finding, NOT_TESTED, reasons) if reasons else finding


def _near_chance(study: _Study) -> bool:
    """Whether R_.2(θ0, θT) at the desirable rate is shown to lie within 0.05 of chance."""
    excesses = [row.value - row.expected for row in study.dense_overlaps(DESIRABLE)]
    if not excesses:
        return False
    return claim_rules.overlap([("", excesses)], "near", NEAR_CHANCE, study.rule.alpha).answer == "agrees"


def _unlike_overlaps(rates: Sequence[float], study: _Study) -> Iterator[str]:
    """How R_.2(θ0, θT) is not as in the paper: near chance at the desirable rate, above it at the low one."""
    if DESIRABLE in rates and not _near_chance(study):
        found = study.dense_overlaps(DESIRABLE)
        is_there = f"is {_values(found)}, not shown to be within {NEAR_CHANCE:g} of it" if found else "is not measured"
        yield f"R_.2(θ0, θT) at {DESIRABLE:g} {is_there}"
    low = study.dense_overlaps(LOW) if LOW in rates else []
    if low and math.fsum(row.value - row.expected for row in low) <= NEAR_CHANCE * len(low):
        yield f"R_.2(θ0, θT) at {LOW:g} is {_values(low)}, and above it in the paper"


def _values(rows: Sequence[Correlation]) -> str:
    """The mean of R_p over seeds, and of chance."""
    value, chance = (math.fsum(getattr(row, name) for row in rows) / len(rows) for name in ("value", "expected"))
    return f"{value:.3f} with chance at {chance:.3f}"


def _answered(finding: Finding, answer: Outcome, reasons: Sequence[str]) -> Finding:
    return replace(finding, answer=answer, why="; ".join(filter(None, [finding.why, *reasons])))


def _row(
    kind: Literal["winning", "overlap", "ordering", "accuracy", "correlation"],
    place: str,
    claim: str,
    published: float | str,
    finding: Finding,
    study: _Study,
) -> PaperRow:
    return PaperRow(
        kind=kind,
        place=place,
        claim=claim,
        published=published,
        here=finding.mean,
        low=finding.low,
        high=finding.high,
        n=finding.n,
        answer=finding.answer,
        paper_scale=study.scale.is_papers,
        why=finding.why,
    )
