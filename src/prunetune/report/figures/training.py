"""What changes along a training: R_p with the start, in the dense run, and the residuals of ADMM."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from prunetune.analysis.pairing import percent
from prunetune.core.files import slug
from prunetune.report.figures.accuracy import Drawing, legend, short
from prunetune.report.figures.marks import name_marks
from prunetune.report.figures.plot_primitives import CHANCE, ordered_roles, panel, share_range, spread
from prunetune.report.figures.style import colour, drawing_style
from prunetune.report.table_format import Table, mean, number, numeric, signed, span
from prunetune.rows import MomentOverlap, Residuals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 4  # in one panel at most
AXIS = "updates of the sparse target Z"


def residual_drawings(rows: Sequence[Residuals]) -> list[Drawing]:
    """A panel for every mask algorithm and rate: the residual ‖W − Z‖ / ‖W‖ by update, a line for each sparsity."""
    places = sorted({(row.mask, row.learning_rate) for row in rows})
    found = [
        _panel(mask, rate, [row for row in rows if (row.mask, row.learning_rate) == (mask, rate)])
        for mask, rate in places
    ]
    share_range([drawing.figure for drawing in found])
    return found


def _panel(mask: str, rate: float, rows: Sequence[Residuals]) -> Drawing:
    from matplotlib.ticker import NullFormatter

    title, words = f"Learning rate {rate:g}, {mask} masks", []
    with drawing_style():
        figure, axes = panel(title, "distance to the sparse target, ‖W − Z‖ / ‖W‖; band: all seeds")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own would need its mathematics
        axes.yaxis.set_minor_formatter(NullFormatter())
        sparsities = spread(sorted({row.sparsity for row in rows}), LINES)
        for sparsity, role in zip(sparsities, ordered_roles("level", len(sparsities)), strict=True):
            curves = [_finite(row.values) for row in rows if row.sparsity == sparsity]
            steps = range(min(map(len, curves)))
            lows, highs = ([pick(curve[at] for curve in curves) for at in steps] for pick in (min, max))
            means = [math.fsum(curve[at] for curve in curves) / len(curves) for at in steps]
            paint, label = colour(role), percent(sparsity)
            band = axes.fill_between(steps, lows, highs, color=paint, alpha=0.15, linewidth=0)
            (line,) = axes.plot(steps, means, color=paint, linewidth=1.8, marker="o", markersize=4, label=label)
            name_marks(band, label)
            name_marks(line, label, [f"{label}, update {step}: {mean:.3f}" for step, mean in enumerate(means)])
            words.append(f"{percent(sparsity)}: from {means[0]:.3f} to {means[-1]:.3f}." if means else "")
        axes.set_xlabel(AXIS, size=10)
        legend(figure, axes)
    return Drawing(f"residual-{rate:g}-{slug(mask)}", "residuals", title, " ".join(filter(None, words)), figure)


def _finite(values: Sequence[float]) -> list[float]:
    """The values up to the first that is no positive number (a training that diverged; a target reached exactly)."""
    last = next((at for at, value in enumerate(values) if not 0 < value < math.inf), len(values))
    return list(values[:last])


SHAPES = (("o", (0, ())), ("s", (0, (4, 1.6))), ("^", (0, (6, 1.6, 1.4, 1.6))), ("D", (0, (1.4, 1.6))))


class Moment(NamedTuple):
    """R_p at one learning rate after so many epochs, a value per seed."""

    learning_rate: float
    epoch: float
    p: float
    values: tuple[float, ...]
    expected: float


def trajectory_figures(rows: Sequence[MomentOverlap]) -> list[Drawing]:
    """R_p(θ0, θ_t) against the epoch, a line per learning rate, with what independent weights would give."""
    found = moments(rows)
    if not found:
        return []
    title = "R_p(θ_0, θ_t) along the dense training"
    subtitle = f"share of largest {100 * found[0].p:g} % in common; band from lowest to highest seed"
    rates = sorted({moment.learning_rate for moment in found})
    with drawing_style():
        figure, axes = panel(title, subtitle)
        for index, rate in enumerate(rates):
            _draw(axes, [moment for moment in found if moment.learning_rate == rate], index)
        axes.axhline(found[0].expected, color=colour("ink"), linewidth=1.4, linestyle=(0, (3, 1.5)), label=CHANCE)
        axes.set_xlim(0.0, 1.03 * max(moment.epoch for moment in found))
        axes.set_ylim(0.0, 1.05)
        axes.set_xlabel("epochs", size=10)
        legend(figure, axes)
    return [Drawing("along", "along", title, _alt_text(found), figure)]


def trajectory_table(rows: Sequence[MomentOverlap]) -> Table:
    """The same in numbers."""
    columns = tuple(map(numeric, ("Rate", "Epoch", "p", "n", "Mean", "Chance", "Excess", "Lowest to highest")))
    caption = "R_p(θ_0, θ_t) of the dense runs after so many epochs, over seeds; excess is the mean minus chance."
    return Table(caption, columns, tuple(_row(moment) for moment in moments(rows)))


def moments(rows: Sequence[MomentOverlap]) -> list[Moment]:
    """The rows of all seeds together, by learning rate and epoch."""
    places: dict[tuple[float, float, float], list[MomentOverlap]] = {}
    for row in rows:
        if math.isfinite(row.value):
            places.setdefault((row.learning_rate, row.epoch, row.p), []).append(row)
    return [
        Moment(*place, tuple(row.value for row in found), math.fsum(row.expected for row in found) / len(found))
        for place, found in sorted(places.items())
    ]


def _draw(axes: Axes, found: Sequence[Moment], index: int) -> None:
    (marker, dashes), paint = SHAPES[index % 4], colour(f"rate-{index % 4 + 1}")
    epochs, values = [moment.epoch for moment in found], [moment.values for moment in found]
    lows, highs, means = (list(map(of, values)) for of in (min, max, statistics.fmean))
    label = f"rate {found[0].learning_rate:g}"
    band = axes.fill_between(epochs, lows, highs, color=paint, alpha=0.2, linewidth=0)
    style = {"color": paint, "marker": marker, "linestyle": dashes, "label": label}
    (line,) = axes.plot(epochs, means, linewidth=1.8, markersize=5.5, markeredgecolor=colour("paper"), **style)
    name_marks(band, label)
    shown = (f"{label}, {_epochs(at)}: {number(mean, 3)}" for at, mean in zip(epochs, means, strict=True))
    name_marks(line, label, [*shown])


def _row(moment: Moment) -> tuple[str, ...]:
    found = mean(moment.values)
    return (
        f"{moment.learning_rate:g}",
        f"{moment.epoch:.4g}",
        f"{moment.p:g}",
        str(len(moment.values)),
        number(found, 3),
        number(moment.expected, 3),
        signed(None if found is None else found - moment.expected, 3),
        span(moment.values, 3),
    )


def _epochs(moment: float) -> str:
    return "1 epoch" if moment == 1 else f"{moment:.4g} epochs"


def _alt_text(found: Sequence[Moment]) -> str:
    lines: dict[float, list[str]] = {}
    for moment in found:
        value = f"{short(round(math.fsum(moment.values) / len(moment.values), 2))} after {_epochs(moment.epoch)}"
        lines.setdefault(moment.learning_rate, []).append(value)
    rates = " ".join(f"Rate {rate:g}: {', '.join(values)}." for rate, values in lines.items())
    return f"{rates} Chance: {found[0].expected:.2f}."
