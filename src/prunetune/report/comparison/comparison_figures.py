"""The pictures of a comparison: a point for every regime, the ticket's lead by κ and sparsity, and the arm `mixed`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunetune.analysis.comparison import sample_of
from prunetune.analysis.pairing import Pairs, percent, signed
from prunetune.analysis.regimes import LEAD, QUANTITIES, TO_DENSE, Regime, sparsity_names
from prunetune.analysis.relations import has, value_of
from prunetune.analysis.statistics import plain
from prunetune.core.files import slug
from prunetune.core.metric import Metric
from prunetune.errors import counted
from prunetune.report.comparison.comparison_rows import Found
from prunetune.report.figures.accuracy import Drawing, Group, legend
from prunetune.report.figures.marks import name_marks
from prunetune.report.figures.plot_primitives import ordered_roles, panel, share_range
from prunetune.report.figures.style import colour, drawing_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
KAPPAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
MIXED = re.compile(r"mixed\(([0-9.eE+-]+)\)")
EXCESS_AXIS = "R_p(θ_0, θ_T) − chance"
DASHES: tuple[Any, ...] = ((0, ()), (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
KAPPA_AXIS = "κ, logarithmic"
MIXED_AXIS = "α, the weight of θ_0 in the start"


def axis_label(predictor: str, metric: Metric) -> str:
    """A predictor's words on an axis; a barrier in accuracy or score is one in the metric of the studies."""
    if predictor not in QUANTITIES:
        return {"R_p excess": EXCESS_AXIS, "kappa": "κ"}[predictor]
    label = QUANTITIES[predictor].label
    if metric.is_accuracy:
        return label
    return re.sub("^(accuracy|score)", metric.name, label).replace(
        ", points", f", {metric.difference_unit}".rstrip(", ")
    )


@dataclass(frozen=True)
class Dot:
    """A mean lead with its two-sided interval, where there is one."""

    x: float
    mean: float
    bounds: tuple[float, float] | None
    series: str
    filled: bool = True
    thread: str = ""  # dots of one series and one thread are joined by a line
    dashes: int = 0  # of that line

    def alt_text(self) -> str:
        """`12 epochs at 0.31: +0.83 [+0.5, +1.1]`."""
        ends = f" [{signed(self.bounds[0])}, {signed(self.bounds[1])}]" if self.bounds else ""
        return f"{self.series} at {self.x:.3g}: {signed(self.mean)}{ends}"


def comparison_drawings(found: Found) -> tuple[Drawing, ...]:
    """Every figure that there are regimes for."""
    fixed = sorted(found.fixed, key=lambda row: row.epochs)
    drawn = [_excess_figure(fixed, lead, found) for lead in (LEAD, TO_DENSE)]
    drawn += [_kappa_figure(fixed, lead, found) for lead in (LEAD, TO_DENSE)]
    if found.x in QUANTITIES:
        drawn.append(_quantity_figure(fixed, found.x, found))
    every = _every_figure(found)
    cells = sorted({(row.task, row.mask, row.learning_rate) for row in found.regimes if row.kappa is not None})
    phases = [_phase_figure(found, *cell, number) for number, cell in enumerate(cells)]
    mixed = _mixed_figures(fixed, found)
    for panels in (drawn, [every], phases, mixed):  # where one lead is huge, and most are about the gap
        share_range([drawing.figure for drawing in panels if drawing is not None], found.rule.gap)
    return tuple(drawing for drawing in (*drawn, every, *phases, *mixed) if drawing is not None)


def _excess_figure(rows: Sequence[Regime], lead: str, found: Found) -> Drawing | None:
    dots = [_dot(row, lead, row.mean_excess, _length(row), found) for row in rows if row.leads[lead].differences]
    name = f"regimes-{slug(lead)}-excess"
    about, roles = f"{lead} and R_p", _length_roles(found)
    return _scatter(name, "regimes", about, _at(found), dots, EXCESS_AXIS, found, roles, limit=_limit(lead, found))


def _kappa_figure(rows: Sequence[Regime], lead: str, found: Found) -> Drawing | None:
    dots = [
        _dot(row, lead, row.kappa, _length(row), found)
        for row in rows
        if row.leads[lead].differences and row.kappa is not None
    ]
    name = f"regimes-{slug(lead)}-kappa"
    about, roles, limit = f"{lead} and κ", _length_roles(found), _limit(lead, found)
    return _scatter(name, "regimes", about, _at(found), dots, KAPPA_AXIS, found, roles, True, limit=limit)


def _quantity_figure(rows: Sequence[Regime], x: str, found: Found) -> Drawing | None:
    dots = [_dot(row, LEAD, value_of(row, x), _length(row), found) for row in rows if has(row, x)]
    name, axis = f"regimes-{slug(LEAD)}-{slug(x)}", axis_label(x, found.rule.metric)
    return _scatter(
        name,
        "regimes",
        f"{LEAD} and {x}",
        _at(found),
        dots,
        axis,
        found,
        _length_roles(found),
        limit=_limit(LEAD, found),
    )


def _every_figure(found: Found) -> Drawing | None:
    rows = [row for row in found.regimes if row.sparsity >= found.rule.nontrivial_sparsity - 0.005]
    names = sparsity_names(found.regimes)
    dots = [_dot(row, LEAD, row.mean_excess, names[row.sparsity], found) for row in rows]
    title = f"{LEAD} and R_p, every regime"
    subtitle = "all masks and non-trivial sparsities"
    return _scatter("regimes-every-excess", "regimes", title, subtitle, dots, EXCESS_AXIS, found, _level_roles(found))


def _phase_figure(found: Found, task: str, mask: str, rate: float, number: int) -> Drawing | None:
    """The ticket's lead by κ, a series for every sparsity; filled where the winning property holds."""
    rows = [
        row
        for row in found.regimes
        if (row.task, row.mask, row.learning_rate) == (task, mask, rate) and row.kappa is not None
    ]
    names = sparsity_names(found.regimes)
    lengths = sorted({row.epochs for row in rows})
    dots = [
        replace(
            _dot(row, LEAD, row.kappa or 0.0, names[row.sparsity], found),
            filled=row.winning == "yes",
            thread=f"{row.epochs} {names[row.sparsity]}",
            dashes=lengths.index(row.epochs),
        )
        for row in rows
    ]
    title = f"{LEAD}, rate {rate:g}, {mask} masks"
    says = f"{_unit(found)}; filled: the winning property holds"
    return _scatter(
        f"phase-{number}",
        "phase",
        title,
        says,
        dots,
        KAPPA_AXIS,
        found,
        _level_roles(found),
        True,
        task,
        dashed=[counted(length, "epoch") for length in lengths],
    )


def _mixed_figures(rows: Sequence[Regime], found: Found) -> list[Drawing]:
    """The gain over reinit of a start α θ0 + √(1 − α²) θ0', by α: 0 is reinit itself and 1 the ticket.

    A panel for every task, length and rate, in it a line for every regime, named by its R_p.
    """
    rows = [row for row in rows if any(MIXED.fullmatch(arm) for arm in row.arms)]
    cells = sorted({(row.task, row.epochs, row.learning_rate) for row in rows})
    drawn = (_mixed_figure(rows, found, *cell, number) for number, cell in enumerate(cells))
    return [drawing for drawing in drawn if drawing is not None]


def _mixed_figure(
    rows: Sequence[Regime], found: Found, task: str, epochs: int, rate: float, number: int
) -> Drawing | None:
    here = [row for row in rows if (row.task, row.epochs, row.learning_rate) == (task, epochs, rate)]
    here.sort(key=lambda row: row.mean_excess)
    dots = [dot for row in here for dot in _mixed_dots(row, found)]
    title = f"Gain over reinit, rate {rate:g}, {counted(epochs, 'epoch')}"
    roles = _in_order("overlap", dict.fromkeys(dot.series for dot in dots))
    return _scatter(f"mixed-{number}", "mixed", title, _at(found), dots, MIXED_AXIS, found, roles, about=task)


def _mixed_dots(row: Regime, found: Found) -> list[Dot]:
    shares = {0.0: "reinit", 1.0: "ticket"} | {float(m[1]): arm for arm in row.arms if (m := MIXED.fullmatch(arm))}
    series = f"R_p {f'{row.mean_excess + row.p:.2f}'.removeprefix('0')}"
    gains = ((share, _over_reinit(row, arm)) for share, arm in sorted(shares.items()))
    return [_placed(share, gain, series, found, thread=row.label) for share, gain in gains if gain.differences]


def _over_reinit(row: Regime, arm: str) -> Pairs:
    above, below = row.arms.get(arm, {}), row.arms.get("reinit", {})
    seeds = tuple(sorted(above.keys() & below.keys()))
    gains = tuple(row.metric.oriented(round(above[seed] - below[seed], 9)) for seed in seeds)
    return Pairs(arm, "reinit", seeds, gains, metric=row.metric)


def _scatter(
    name: str,
    group: Group,
    title: str,
    subtitle: str,
    dots: Sequence[Dot],
    axis: str,
    found: Found,
    roles: Mapping[str, str],  # of the series
    kappa: bool = False,
    about: str = "",
    limit: tuple[float, str] | None = None,
    dashed: Sequence[str] = (),  # what each kind of line stands for
) -> Drawing | None:
    if not dots:
        return None
    place = _kappa_place(dots) if kappa else float
    level, level_label = limit or (found.rule.gap, f"gap ({found.rule.gap:g})")
    with drawing_style():
        figure, axes = panel(title, subtitle)
        axes.axhline(0.0, color=colour("muted"), linewidth=1.0)
        axes.axhline(level, color=colour("ink"), linewidth=1.1, linestyle=(0, (2, 2)), label=level_label)
        series = list(dict.fromkeys(dot.series for dot in dots))
        for index, label in enumerate(series):
            here = [dot for dot in dots if dot.series == label]
            _draw(axes, here, label, roles[label], MARKERS[index % len(MARKERS)], place)
        if kappa:
            _kappa_ticks(axes, dots, place)
        for number, label in enumerate(dashed):
            axes.plot([], [], color=colour("muted"), linewidth=1.3, linestyle=DASHES[number % len(DASHES)], label=label)
        axes.set_xlabel(axis, size=10)
        legend(figure, axes)
    words = "; ".join(dot.alt_text() for dot in dots)
    return Drawing(name, group, title, f"{about}{': ' if about else ''}{subtitle}. {axis}. {words}.", figure)


def _draw(axes: Axes, dots: Sequence[Dot], label: str, role: str, marker: str, place: Callable[[float], float]) -> None:
    paint = colour(role)
    for thread in dict.fromkeys(dot.thread for dot in dots if dot.thread):
        joined = sorted((place(dot.x), dot.mean) for dot in dots if dot.thread == thread)
        dashes = next(dot.dashes for dot in dots if dot.thread == thread)
        style: Any = {"color": paint, "linewidth": 1.3, "alpha": 0.7, "linestyle": DASHES[dashes % len(DASHES)]}
        (line,) = axes.plot([x for x, _ in joined], [y for _, y in joined], **style)
        name_marks(line, label)
    for dot in dots:
        if dot.bounds:
            ends: Any = {"color": paint, "linewidth": 1.4, "alpha": 0.7, "solid_capstyle": "round"}
            (between,) = axes.plot([place(dot.x)] * 2, dot.bounds, **ends)
            name_marks(between, label)
    for filled in (True, False):
        here = [dot for dot in dots if dot.filled is filled]
        face: dict[str, Any] = {"markerfacecolor": paint if filled else colour("paper"), "markeredgewidth": 1.3}
        edge = colour("paper") if filled else paint
        places, means = [place(dot.x) for dot in here], [dot.mean for dot in here]
        (marks,) = axes.plot(places, means, marker, color=paint, markersize=6.5, markeredgecolor=edge, **face)
        name_marks(marks, label, [dot.alt_text() for dot in here])
    axes.plot([], [], marker, color=paint, markersize=6.5, label=label)


def _dot(row: Regime, lead: str, x: float, series: str, found: Found) -> Dot:
    return _placed(x, row.leads[lead], series, found)


def _placed(x: float, pairs: Pairs, series: str, found: Found, thread: str = "") -> Dot:
    estimate = plain(sample_of(pairs))
    tail = found.rule.alpha / 2
    ends = (estimate.low(tail), estimate.high(tail)) if estimate else None
    return Dot(x, math.fsum(pairs.differences) / len(pairs.differences), ends, series, thread=thread)


def _kappa_place(dots: Sequence[Dot]) -> Callable[[float], float]:
    """Logarithmic; a κ of 0 stands a step left of the least other."""
    least = min((dot.x for dot in dots if dot.x > 0), default=0.01)
    return lambda kappa: math.log10(kappa if kappa > 0 else least / 3)


def _kappa_ticks(axes: Axes, dots: Sequence[Dot], place: Callable[[float], float]) -> None:
    low, high = axes.get_xlim()
    ticks = [(place(kappa), f"{kappa:g}") for kappa in KAPPAS if low <= place(kappa) <= high]
    ticks = [(place(0.0), "0")] * any(dot.x == 0 for dot in dots) + ticks
    axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks])


def _length_roles(found: Found) -> dict[str, str]:
    lengths = sorted({row.epochs for row in found.regimes})
    return _in_order("length", [counted(length, "epoch") for length in lengths])


def _level_roles(found: Found) -> dict[str, str]:
    return _in_order("level", dict.fromkeys(sparsity_names(found.regimes).values()))


def _in_order(name: str, series: Collection[str]) -> dict[str, str]:
    """Roles of colour by series, the same in every panel of a page."""
    return dict(zip(series, ordered_roles(name, len(series)), strict=True))


def _length(row: Regime) -> str:
    return counted(row.epochs, "epoch")


def _limit(lead: str, found: Found) -> tuple[float, str]:
    """What the lead is held against: the gap, or for ticket − dense the margin."""
    rule = found.rule
    return (-rule.margin, f"−margin ({rule.margin:g})") if lead == TO_DENSE else (rule.gap, f"gap ({rule.gap:g})")


def _unit(found: Found) -> str:
    """Of a lead; where it is not in points of accuracy, what it is a lead in."""
    metric = found.rule.metric
    if metric.is_accuracy:
        return metric.difference_unit
    return f"lead in {metric.name}{f', {metric.difference_unit}' if metric.difference_unit else ''}"


def _at(found: Found) -> str:
    level = 100 * (1 - found.rule.alpha)
    at = percent(round(found.thesis.sparsity or 0, 4))
    return f"{_unit(found)}, {level:g} % intervals; {found.thesis.mask} masks, {at}"
