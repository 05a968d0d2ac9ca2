"""How far a study's masks agree, between algorithms and between seeds. Needs no step: the masks are stored."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import fmean

from prunetune.run.shelves import Shelves
from prunetune.sparsity.agreement import Agreement, Flat, flat, jaccard
from prunetune.study.plan import Plan
from prunetune.study.results import MaskOverlap
from prunetune.study.steps import Prune, Train

Masks = dict[str, dict[int, Prune]]  # algorithm -> seed -> the step that chose the mask


def mask_overlap(plan: Plan, store: Shelves) -> tuple[MaskOverlap, ...]:
    """A row for every pair of algorithms and for every algorithm with several seeds, at each rate and sparsity."""
    rows = [
        _row(rate, sparsity, first, second, pairs)
        for (rate, sparsity), masks in _stored(plan, store).items()
        for first, second, pairs in _pairs({by: _flat(found, store) for by, found in masks.items()})
        if pairs
    ]
    return tuple(sorted(rows, key=lambda row: row.order))


def _stored(plan: Plan, store: Shelves) -> dict[tuple[float, float], Masks]:
    """The masks that the study's arms share, by learning rate and sparsity; a control's own is none of them."""
    places: dict[tuple[float, float], Masks] = {}
    sharing = {name for name, arm in plan.spec.named_arms.items() if arm.shares_mask}
    for trial in plan.trials:
        mask = trial.step.mask if isinstance(trial.step, Train) else None
        if mask is not None and trial.mask is not None and trial.arm in sharing and store.has(mask.key):
            place = places.setdefault((trial.learning_rate, trial.sparsity), {})
            place.setdefault(trial.mask, {})[trial.seed] = mask
    return places


def _flat(masks: dict[int, Prune], store: Shelves) -> dict[int, Flat]:
    return {seed: flat(store.mask(mask.key)) for seed, mask in masks.items()}


def _pairs(masks: dict[str, dict[int, Flat]]) -> Iterator[tuple[str, str, list[Agreement]]]:
    for label, found in masks.items():
        yield label, label, [jaccard(a, b) for a, b in combinations(found.values(), 2)]
    for first, second in combinations(sorted(masks), 2):
        shared = masks[first].keys() & masks[second].keys()
        yield first, second, [jaccard(masks[first][seed], masks[second][seed]) for seed in sorted(shared)]


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
