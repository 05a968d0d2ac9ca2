"""R_p as a study's Measure steps stored it: along the dense trainings, and layer by layer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from prunetune.run.shelves import Shelves
from prunetune.sparsity.overlap import chance
from prunetune.study.correlations import SPARSE_P
from prunetune.study.plan import Plan, PlannedCorrelation
from prunetune.study.results import Layer, LayerOverlap, MomentOverlap
from prunetune.study.steps import Measure


def measured(store: Shelves, step: Measure, p: float) -> dict[str, Any]:
    """What a stored Measure found at one of its p."""
    return next(row for row in store.metrics(step.key)["correlations"] if row["p"] == p)


def along_training(plan: Plan, store: Shelves) -> tuple[MomentOverlap, ...]:
    """R_p(θ0, θ_t) at the moments of the plan that are stored."""
    rows = []
    for planned in plan.along:
        if store.has(planned.step.key):
            found = measured(store, planned.step, planned.p)
            place = planned.learning_rate, planned.seed, planned.epoch, planned.p
            rows.append(MomentOverlap(*place, value=found["value"], expected=found["expected"]))
    return tuple(sorted(rows, key=lambda row: row.order))


def overlap_by_layer(plan: Plan, store: Shelves, layers: Sequence[Layer]) -> tuple[LayerOverlap, ...]:
    """R_p at p = .2 of every pair in each of `layers` (in their order) where it compares any weight."""
    places: dict[tuple[str, float, str | None, float, float], list[PlannedCorrelation]] = {}
    for row in plan.correlations:
        if row.p == SPARSE_P and store.has(row.step.key):
            places.setdefault((row.pair, row.learning_rate, row.mask, row.sparsity, row.p), []).append(row)
    found = [
        LayerOverlap(*place, layer, len(seeds), value=fmean(v for v, _ in seeds), expected=fmean(e for _, e in seeds))
        for place, rows in places.items()
        for layer, seeds in _seeds_by_layer(rows, store, layers)
    ]
    return tuple(sorted(found, key=lambda row: row.order))  # stable: layers stay in the model's order


def _seeds_by_layer(
    rows: Sequence[PlannedCorrelation], store: Shelves, layers: Sequence[Layer]
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Each layer with the value and the chance level of every seed that has one."""
    found = [(measured(store, row.step, row.p)["per_layer"], _sizes(row.step, store, layers)) for row in rows]
    for layer in (row.name for row in layers):
        seeds = [
            (value, chance(SPARSE_P, sizes[layer]))
            for values, sizes in found
            if (value := values.get(layer)) is not None
        ]
        if seeds:
            yield layer, seeds


def _sizes(step: Measure, store: Shelves, layers: Sequence[Layer]) -> Mapping[str, int]:
    """How many weights of each layer the step compared: those that its mask keeps, or all."""
    whole = {layer.name: math.prod(layer.shape) for layer in layers}
    if step.mask is None:
        return whole
    return whole | {name: counts["kept"] for name, counts in store.metrics(step.mask.key)["layers"].items()}
