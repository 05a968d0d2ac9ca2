"""How often a study whose seeds are added one batch after another may be looked at, and what each look costs.

Looking several times at level alpha says `holds` or `fails` falsely more often than alpha. So alpha is spent: by the
time the share t of the most seeds is in, alpha * ln(1 + (e - 1) t) of it in all, Lan and DeMets' (1983) spending
function of Pocock's type. What a look adds is its level. The levels sum to alpha, so that the chance of a false
answer at any look is at most alpha whatever the joint distribution of the looks: t tests with shrunk variances and
Holm's correction are no normal increments, for which exact bounds are tabled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunetune.report.statistics import Rule


@dataclass(frozen=True)
class Look:
    """A number of seeds at which a verdict is asked for, the level of its bounds, and what is spent by then."""

    seeds: int
    alpha: float
    spent: float


def spent(alpha: float, share: float) -> float:
    """Of an error rate alpha, what may be spent when `share`, in [0, 1], of the most seeds is in."""
    return alpha * math.log1p((math.e - 1) * share)


def plan_looks(alpha: float, seeds: Sequence[int]) -> tuple[Look, ...]:
    """The looks of a study that is judged at these growing numbers of seeds; one alone is at `alpha` itself.

    >>> [round(look.alpha, 4) for look in plan_looks(0.05, (5, 10, 15, 20))]
    [0.0179, 0.0131, 0.0104, 0.0086]
    """
    totals = [spent(alpha, count / seeds[-1]) for count in seeds[:-1]] + [alpha]
    before = [0.0, *totals[:-1]]
    return tuple(Look(n, now - then, now) for n, then, now in zip(seeds, before, totals, strict=True))


def taken(rule: Rule, reached: int) -> tuple[Look, ...]:
    """The looks that a study with `reached` seeds has taken: the first in any case."""
    first, *later = plan_looks(rule.alpha, rule.looks)
    return (first, *(look for look in later if look.seeds <= reached))
