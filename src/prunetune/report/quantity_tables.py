"""The tables of what a study's `measure` asks for: a row for every network or pair, means over seeds."""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import isfinite

from prunetune.analysis.pairing import percent
from prunetune.report.table_format import NONE, Column, Table, mean, number, numeric, span
from prunetune.rows import Quantity

_PERCENT = 100
_FIGURES: dict[str, tuple[tuple[str, str, Callable[[float], str]], ...]] = {  # kind -> title, name, how it is written
    "movement": (
        ("Signs flipped", "sign_flips", lambda value: f"{_PERCENT * value:.2f} %"),
        ("‖end − start‖ / ‖start‖", "distance", lambda value: number(value, 3)),
        ("Cosine", "cosine", lambda value: number(value, 3)),
    ),
    "barriers": (
        ("Loss barrier", "loss_barrier", lambda value: number(value, 3)),
        ("Accuracy barrier", "accuracy_barrier", lambda value: number(value)),
    ),
    "curvature": (
        ("Largest eigenvalue", "largest", lambda value: f"{value:.3g}"),
        ("Residual", "residual", lambda value: f"{value:.1g}"),
        ("Trace", "trace", lambda value: f"{value:.3g}"),
        ("Its standard error", "trace_error", lambda value: f"{value:.2g}"),
    ),
}
CAPTIONS = {
    "movement": "How far weights move: means over seeds, lowest to highest seed. A start is under the arm's mask.",
    "barriers": "By how much the worst point of the straight line between two networks is worse than the line between "
    "its ends: means over seeds, lowest to highest seed; accuracy in points. “Previous” is the level of pruning "
    "before.",
    "curvature": "The Hessian of the mean loss on 512 training images, over the weights that are kept: means over "
    "seeds, lowest to highest seed of the first. An eigenvalue lies within the residual of the one shown.",
}


def quantity_tables(rows: Sequence[Quantity]) -> dict[str, Table]:
    """By kind: the tables that have rows, and under `sensitivity` the one of layers and sparsities."""
    found = {kind: _table(kind, [row for row in rows if row.kind == kind]) for kind in _FIGURES}
    found["sensitivity"] = _sensitivity([row for row in rows if row.kind == "sensitivity"])
    return {kind: table for kind, table in found.items() if table.rows}


def _table(kind: str, rows: Sequence[Quantity]) -> Table:
    figures = _FIGURES[kind]
    titles = [(numeric(title), numeric("Lowest to highest")) for title, _, _ in figures[:1]]
    others = [numeric(title) for title, _, _ in figures[1:]]
    place = (numeric("Rate"), Column("Masks"), numeric("Sparsity"), Column("Of"), numeric("n"))
    columns = (*place, *titles[0], *others)
    ordered = sorted(rows, key=_place)
    cells = [list(group) for _, group in groupby(ordered, key=_place)]
    return Table(CAPTIONS[kind], columns, tuple(_row(cell, figures) for cell in cells))


def _row(rows: Sequence[Quantity], figures: Sequence[tuple[str, str, Callable[[float], str]]]) -> tuple[str, ...]:
    first = rows[0]
    values = [[value for row in rows if (value := row.values.get(name)) is not None] for _, name, _ in figures]
    written = [
        NONE if (average := mean(own)) is None or not isfinite(average) else write(average)
        for own, (_, _, write) in zip(values, figures, strict=True)
    ]
    between = span(values[0], 3)
    place = f"{first.learning_rate:g}", first.mask or NONE, percent(first.sparsity) if first.mask else NONE, first.of
    return (*place, str(len(rows)), written[0], between, *written[1:])


def _sensitivity(rows: Sequence[Quantity]) -> Table:
    """Points lost on held-out images by each layer alone, at each sparsity; the most sensitive layer is the last."""
    sparsities = sorted({at for row in rows for layer in row.by_layer.values() for at in layer}, key=float)
    columns = (numeric("Rate"), Column("Of"), Column("Layer"), *(numeric(percent(float(at))) for at in sparsities))
    caption = (
        "Points of accuracy on held-out images that the trained dense network loses where one layer alone is pruned by "
        "magnitude, without retraining: means over seeds. A negative number is a gain."
    )
    ordered = sorted(rows, key=lambda row: (row.learning_rate, row.of))
    cells: list[tuple[str, ...]] = []
    for (rate, of), group in groupby(ordered, key=lambda row: (row.learning_rate, row.of)):
        here = list(group)
        for layer in here[0].by_layer:
            lost = [_lost(here, layer, at) for at in sparsities]
            cells.append((f"{rate:g}", of, layer, *(number(value) for value in lost)))
    return Table(caption, columns, tuple(cells))


def _lost(rows: Sequence[Quantity], layer: str, at: str) -> float | None:
    pairs = [(row.values.get("whole"), row.by_layer.get(layer, {}).get(at)) for row in rows]
    return mean([whole - pruned for whole, pruned in pairs if whole is not None and pruned is not None])


def _place(row: Quantity) -> tuple[object, ...]:
    return row.learning_rate, row.mask or "", row.sparsity, row.of
