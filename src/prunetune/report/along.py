"""R_p along the dense training: when the largest weights stop being those of the start."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from prunetune.report.cells import Table, mean, number, numeric, signed, span
from prunetune.report.figures import Drawing, legend, short
from prunetune.report.marks import CHANCE, panel
from prunetune.report.svg import colour, drawing_style
from prunetune.study.results import MomentOverlap

SHAPES = (("o", (0, ())), ("s", (0, (4, 1.6))), ("^", (0, (6, 1.6, 1.4, 1.6))), ("D", (0, (1.4, 1.6))))


class Moment(NamedTuple):
    """R_p at one learning rate after so many epochs, a value per seed."""

    learning_rate: float
    epoch: float
    p: float
    values: tuple[float, ...]
    expected: float


def along_figures(rows: Sequence[MomentOverlap]) -> list[Drawing]:
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
    return [Drawing("along", "along", title, _words(found), figure)]


def along_table(rows: Sequence[MomentOverlap]) -> Table:
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
    axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], color=paint, alpha=0.2, linewidth=0)
    style = {"color": paint, "marker": marker, "linestyle": dashes, "label": f"rate {found[0].learning_rate:g}"}
    means = [math.fsum(v) / len(v) for v in values]
    axes.plot(epochs, means, linewidth=1.8, markersize=5.5, markeredgecolor=colour("paper"), **style)


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


def _words(found: Sequence[Moment]) -> str:
    lines: dict[float, list[str]] = {}
    for moment in found:
        value = f"{short(round(math.fsum(moment.values) / len(moment.values), 2))} after {moment.epoch:.4g} epochs"
        lines.setdefault(moment.learning_rate, []).append(value)
    rates = " ".join(f"Rate {rate:g}: {', '.join(values)}." for rate, values in lines.items())
    return f"{rates} Chance: {found[0].expected:.2f}."
