"""The rows of `results.json` for what a study's `measure` asks for."""

from collections.abc import Mapping
from typing import Any

from prunetune.plan.compile import Plan
from prunetune.plan.planned_quantities import PlannedQuantity
from prunetune.results.mask_rows import mask_levels
from prunetune.results.stored import Stored
from prunetune.rows import Quantity
from prunetune.store.layout import StoreReader

FIGURES = {  # of each kind of quantity, by their names in the step's metrics
    "movement": ("n", "sign_flips", "distance", "cosine"),
    "barriers": ("loss_barrier", "accuracy_barrier"),
    "curvature": ("n", "largest", "residual", "trace", "trace_error"),
    "sensitivity": ("whole", "images"),
}


def quantities(plan: Plan, stored: Stored, store: StoreReader) -> tuple[Quantity, ...]:
    """A row for every quantity that is stored: its figures, and those of each layer where it has some."""
    here = (planned for planned in plan.quantities if planned.step.key in stored)
    rows = [_quantity(planned, stored[planned.step.key].metrics) for planned in here]
    return tuple(sorted((*rows, *mask_levels(plan, stored, store)), key=lambda row: row.order))


def _quantity(planned: PlannedQuantity, found: Mapping[str, Any]) -> Quantity:
    place = planned.learning_rate, planned.mask, planned.sparsity, planned.seed
    names, layers = FIGURES[planned.kind], found.get("layers", {})
    if planned.kind == "sensitivity":
        at = [str(sparsity) for sparsity in found["sparsities"]]
        layers = {unit: dict(zip(at, scores, strict=True)) for unit, scores in found["units"].items()}
    names += ("score_barrier",) if "score_barrier" in found else ()  # of a task other than classification
    return Quantity(planned.kind, planned.of, *place, {name: found[name] for name in names}, layers)
