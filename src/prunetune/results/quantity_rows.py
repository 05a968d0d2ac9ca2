"""The rows of `results.json` for what `measure` asks for, and those that compare masks with one another."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from prunetune.plan.compile import Plan
from prunetune.plan.planned_quantities import PlannedQuantity
from prunetune.results.stored import Stored
from prunetune.rows import MaskOverlap, Quantity
from prunetune.sparsity.mask import Agreement, Flat, flat, jaccard
from prunetune.steps.steps import Prune, Train
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


LEVELS = "previous mask/mask"  # what rows of kind `masks` are of

Masks = dict[str, dict[int, Prune]]  # algorithm -> seed -> the step that chose the mask


def mask_overlap(plan: Plan, stored: Stored, store: StoreReader) -> tuple[MaskOverlap, ...]:
    """A row for every pair of algorithms and for every algorithm with several seeds, at each rate and sparsity."""
    rows = [
        _row(rate, sparsity, first, second, pairs)
        for (rate, sparsity), masks in _shared_masks(plan, stored).items()
        for first, second, pairs in _pairs({by: _flat(found, stored, store) for by, found in masks.items()})
        if pairs
    ]
    return tuple(sorted(rows, key=lambda row: row.order))


def _shared_masks(plan: Plan, stored: Stored) -> dict[tuple[float, float], Masks]:
    """The masks that the study's arms share, by learning rate and sparsity; a control's own is none of them."""
    places: dict[tuple[float, float], Masks] = {}
    sharing = {name for name, arm in plan.spec.named_arms.items() if arm.shares_mask}
    for trial in plan.trials:
        mask = trial.step.mask if isinstance(trial.step, Train) else None
        if mask is not None and trial.mask is not None and trial.arm in sharing and mask.key in stored:
            place = places.setdefault((trial.learning_rate, trial.sparsity), {})
            place.setdefault(trial.mask, {})[trial.seed] = mask
    return places


def _flat(masks: dict[int, Prune], stored: Stored, store: StoreReader) -> dict[int, Flat]:
    return {seed: _bits(mask, stored, store) for seed, mask in masks.items()}


def _bits(mask: Prune, stored: Stored, store: StoreReader) -> Flat:
    return flat(store.mask(mask.key, stored[mask.key].manifest))


def _pairs(masks: dict[str, dict[int, Flat]]) -> Iterator[tuple[str, str, list[Agreement]]]:
    for label, found in masks.items():
        yield label, label, [jaccard(a, b) for a, b in combinations(found.values(), 2)]
    for first, second in combinations(sorted(masks), 2):
        shared = masks[first].keys() & masks[second].keys()
        yield first, second, [_agreement(masks[first][seed], masks[second][seed]) for seed in sorted(shared)]


def _agreement(a: Flat, b: Flat) -> Agreement:
    """On the layers of both: whole channels take first layers, biases and norms with them, which other masks leave."""
    both = set(a.names) & set(b.names)
    return jaccard(a.only(both), b.only(both))


def _row(rate: float, sparsity: float, first: str, second: str, pairs: Sequence[Agreement]) -> MaskOverlap:
    values = [pair.value for pair in pairs]
    return MaskOverlap(
        learning_rate=rate,
        sparsity=sparsity,
        first=first,
        second=second,
        same_seed=first != second,
        n=len(pairs),
        value=fmean(values),
        low=min(values),
        high=max(values),
        expected=fmean(pair.expected for pair in pairs),
    )


def mask_levels(plan: Plan, stored: Stored, store: StoreReader) -> Iterator[Quantity]:
    """Where `measure` names `masks`: how a mask agrees with the one at the sparsity before, whole and by layer.

    For masks found in rounds that is the round before.
    """
    if "masks" not in plan.spec.measure:
        return
    chains: dict[tuple[float, str, int], dict[float, Prune]] = {}
    for (rate, sparsity), masks in _shared_masks(plan, stored).items():
        for label, found in masks.items():
            for seed, mask in found.items():
                chains.setdefault((rate, label, seed), {})[sparsity] = mask
    for place, levels in chains.items():
        yield from _levels(*place, levels, stored, store)


def _levels(
    rate: float, label: str, seed: int, masks: dict[float, Prune], stored: Stored, store: StoreReader
) -> Iterator[Quantity]:
    bits = ((sparsity, _bits(masks[sparsity], stored, store)) for sparsity in sorted(masks))
    for (_, before), (sparsity, mask) in pairwise(bits):
        layers = {name: _figures(before.only([name]), mask.only([name])) for name in mask.names}
        yield Quantity("masks", LEVELS, rate, label, sparsity, seed, _figures(before, mask), layers)


def _figures(before: Flat, mask: Flat) -> dict[str, float | None]:
    found = jaccard(before, mask)
    return {"n": int(mask.total.sum()), "jaccard": found.value, "expected": found.expected}
