"""R_p layer by layer as heat maps: in which layers a training has left its start behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from prunetune.core.files import slug
from prunetune.report.figures.accuracy import DENSE_PAIR, Drawing, short
from prunetune.report.figures.plot_primitives import BOX, HEIGHT, SPARSITY_AXIS, panel, spread
from prunetune.report.figures.style import colour, drawing_style
from prunetune.report.table_format import NONE, signed
from prunetune.rows import LayerOverlap

TICKET_PAIR = "ticket_0/finetune_T"
MOST_ROWS, MOST_COLUMNS = 40, 10  # what a panel shows and a reader can read
ROW, LEFT = 0.2, 0.335  # inches of a row, and the share of the panel's width that layer names take
LONGEST_NAME = 24
STRONGEST = 0.5  # opacity of full agreement: ink keeps 4.5:1 on it in both themes
KEY = (-0.2, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Grid:
    """R_p − expected by layer (down) and column; `full` is the most that it can be."""

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


def layer_figures(rows: Sequence[LayerOverlap]) -> list[Drawing]:
    """One panel of the dense pair by learning rate; of ticket start and finetune end one per rate and mask."""
    rows = [row for row in rows if math.isfinite(row.value)]
    dense = [row for row in rows if row.pair == DENSE_PAIR]
    found = [_dense_figure(dense)] if dense else []
    sparse = [row for row in rows if row.pair == TICKET_PAIR]
    places = sorted({(str(row.mask), row.learning_rate) for row in sparse})
    return found + [_sparse_figure(sparse, *place) for place in places]


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
        height = ROW * len(grid.layers) + (1 - BOX[3]) * HEIGHT
        figure, axes = panel(title, subtitle, height, LEFT)
        _draw(axes, grid)
        axes.set_xticks(range(len(labels)), labels, size=8.5)
        axes.set_yticks(range(len(grid.layers)), [shortened(layer) for layer in grid.layers], size=8.5)
        axes.set_xlabel(axis, size=10)
        _key(figure, grid.full, height)
    return Drawing(name, "layers", title, grid.alt_text(of), figure)


def _cut(rows: Sequence[LayerOverlap], grid: Grid, axis: str) -> str:
    """What of a large study the panel leaves out."""
    layers = len({row.layer for row in rows})
    columns = len({row.sparsity if axis == SPARSITY_AXIS else row.learning_rate for row in rows})
    notes = [f"{len(grid.layers)} of {layers} layers"] if layers > len(grid.layers) else []
    notes += [f"{len(grid.columns)} of {columns} columns"] if columns > len(grid.columns) else []
    return "".join(f"; {note}" for note in notes)


def _draw(axes: Axes, grid: Grid) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.layers) - 0.5, -0.5)
    for y, layer in enumerate(grid.layers):
        for x, column in enumerate(grid.columns):
            excess = grid.cells.get((layer, column))
            if excess is not None:
                axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **_paint(excess, grid.full)))
            axes.text(x, y, _excess(excess), ha="center", va="center_baseline", size=8.5)


def _key(figure: Figure, full: float, height: float) -> None:
    patches = [Patch(**_paint(excess, full), label=_excess(excess)) for excess in KEY if excess <= full]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.1 * HEIGHT / height), "borderpad": 0.1}
    figure.legend(handles=patches, ncols=len(patches), frameon=False, fontsize=9.5, columnspacing=1.2, **place)


def _paint(excess: float, full: float) -> dict[str, Any]:
    """One colour above chance and another below, the stronger the farther from it."""
    strength = STRONGEST * min(1.0, abs(excess) / full)
    return {"facecolor": colour("ticket" if excess >= 0 else "reinit"), "alpha": strength, "linewidth": 0}


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
