"""Linear mode connectivity on the page: the loss along the line between sibling runs, and its barriers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from prunetune.analysis.pairing import percent
from prunetune.core.files import slug
from prunetune.core.metric import ACCURACY, Metric
from prunetune.report.figures.accuracy import Drawing, arm_order, arm_roles, legend
from prunetune.report.figures.marks import name_marks
from prunetune.report.figures.plot_primitives import SHAPES, panel
from prunetune.report.figures.style import colour, drawing_style
from prunetune.report.results_files import trial_order
from prunetune.report.table_format import NONE, Column, Table, mean, number, numeric, span
from prunetune.rows import Connectivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHA_AXIS = "α, from the network (0) to its sibling run (1)"
LEAST_HEIGHT = 0.1  # of a panel above 0, in loss, so that noise does not look like a barrier


@dataclass(frozen=True)
class Curve:
    """Test loss along the lines of one arm, less what the straight line between both ends has there."""

    label: str
    role: str
    alphas: Sequence[float]
    seeds: Sequence[Sequence[float]]  # per seed, an excess per alpha

    @property
    def means(self) -> list[float]:
        """The mean over seeds at each alpha."""
        return [math.fsum(at) / len(at) for at in zip(*self.seeds, strict=True)]

    def values(self) -> list[str]:
        """What each marker shows."""
        cells = zip(self.alphas, self.means, strict=True)
        return [f"{self.label}, α {alpha:g}: {number(mean, 3)} above the ends' line" for alpha, mean in cells]

    def alt_text(self) -> str:
        """The curve's numbers, for who cannot see it."""
        top = max(range(len(self.alphas)), key=lambda i: self.means[i])
        return f"{self.label}: at most {self.means[top]:.3f} at α = {self.alphas[top]:g}."


def connectivity_figures(rows: Sequence[Connectivity], arms: Sequence[str] = ()) -> list[Drawing]:
    """One panel per rate and mask: every arm's line at the highest sparsity there, and the dense network's.

    `arms` are all those of the study, by which colours are given.

    Losses are shown less the straight line between both ends, since arms differ more in their level than in their
    barrier. Panels share their range, so that barriers can be compared by eye. Lines that are not finite are left out.
    """
    rows = [row for row in rows if all(map(math.isfinite, row.test_loss))]
    sparse = {(row.mask, row.learning_rate) for row in rows if row.mask is not None}
    places = sorted(sparse) or sorted({(row.mask, row.learning_rate) for row in rows}, key=lambda at: at[1])
    roles = arm_roles([*arms, *(row.arm for row in rows)])
    shown = {place: _curves(rows, *place, roles) for place in places}
    excess = [loss for curves in shown.values() for curve in curves for seed in curve.seeds for loss in seed]
    low, high = min(excess, default=0.0), max([LEAST_HEIGHT, *excess])
    y_range = low - 0.06 * (high - low), high + 0.06 * (high - low)
    return [_figure(mask, rate, _highest(rows, mask, rate), curves, y_range) for (mask, rate), curves in shown.items()]


def connectivity_table(rows: Sequence[Connectivity], metric: Metric = ACCURACY) -> Table:
    """The barriers of every arm, rate, mask and sparsity."""
    columns = (
        numeric("Rate"),
        Column("Masks"),
        numeric("Sparsity"),
        Column("Arm"),
        numeric("n"),
        numeric("End loss"),
        numeric("Loss barrier"),
        numeric("Lowest to highest"),
        numeric(f"{metric.title} barrier"),
        numeric("Lowest to highest"),
    )
    ordered = sorted(rows, key=trial_order)
    cells = [list(cell) for _, cell in groupby(ordered, key=lambda row: trial_order(row)[:-1])]
    unit = f"; {metric.name}{metric.in_unit}" if metric.in_unit else ""
    caption = f"Means over seeds, lowest to highest seed{unit}. End loss: test loss at both ends."
    return Table(caption, columns, tuple(_row(cell, metric.digits) for cell in cells))


def _row(rows: Sequence[Connectivity], digits: int) -> tuple[str, ...]:
    first, finite = rows[0], [row for row in rows if math.isfinite(row.loss_barrier)]
    losses, scores = [row.loss_barrier for row in finite], [row.score_barrier for row in finite]
    return (
        f"{first.learning_rate:g}",
        first.mask or NONE,
        percent(first.sparsity),
        first.arm,
        str(len(finite)),
        number(mean([loss for row in finite for loss in (row.test_loss[0], row.test_loss[-1])]), 3),
        number(mean(losses), 3),
        span(losses, 3),
        number(mean(scores), digits),
        span(scores, digits),
    )


def _highest(rows: Sequence[Connectivity], mask: str | None, rate: float) -> float:
    return max(row.sparsity for row in rows if (row.mask, row.learning_rate) == (mask, rate))


def _curves(rows: Sequence[Connectivity], mask: str | None, rate: float, roles: Mapping[str, str]) -> list[Curve]:
    """The dense network's curve at this rate, if there is one, then the arms'."""
    place = mask, rate, _highest(rows, mask, rate)
    dense = [row for row in rows if row.arm == "dense" and row.learning_rate == rate]
    here = [row for row in rows if (row.mask, row.learning_rate, row.sparsity) == place]
    found = [_curve("dense", "ink", dense)] if dense else []
    return found + [
        _curve(arm, roles[arm], [row for row in here if row.arm == arm]) for arm in arm_order(row.arm for row in here)
    ]


def _curve(arm: str, role: str, rows: Sequence[Connectivity]) -> Curve:
    return Curve(arm, role, rows[0].alpha, [_excess(row) for row in rows])


def _excess(row: Connectivity) -> list[float]:
    start, end = row.test_loss[0], row.test_loss[-1]
    return [loss - (1 - a) * start - a * end for a, loss in zip(row.alpha, row.test_loss, strict=True)]


def _figure(
    mask: str | None, rate: float, sparsity: float, curves: Sequence[Curve], y_range: tuple[float, float]
) -> Drawing:
    title = f"Learning rate {rate:g}, {mask} masks" if mask else f"Learning rate {rate:g}, dense"
    at = f", {percent(sparsity)} sparsity" if mask else ""
    with drawing_style():
        figure, axes = panel(title, f"test loss above its ends'{at}; band: all seeds")
        for curve in curves:
            _draw(axes, curve)
        axes.set_xlabel(ALPHA_AXIS, size=10)
        axes.set_ylim(*y_range)
        legend(figure, axes)
    name = f"connectivity-{rate:g}" + (f"-{slug(mask)}" if mask else "")
    return Drawing(name, "connectivity", title, " ".join(curve.alt_text() for curve in curves), figure)


def _draw(axes: Axes, curve: Curve) -> None:
    marker, dashes = SHAPES[curve.role]
    paint = colour(curve.role)
    seeds = list(zip(*curve.seeds, strict=True))
    lows, highs = list(map(min, seeds)), list(map(max, seeds))
    band = axes.fill_between(curve.alphas, lows, highs, color=paint, alpha=0.13, linewidth=0)
    style = {"color": paint, "marker": marker, "linestyle": dashes, "label": curve.label}
    (means,) = axes.plot(
        curve.alphas, curve.means, linewidth=1.8, markersize=5, markeredgecolor=colour("paper"), **style
    )
    name_marks(band, curve.label)
    name_marks(means, curve.label, curve.values())
