"""Which of R_p, κ and the measured quantities predicts ticket − reinit over regimes (docs/how-to/compare.md)?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunetune.analysis.regimes import LEAD, QUANTITIES, Regime
from prunetune.analysis.relations import PREDICTORS, RESAMPLES, Relation, has, relation
from prunetune.analysis.statistics import Rule, holm


@dataclass(frozen=True)
class Prediction:
    """Spearman's ρ of one predictor and ticket − reinit over the dense runs that have it; `partial` given accuracy.

    `p` is two-sided, by permuting the predictor over dense runs; `p_holm` is corrected over all predictors shown. The
    answer is other than `not shown` where `p_holm` is below alpha and the interval is on one side of 0.
    """

    predictor: str
    runs: int
    rho: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    partial: float | None
    partial_low: float | None
    partial_high: float | None
    answer: Literal["rises", "falls", "not shown"]


def predictions(rows: Sequence[Regime], rule: Rule, resamples: int = RESAMPLES) -> tuple[Prediction, ...]:
    """A row for every predictor that a regime of `rows`, all of one mask and sparsity, has."""
    names = [name for name in PREDICTORS if any(has(row, name) for row in rows)]
    found = [relation(rows, name, LEAD, "fixed", rule.alpha, resamples) for name in names]
    tested = {row.predictor: p for row in found if (p := _two_sided(row)) is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(_prediction(row, tested.get(row.predictor), corrected.get(row.predictor), rule) for row in found)


def measured(rows: Sequence[Regime]) -> bool:
    """Whether any of these regimes has a quantity besides R_p and κ."""
    return any(has(row, name) for row in rows for name in QUANTITIES)


def _prediction(found: Relation, p: float | None, p_holm: float | None, rule: Rule) -> Prediction:
    shown = p_holm is not None and p_holm < rule.alpha
    rises = shown and found.low is not None and found.low > 0
    falls = shown and found.high is not None and found.high < 0
    return Prediction(
        found.predictor, found.runs, found.rho, found.low, found.high, p, p_holm,
        found.partial, found.partial_low, found.partial_high,
        answer="rises" if rises else "falls" if falls else "not shown",
    )  # fmt: skip


def _two_sided(found: Relation) -> float | None:
    if found.p_rise is None or found.p_fall is None:
        return None
    return min(1.0, 2 * min(found.p_rise, found.p_fall))
