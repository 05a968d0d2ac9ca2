"""The tables of what a study's `measure` asks for: a row for every network or pair, means over seeds."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from math import isfinite

from prunetune.analysis.pairing import percent
from prunetune.analysis.regimes import DENSE_PAIR
from prunetune.core.metric import ACCURACY, Metric
from prunetune.report.table_format import NONE, Column, Table, mean, number, numeric, significant
from prunetune.rows import DENSE, Quantity

_PERCENT = 100
Write = Callable[[float], str]
_FIGURES: dict[str, tuple[tuple[str, str, Write], ...]] = {  # kind -> title, name, how it is written
    "movement": (
        ("Signs flipped", "sign_flips", lambda value: f"{_PERCENT * value:.2f} %"),
        ("Distance", "distance", lambda value: number(value, 3)),
        ("Cosine", "cosine", lambda value: number(value, 3)),
    ),
    "barriers": (
        ("Loss barrier", "loss_barrier", lambda value: number(value, 3)),
        ("Accuracy barrier", "accuracy_barrier", lambda value: number(value)),
    ),
    "curvature": (
        ("Largest eigenvalue", "largest", lambda value: significant(value, 3)),
        ("Residual", "residual", lambda value: f"{value:.1g}"),
        ("Trace", "trace", lambda value: significant(value, 3)),
        ("Trace's error", "trace_error", lambda value: significant(value, 2)),
    ),
    "masks": (
        ("Jaccard index", "jaccard", lambda value: number(value, 3)),
        ("By chance", "expected", lambda value: number(value, 3)),
    ),
}
CAPTIONS = {
    "movement": "How far weights move from the start of a training, under its mask, to its end: means over seeds, "
    "lowest to highest seed of the first. Distance is ‖end − start‖ / ‖start‖.",
    "barriers": "By how much the worst point of the straight line between two networks is worse than the line between "
    "its ends: means over seeds, lowest to highest seed of the first{barriers}. “Previous” is the level of pruning "
    "before.",
    "curvature": "The Hessian of the mean loss on 512 training examples, over the weights that are kept: means over "
    "seeds, lowest to highest seed of the first. In each seed an eigenvalue lies within its residual of the largest. "
    "The trace's error is one standard error.",
    "masks": "The Jaccard index of a mask at a sparsity and the same algorithm's at the sparsity before, which is the "
    "round before where there are rounds: means over seeds, lowest to highest seed of the first. Where the later mask "
    "lies within the earlier one it is the ratio of their densities. By chance: of masks with the same layer counts "
    "that know nothing of each other.",
    "sensitivity": "{lost} where one layer, or one group of coupled channels, alone is pruned by magnitude, without "
    "retraining: means over n seeds; * the most at that sparsity. A negative number is a gain.",
}


def quantity_tables(rows: Sequence[Quantity], layers: Sequence[str], metric: Metric = ACCURACY) -> dict[str, Table]:
    """By kind: the tables that have rows, and under `sensitivity` the one of layers and sparsities.

    `layers` are the model's parameters in its order.
    """
    found = {kind: _table(kind, [row for row in rows if row.kind == kind], metric) for kind in _FIGURES}
    found["sensitivity"] = sensitivity_table([row for row in rows if row.kind == "sensitivity"], layers, metric)
    return {kind: table for kind, table in found.items() if table.rows}


def caption(kind: str, metric: Metric) -> str:
    """What the table of a kind of quantity shows, in the words of the study's metric."""
    lost = "Points of accuracy on held-out examples that the trained dense network loses"
    if not metric.is_accuracy:
        unit = f",{metric.in_unit}," if metric.in_unit else ""
        lost = f"By how much the trained dense network's {metric.name} on held-out examples gets worse{unit}"
    barriers = f"; {metric.name}{metric.in_unit}" if metric.in_unit else ""
    return CAPTIONS[kind].format(barriers=barriers, lost=lost)


def _table(kind: str, rows: Sequence[Quantity], metric: Metric) -> Table:
    figures = _FIGURES[kind] if metric.is_accuracy else tuple(_scored(*figure, metric) for figure in _FIGURES[kind])
    titles = [(numeric(title), numeric("Lowest to highest")) for title, _, _ in figures[:1]]
    others = [numeric(title) for title, _, _ in figures[1:]]
    place = (numeric("Rate"), Column("Masks"), numeric("Sparsity"), Column("Of"), numeric("n"))
    columns = (*place, *titles[0], *others)
    ordered = sorted(rows, key=_place)
    cells = [list(group) for _, group in groupby(ordered, key=_place)]
    return Table(caption(kind, metric), columns, tuple(_row(cell, figures) for cell in cells))


def _scored(title: str, name: str, form: Write, metric: Metric) -> tuple[str, str, Write]:
    """A figure in accuracy as one in the score of another task."""
    if name != "accuracy_barrier":
        return title, name, form
    return f"{metric.title} barrier", "score_barrier", lambda value: number(value, metric.digits)


def _row(rows: Sequence[Quantity], figures: Sequence[tuple[str, str, Write]]) -> tuple[str, ...]:
    first = rows[0]
    values = [[value for row in rows if (value := row.values.get(name)) is not None] for _, name, _ in figures]
    written = [
        NONE if (average := mean(own)) is None or not isfinite(average) else form(average)
        for own, (_, _, form) in zip(values, figures, strict=True)
    ]
    write = figures[0][2]
    between = f"{write(min(values[0]))} to {write(max(values[0]))}" if values[0] else NONE
    sparsity = percent(first.sparsity) if first.mask else NONE
    place = f"{first.learning_rate:g}", first.mask or NONE, sparsity, _network(first.of)
    return (*place, str(len(rows)), written[0], between, *written[1:])


def _network(of: str) -> str:
    """A training by its name, where `of` is its start and end; else `of` itself."""
    name = of.partition("_0/")[0]
    if of == DENSE_PAIR:
        return DENSE
    return name if of == f"{name}_0/{name}_T" else of


def sensitivity_table(rows: Sequence[Quantity], layers: Sequence[str], metric: Metric = ACCURACY) -> Table:
    """A row for every learning rate and layer of `layers`, in that order; a column for every sparsity."""
    sparsities = sorted({at for row in rows for layer in row.by_layer.values() for at in layer}, key=float)
    place = numeric("Rate"), Column("Of"), numeric("n"), Column("Layer")
    cells: list[tuple[str, ...]] = []
    ordered = sorted(rows, key=lambda row: (row.learning_rate, row.of))
    for (rate, of), group in groupby(ordered, key=lambda row: (row.learning_rate, row.of)):
        here = list(group)
        units = in_order({unit for row in here for unit in row.by_layer}, layers)
        lost = {(unit, at): mean(points_lost(here, unit, at, metric)) for unit in units for at in sparsities}
        most = {at: max((lost[unit, at] or 0.0 for unit in units), default=0.0) for at in sparsities}
        for unit in units:
            losses = (_marked(lost[unit, at], most[at], metric.digits) for at in sparsities)
            cells.append((f"{rate:g}", of, str(len(here)), unit, *losses))
    columns = (*place, *(numeric(percent(float(at))) for at in sparsities))
    return Table(caption("sensitivity", metric), columns, tuple(cells))


def in_order(units: Collection[str], layers: Sequence[str]) -> list[str]:
    """The layers or groups of coupled channels in the order of the model's parameters `layers`."""

    def place(unit: str) -> tuple[int, str]:
        within = f"{unit.partition('[')[0]}."  # a group has a module's name
        found = (i for i, name in enumerate(layers) if name == unit or name.startswith(within))
        return next(found, len(layers)), unit

    return sorted(units, key=place)


def points_lost(rows: Iterable[Quantity], layer: str, at: str, metric: Metric = ACCURACY) -> list[float]:
    """By seed, how much worse (in the metric's unit) the network is with this layer at this sparsity."""
    pairs = [(row.values.get("whole"), row.by_layer.get(layer, {}).get(at)) for row in rows]
    return [metric.oriented(whole - pruned) for whole, pruned in pairs if whole is not None and pruned is not None]


def _marked(lost: float | None, most: float, digits: int) -> str:
    """With a mark where no layer loses more."""
    return f"{'*' if lost is not None and lost == most > 0 else ''}{number(lost, digits)}"


def _place(row: Quantity) -> tuple[object, ...]:
    return row.learning_rate, row.mask or "", row.sparsity, row.of
