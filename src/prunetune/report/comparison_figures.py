"""The pictures of a comparison: a point for every regime, the ticket's lead by κ and sparsity, and the arm `mixed`."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from prunetune.analysis.comparison import sample_of
from prunetune.analysis.pairing import Pairs, percent
from prunetune.analysis.regimes import LEAD, TO_DENSE, Regime, pick, sparsity_names
from prunetune.analysis.statistics import plain
from prunetune.report.comparison import Found
from prunetune.report.figures import Drawing, Group, legend
from prunetune.report.marks import panel
from prunetune.report.svg import colour, drawing_style
from prunetune.study.slugs import slug

ROLES = ("ticket", "reinit", "finetune", "rewind", "shuffle", "other-1", "other-2", "other-3")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
KAPPAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
MIXED = re.compile(r"mixed\(([0-9.eE+-]+)\)")
EXCESS_AXIS = "R_p(θ_0, θ_T) − chance"
KAPPA_AXIS = "κ, logarithmic"


@dataclass(frozen=True)
class Dot:
    """A mean in points with its two-sided interval, where there is one."""

    x: float
    mean: float
    bounds: tuple[float, float] | None
    series: str
    filled: bool = True
    thread: str = ""  # dots of one series and one thread are joined by a line

    def words(self) -> str:
        """`12 epochs at 0.31: +0.83 [+0.5, +1.1]`."""
        ends = f" [{self.bounds[0]:+.2f}, {self.bounds[1]:+.2f}]" if self.bounds else ""
        return f"{self.series} at {self.x:.3g}: {self.mean:+.2f}{ends}"


def comparison_drawings(found: Found) -> tuple[Drawing, ...]:
    """Every figure that there are regimes for."""
    thesis = found.thesis
    fixed = [] if thesis.mask is None else pick(found.regimes, thesis.mask, thesis.sparsity or 0.0)
    drawn = [_excess_figure(fixed, lead, found) for lead in (LEAD, TO_DENSE)]
    drawn += [_kappa_figure(fixed, lead, found) for lead in (LEAD, TO_DENSE)]
    drawn.append(_every_figure(found))
    cells = sorted({(row.task, row.mask, row.learning_rate) for row in found.regimes if row.kappa is not None})
    drawn += [_phase_figure(found, *cell, number) for number, cell in enumerate(cells)]
    drawn.append(_mixed_figure(fixed, found))
    return tuple(drawing for drawing in drawn if drawing is not None)


def _excess_figure(rows: Sequence[Regime], lead: str, found: Found) -> Drawing | None:
    dots = [_dot(row, lead, row.mean_excess, _length(row), found) for row in rows if row.leads[lead].differences]
    name = f"regimes-{slug(lead)}-excess"
    return _scatter(name, "regimes", f"{lead} and R_p", _at(found), dots, EXCESS_AXIS, found)


def _kappa_figure(rows: Sequence[Regime], lead: str, found: Found) -> Drawing | None:
    dots = [
        _dot(row, lead, row.kappa, _length(row), found)
        for row in rows
        if row.leads[lead].differences and row.kappa is not None
    ]
    name = f"regimes-{slug(lead)}-kappa"
    return _scatter(name, "regimes", f"{lead} and κ", _at(found), dots, KAPPA_AXIS, found, kappa=True)


def _every_figure(found: Found) -> Drawing | None:
    rows = [row for row in found.regimes if row.sparsity >= found.rule.nontrivial_sparsity - 0.005]
    names = sparsity_names(rows)
    dots = [_dot(row, LEAD, row.mean_excess, names[row.sparsity], found) for row in rows]
    title = f"{LEAD} and R_p, every regime"
    return _scatter(
        "regimes-every-excess", "regimes", title, "all masks and non-trivial sparsities", dots, EXCESS_AXIS, found
    )


def _phase_figure(found: Found, task: str, mask: str, rate: float, number: int) -> Drawing | None:
    """The ticket's lead by κ, a series for every sparsity; filled where the winning property holds."""
    rows = [
        row
        for row in found.regimes
        if (row.task, row.mask, row.learning_rate) == (task, mask, rate) and row.kappa is not None
    ]
    names = sparsity_names(rows)
    dots = [
        _dot(row, LEAD, row.kappa or 0.0, names[row.sparsity], found, row.winning == "yes", f"{row.epochs}")
        for row in rows
    ]
    title = f"{LEAD}, rate {rate:g}, {mask} masks"
    says = "filled: the winning property holds; lines join equal lengths"
    return _scatter(f"phase-{number}", "phase", title, says, dots, KAPPA_AXIS, found, kappa=True, about=task)


def _mixed_figure(rows: Sequence[Regime], found: Found) -> Drawing | None:
    """The gain over reinit of a start α θ0 + √(1 − α²) θ0', by α: 0 is reinit itself and 1 the ticket."""
    dots = []
    for row in rows:
        shares = sorted((float(match[1]), arm) for arm in row.arms if (match := MIXED.fullmatch(arm)))
        series = f"R_p {row.mean_excess:+.2f}, {row.epochs} ep, rate {row.learning_rate:g}"
        for share, arm in [(0.0, "reinit"), *shares, (1.0, "ticket")] if shares else ():
            pairs = _over_reinit(row, arm)
            if pairs.differences and share not in [dot.x for dot in dots if dot.thread == row.label]:
                dots.append(_placed(share, pairs, series, found, thread=row.label))
    says = f"points over reinit, {_at(found)}"
    return _scatter(
        "mixed",
        "mixed",
        "Gain by the correlation of the start with θ_0",
        says,
        dots,
        "α, the weight of θ_0 in the start",
        found,
    )


def _over_reinit(row: Regime, arm: str) -> Pairs:
    above, below = row.arms.get(arm, {}), row.arms.get("reinit", {})
    seeds = tuple(sorted(above.keys() & below.keys()))
    return Pairs(arm, "reinit", seeds, tuple(round(above[seed] - below[seed], 9) for seed in seeds))


def _scatter(
    name: str,
    group: Group,
    title: str,
    subtitle: str,
    dots: Sequence[Dot],
    axis: str,
    found: Found,
    kappa: bool = False,
    about: str = "",
) -> Drawing | None:
    if not dots:
        return None
    place = _kappa_place(dots) if kappa else float
    with drawing_style():
        figure, axes = panel(title, subtitle)
        axes.axhline(0.0, color=colour("muted"), linewidth=1.0)
        axes.axhline(
            found.rule.gap, color=colour("ink"), linewidth=1.1, linestyle=(0, (2, 2)), label=f"gap ({found.rule.gap:g})"
        )
        series = list(dict.fromkeys(dot.series for dot in dots))
        for index, label in enumerate(series):
            here = [dot for dot in dots if dot.series == label]
            _draw(axes, here, label, ROLES[index % len(ROLES)], MARKERS[index % len(MARKERS)], place)
        if kappa:
            _kappa_ticks(axes, dots, place)
        axes.set_xlabel(axis, size=10)
        legend(figure, axes)
    words = "; ".join(dot.words() for dot in dots)
    return Drawing(name, group, title, f"{about}{': ' if about else ''}{subtitle}. {axis}. {words}.", figure)


def _draw(axes: Axes, dots: Sequence[Dot], label: str, role: str, marker: str, place: Callable[[float], float]) -> None:
    paint = colour(role)
    for thread in dict.fromkeys(dot.thread for dot in dots if dot.thread):
        joined = sorted((place(dot.x), dot.mean) for dot in dots if dot.thread == thread)
        axes.plot([x for x, _ in joined], [y for _, y in joined], color=paint, linewidth=1.2, alpha=0.55)
    for dot in dots:
        if dot.bounds:
            axes.plot([place(dot.x)] * 2, dot.bounds, color=paint, linewidth=1.4, alpha=0.7, solid_capstyle="round")
    for filled in (True, False):
        here = [(place(dot.x), dot.mean) for dot in dots if dot.filled is filled]
        face: dict[str, Any] = {"markerfacecolor": paint if filled else colour("paper"), "markeredgewidth": 1.3}
        edge = colour("paper") if filled else paint
        axes.plot(
            [x for x, _ in here],
            [y for _, y in here],
            marker,
            color=paint,
            markersize=6.5,
            markeredgecolor=edge,
            **face,
        )
    axes.plot([], [], marker, color=paint, markersize=6.5, label=label)


def _dot(row: Regime, lead: str, x: float, series: str, found: Found, filled: bool = True, thread: str = "") -> Dot:
    return _placed(x, row.leads[lead], series, found, filled, thread)


def _placed(x: float, pairs: Pairs, series: str, found: Found, filled: bool = True, thread: str = "") -> Dot:
    estimate = plain(sample_of(pairs))
    tail = found.rule.alpha / 2
    ends = (estimate.low(tail), estimate.high(tail)) if estimate else None
    return Dot(x, math.fsum(pairs.differences) / len(pairs.differences), ends, series, filled, thread)


def _kappa_place(dots: Sequence[Dot]) -> Callable[[float], float]:
    """Logarithmic; a κ of 0 stands a step left of the least other."""
    least = min((dot.x for dot in dots if dot.x > 0), default=0.01)
    return lambda kappa: math.log10(kappa if kappa > 0 else least / 3)


def _kappa_ticks(axes: Axes, dots: Sequence[Dot], place: Callable[[float], float]) -> None:
    low, high = axes.get_xlim()
    ticks = [(place(kappa), f"{kappa:g}") for kappa in KAPPAS if low <= place(kappa) <= high]
    ticks = [(place(0.0), "0")] * any(dot.x == 0 for dot in dots) + ticks
    axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks])


def _length(row: Regime) -> str:
    return f"{row.epochs} epochs"


def _at(found: Found) -> str:
    level = 100 * (1 - found.rule.alpha)
    return f"points, {level:g} % intervals; {found.thesis.mask} masks, {percent(round(found.thesis.sparsity or 0, 4))}"
