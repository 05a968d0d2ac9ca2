"""How far masks agree: of every algorithm with the others, and with its own of other seeds."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from prunetune.analysis.pairing import percent
from prunetune.core.files import slug
from prunetune.report.figures.accuracy import Drawing, legend
from prunetune.report.figures.plot_primitives import CHANCE, Line, draw_lines, log_density, panel, sparsity_axis
from prunetune.report.figures.style import OTHERS, colour, drawing_style
from prunetune.report.table_format import Column, Table, number, numeric
from prunetune.rows import MaskOverlap


def agreement_figures(rows: Sequence[MaskOverlap]) -> list[Drawing]:
    """For every algorithm and learning rate, what its masks share with the others' and with its own of other seeds."""
    places = sorted({(mask, row.learning_rate) for row in rows for mask in (row.first, row.second)})
    masks = sorted({mask for mask, _ in places})
    return [_figure(rows, masks, *place) for place in places]


def agreement_table(rows: Sequence[MaskOverlap]) -> Table:
    """Every row."""
    columns = (
        numeric("Rate"),
        numeric("Sparsity"),
        Column("Masks"),
        Column("And"),
        Column("Seeds"),
        *map(numeric, ("n", "Jaccard", "Independent", "Lowest to highest")),
    )
    caption = (
        "Mean Jaccard index over n pairs of masks: the weights that both keep, as a share of those that either keeps. "
        "Independent: what masks with the same layer counts give if they are drawn independently, the ratio of "
        "the expected numbers."
    )
    return Table(caption, columns, tuple(map(_row, rows)))


def _figure(rows: Sequence[MaskOverlap], masks: Sequence[str], mask: str, rate: float) -> Drawing:
    rows = [row for row in rows if row.learning_rate == rate and mask in (row.first, row.second)]
    lines = [_line(rows, mask, other, OTHERS[i % len(OTHERS)]) for i, other in enumerate(masks)]
    lines = [line for line in lines if line.means]
    title = f"Learning rate {rate:g}, {mask} masks"
    with drawing_style():
        figure, axes = panel(title, "weights that both masks keep, % of those that either keeps")
        draw_lines(axes, lines)
        chance = _draw_chance(axes, rows)
        sparsity_axis(axes, sorted({row.sparsity for row in rows}))
        axes.set_ylim(0.0, 105.0)
        legend(figure, axes)
    words = " ".join(line.alt_text() for line in [*lines, chance])
    return Drawing(f"agreement-{rate:g}-{slug(mask)}", "agreement", title, words, figure)


def _line(rows: Sequence[MaskOverlap], mask: str, other: str, role: str) -> Line:
    found = sorted((row for row in rows if {row.first, row.second} == {mask, other}), key=lambda row: row.sparsity)
    label = "its other seeds" if mask == other else f"{other}, same seed"
    means, lows, highs = ([100 * getattr(row, name) for row in found] for name in ("value", "low", "high"))
    return Line(label, role, [row.sparsity for row in found], means, lows, highs)


def _draw_chance(axes: Axes, rows: Sequence[MaskOverlap]) -> Line:
    """What independent masks share: the mean over the panel's pairs, and a band where their layer counts differ."""
    sparsities = sorted({row.sparsity for row in rows})
    found = [[100 * row.expected for row in rows if row.sparsity == sparsity] for sparsity in sparsities]
    means = [math.fsum(values) / len(values) for values in found]
    line = Line(CHANCE, "muted", sparsities, means, [min(values) for values in found], [max(v) for v in found])
    places = [log_density(sparsity) for sparsity in sparsities]
    style = {"color": colour("ink"), "linewidth": 1.4, "linestyle": (0, (3, 1.5)), "label": CHANCE}
    axes.fill_between(places, line.lows, line.highs, color=colour("ink"), alpha=0.1, linewidth=0)
    axes.plot(places, means, marker="" if len(places) > 1 else "_", markersize=12, **style)
    return line


def _row(row: MaskOverlap) -> tuple[str, ...]:
    return (
        f"{row.learning_rate:g}",
        percent(row.sparsity),
        row.first,
        row.second,
        "same" if row.same_seed else "different",
        str(row.n),
        number(row.value, 3),
        number(row.expected, 3),
        f"{number(row.low, 3)} to {number(row.high, 3)}",
    )
