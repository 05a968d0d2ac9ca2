"""Heat maps, layer by layer: R_p, masks, where a training has left its start; accuracy lost by pruning one alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunetune.analysis.pairing import percent
from prunetune.core.files import slug
from prunetune.core.metric import ACCURACY, Metric
from prunetune.report.figures.accuracy import DENSE_PAIR, Drawing, chance_sentence, legend, mask_roles, short
from prunetune.report.figures.plot_primitives import (
    BOX,
    CHANCE,
    HEIGHT,
    SPARSITY_AXIS,
    Line,
    draw_lines,
    log_density,
    panel,
    sparsity_axis,
    spread,
)
from prunetune.report.figures.style import colour, drawing_style
from prunetune.report.table_format import NONE, Column, Table, number, numeric, signed
from prunetune.rows import Layer, LayerOverlap, MaskOverlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKET_PAIR = "ticket_0/finetune_T"
MOST_ROWS, MOST_COLUMNS = 40, 10  # what a panel shows and a reader can read
ROW, LEFT = 0.2, 0.335  # inches of a row, and the share of the panel's width that layer names take
LONGEST_NAME = 24
STRONGEST = 0.5  # opacity of full agreement: ink keeps 4.5:1 on it in both themes
KEY = (-0.2, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Grid:
    """A number by layer (down) and column, such as R_p − expected; `full` is the most that it can be."""

    layers: tuple[str, ...]
    columns: tuple[float, ...]
    cells: dict[tuple[str, float], float]
    full: float

    def alt_text(self, of: str) -> str:
        """The grid's numbers, for who cannot see them; `of` says what a column is."""
        rows = (
            f"{layer}: " + ", ".join(f"{signed(cell)} at {of} {column:g}" for column, cell in self._row(layer))
            for layer in self.layers
        )
        return ". ".join(rows) + "."

    def _row(self, layer: str) -> list[tuple[float, float]]:
        return [(column, self.cells[layer, column]) for column in self.columns if (layer, column) in self.cells]


def layer_figures(rows: Sequence[LayerOverlap], layers: Sequence[Layer] = ()) -> list[Drawing]:
    """One panel of the dense pair by learning rate; of ticket start and finetune end one per rate and mask.

    `layers` are the model's; those that it names by a number alone are named by what they are.
    """
    shapes = {layer.name: layer.shape for layer in layers}
    rows = [
        replace(row, layer=described(row.layer, shapes.get(row.layer, ()))) for row in rows if math.isfinite(row.value)
    ]
    dense = [row for row in rows if row.pair == DENSE_PAIR]
    found = [_dense_figure(dense)] if dense else []
    sparse = [row for row in rows if row.pair == TICKET_PAIR]
    places = sorted({(str(row.mask), row.learning_rate) for row in sparse})
    return found + [_sparse_figure(sparse, *place) for place in places]


def described(layer: str, shape: Sequence[int]) -> str:
    """A layer's name, and where that is a number alone, what kind of layer it is and the shape of its weights.

    >>> described("3.weight", (16, 8, 3, 3)), described("11.weight", (10, 256)), described("head.weight", (10, 256))
    ('conv 3, 16×8×3×3', 'linear 11, 10×256', 'head.weight')
    """
    name = layer.removesuffix(".weight")
    if not name.replace(".", "").isdecimal():
        return layer
    kind = {2: "linear", 3: "conv", 4: "conv", 5: "conv"}.get(len(shape), "layer")
    return ", ".join(filter(None, [f"{kind} {name}", "×".join(map(str, shape))]))


def sensitivity_figure(
    name: str, title: str, subtitle: str, lost: Mapping[tuple[str, float], float], metric: Metric = ACCURACY
) -> Drawing:
    """How much worse the score is by (layer, sparsity), in the order of the layers; a gain has the other colour."""
    layers = tuple(dict.fromkeys(layer for layer, _ in lost))
    columns = tuple(sorted({sparsity for _, sparsity in lost}))
    full = max([2 * metric.margin, *map(abs, lost.values())])  # so that noise of a tenth of a point stays pale
    grid = Grid(spread(layers, MOST_ROWS), spread(columns, MOST_COLUMNS), dict(lost), full)
    notes = [f"; {len(grid.layers)} of {len(layers)}"] if len(layers) > MOST_ROWS else []
    with drawing_style():
        figure, axes = _panel(title, subtitle + "".join(notes), grid, [f"{100 * one:.3g}" for one in grid.columns])
        _draw(
            axes,
            grid,
            lambda value: _paint(-value, full),
            lambda value: number(value, metric.digits - 1),
        )
        axes.set_xlabel("sparsity of the layer, %", size=10)
    return Drawing(name, "layers", title, grid.alt_text("sparsity"), figure)


def _dense_figure(rows: Sequence[LayerOverlap]) -> Drawing:
    grid = _grid(rows, [(row.layer, row.learning_rate) for row in rows])
    title = "R_p(θ_0, θ_T) of the dense runs, layer by layer"
    labels = [f"{rate:g}" for rate in grid.columns]
    return _drawing("layers-dense", title, rows, grid, labels, "learning rate", "rate")


def _sparse_figure(rows: Sequence[LayerOverlap], mask: str, rate: float) -> Drawing:
    rows = [row for row in rows if (row.mask, row.learning_rate) == (mask, rate)]
    grid = _grid(rows, [(row.layer, row.sparsity) for row in rows])
    title = f"Learning rate {rate:g}, {mask} masks, layer by layer"
    labels = [f"{100 * sparsity:.3g}" for sparsity in grid.columns]
    return _drawing(f"layers-{rate:g}-{slug(mask)}", title, rows, grid, labels, SPARSITY_AXIS, "sparsity")


def _grid(rows: Sequence[LayerOverlap], places: Sequence[tuple[str, float]]) -> Grid:
    cells = {place: row.value - row.expected for place, row in zip(places, rows, strict=True)}
    layers = tuple(dict.fromkeys(layer for layer, _ in places))
    columns = tuple(sorted({column for _, column in places}))
    return Grid(spread(layers, MOST_ROWS), spread(columns, MOST_COLUMNS), cells, 1 - rows[0].p)


def _drawing(
    name: str, title: str, rows: Sequence[LayerOverlap], grid: Grid, labels: Sequence[str], axis: str, of: str
) -> Drawing:
    subtitle = f"R_p − chance at p = {short(rows[0].p)}, mean of seeds{_cut(rows, grid, axis)}"
    with drawing_style():
        figure, axes = _panel(title, subtitle, grid, labels)
        _draw(axes, grid, lambda excess: _paint(excess, grid.full), _excess)
        axes.set_xlabel(axis, size=10)
        _key(figure, grid.full)
    sentence = chance_sentence(title, "R_p", grid.cells.values())
    return Drawing(name, "layers", title, grid.alt_text(of), figure, sentence)


def _panel(title: str, subtitle: str, grid: Grid, labels: Sequence[str]) -> tuple[Figure, Axes]:
    """A panel as high as the grid has layers, with the names of layers and columns."""
    figure, axes = panel(title, subtitle, ROW * len(grid.layers) + (1 - BOX[3]) * HEIGHT, LEFT)
    axes.set_xticks(range(len(labels)), labels, size=8.5)
    axes.set_yticks(range(len(grid.layers)), [shortened(layer) for layer in grid.layers], size=8.5)
    return figure, axes


def _cut(rows: Sequence[LayerOverlap], grid: Grid, axis: str) -> str:
    """What of a large study the panel leaves out."""
    layers = len({row.layer for row in rows})
    columns = len({row.sparsity if axis == SPARSITY_AXIS else row.learning_rate for row in rows})
    notes = [f"{len(grid.layers)} of {layers} layers"] if layers > len(grid.layers) else []
    notes += [f"{len(grid.columns)} of {columns} columns"] if columns > len(grid.columns) else []
    return "".join(f"; {note}" for note in notes)


def _draw(
    axes: Axes, grid: Grid, paint: Callable[[float], dict[str, Any]], write: Callable[[float | None], str]
) -> None:
    from matplotlib.patches import Rectangle

    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.layers) - 0.5, -0.5)
    for y, layer in enumerate(grid.layers):
        for x, column in enumerate(grid.columns):
            value = grid.cells.get((layer, column))
            if value is not None:
                axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **paint(value)))
            axes.text(x, y, write(value), ha="center", va="center_baseline", size=8.5)


def _key(figure: Figure, full: float) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(**_paint(excess, full), label=_excess(excess)) for excess in KEY if excess <= full]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.1 * HEIGHT / figure.get_figheight()), "borderpad": 0.1}
    figure.legend(handles=patches, ncols=len(patches), frameon=False, fontsize=9.5, columnspacing=1.2, **place)


def _paint(excess: float, full: float) -> dict[str, Any]:
    """One colour above chance and another below, the stronger the farther from it."""
    strength = STRONGEST * min(1.0, abs(excess) / full)
    return {"facecolor": colour("above" if excess >= 0 else "below"), "alpha": strength, "linewidth": 0}


def _excess(value: float | None) -> str:
    """`+.41`, `−.02`, `.00`."""
    if value is None:
        return NONE
    text = f"{abs(value):.2f}".removeprefix("0")
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def shortened(layer: str) -> str:
    """A layer's name as far as there is room; both of its ends tell it apart.

    >>> shortened("encoder.stages.2.blocks.10.second.convolution.weight")
    'encoder.sta….convolution'
    """
    name = layer.removesuffix(".weight")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2 - 1]}…{name[-LONGEST_NAME // 2 :]}"


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
    lines = [_line(rows, mask, other, role) for other, role in mask_roles(masks).items()]
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
    sentence = chance_sentence(title, "what they share with others", (row.value - row.expected for row in rows))
    return Drawing(f"agreement-{rate:g}-{slug(mask)}", "agreement", title, words, figure, sentence)


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
