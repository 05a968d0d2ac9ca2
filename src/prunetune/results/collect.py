"""From a store to the rows of a study: what a report shows, and all it can show."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from prunetune.core.environment import environment, mixed
from prunetune.data import facts, load_examples
from prunetune.errors import counted
from prunetune.execution.invariants import RULES
from prunetune.models import build
from prunetune.plan.compile import Plan, labels
from prunetune.plan.context import chance_of
from prunetune.plan.ledger import ledger
from prunetune.plan.measurements import SPARSE_P, PlannedConnection, PlannedCorrelation, PlannedTrial
from prunetune.results.cross_checks import compare
from prunetune.results.quantity_rows import mask_overlap, quantities
from prunetune.results.stored import Stored, measured, read_stored
from prunetune.rows import (
    Connectivity,
    Correlation,
    Invariant,
    Layer,
    LayerOverlap,
    Missing,
    MomentOverlap,
    Residuals,
    Results,
    Trial,
)
from prunetune.sparsity.correlation import chance
from prunetune.sparsity.scope import Scope, list_parameters
from prunetune.steps.steps import Import, Measure, Prune, Step, Train
from prunetune.store.layout import StoreReader


def along_training(plan: Plan, stored: Stored) -> tuple[MomentOverlap, ...]:
    """R_p(θ0, θ_t) at the moments of the plan that are stored."""
    rows = []
    for planned in plan.trajectory:
        if planned.step.key in stored:
            found = measured(stored, planned.step, planned.p)
            place = planned.learning_rate, planned.seed, planned.epoch, planned.p
            rows.append(MomentOverlap(*place, value=found["value"], expected=found["expected"]))
    return tuple(sorted(rows, key=lambda row: row.order))


def overlap_by_layer(plan: Plan, stored: Stored, layers: Sequence[Layer]) -> tuple[LayerOverlap, ...]:
    """R_p at p = .2 of every pair in each of `layers` (in their order) where it compares any weight."""
    places: dict[tuple[str, float, str | None, float, float], list[PlannedCorrelation]] = {}
    for row in plan.correlations:
        if row.p == SPARSE_P and row.step.key in stored:
            places.setdefault((row.pair, row.learning_rate, row.mask, row.sparsity, row.p), []).append(row)
    found = [
        LayerOverlap(*place, layer, len(seeds), value=fmean(v for v, _ in seeds), expected=fmean(e for _, e in seeds))
        for place, rows in places.items()
        for layer, seeds in _seeds_by_layer(rows, stored, layers)
    ]
    return tuple(sorted(found, key=lambda row: row.order))  # stable: layers stay in the model's order


def _seeds_by_layer(
    rows: Sequence[PlannedCorrelation], stored: Stored, layers: Sequence[Layer]
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Each layer with the value and the chance level of every seed that has one."""
    found = [(measured(stored, row.step, row.p)["per_layer"], _sizes(row.step, stored, layers)) for row in rows]
    for layer in (row.name for row in layers):
        seeds = [
            (value, chance(SPARSE_P, sizes[layer]))
            for values, sizes in found
            if (value := values.get(layer)) is not None
        ]
        if seeds:
            yield layer, seeds


def _sizes(step: Measure, stored: Stored, layers: Sequence[Layer]) -> Mapping[str, int]:
    """How many weights of each layer the step compared: those that its mask keeps, or all."""
    whole = {layer.name: math.prod(layer.shape) for layer in layers}
    if step.mask is None:
        return whole
    return whole | {name: counts["kept"] for name, counts in stored[step.mask.key].metrics["layers"].items()}


def failed_measurements(plan: Plan, failures: Mapping[str, str]) -> tuple[str, ...]:
    """One line for every measuring step that failed; what it measures may be several rows."""
    names = labels(plan)
    measured = (*plan.correlations, *plan.trajectory, *plan.connections, *plan.quantities)
    keys = dict.fromkeys(row.step.key for row in measured if row.step.key in failures)
    return tuple(f"{names[key]}: {failures[key]}" for key in keys)


def _failed_notes(plan: Plan, stored: Stored, failures: Mapping[str, str]) -> tuple[str, ...]:
    """A note for every measurement that failed; paths between networks have their own."""
    lines = replace(plan, connections=())
    return tuple(f"a measurement failed, {line}" for line in failed_measurements(lines, failures))


def residuals(plan: Plan, stored: Stored) -> tuple[Residuals, ...]:
    """A row for every mask of the study, at every rate and seed, whose weights were trained under the ADMM penalty."""
    found: dict[tuple[float, str, float, int], Train] = {}
    for trial in plan.trials:
        step = _penalised(trial)
        if step is not None and trial.mask is not None and step.key in stored:
            found[trial.learning_rate, trial.mask, trial.sparsity, trial.seed] = step
    return tuple(Residuals(*place, tuple(stored[step.key].metrics["residuals"])) for place, step in found.items())


def _penalised(trial: PlannedTrial) -> Train | None:
    """The training whose final weights the trial's mask was chosen from, if it had a penalty."""
    mask = trial.step.mask if isinstance(trial.step, Train) else None
    source = mask.source.step if isinstance(mask, Prune) else None
    return source if isinstance(source, Train) and source.penalty is not None else None


def collect(plan: Plan, store: StoreReader, cached: Collection[str], failures: Mapping[str, str]) -> Results:
    """The results of a study as far as they are stored, rows sorted.

    `cached` holds the keys stored before this command began; `failures` maps the key of a step that failed, or
    that needs one that did, to the reason. Raises CorruptionError when a stored file is not what was written.
    """
    stored = read_stored(plan, store)
    finished = [trial for trial in plan.trials if trial.step.key in stored]
    missing = [trial for trial in plan.trials if trial.step.key not in stored]
    layers = _layers(plan, stored)
    return Results(
        study=plan.spec.resolved() | plan.spec.metric.described(),
        environment=_environment(plan, stored),
        trials=tuple(sorted((_trial(trial, stored, cached) for trial in finished), key=_order)),
        correlations=_correlations(plan, stored),
        missing=tuple(sorted((_missing(trial, stored, failures) for trial in missing), key=_order)),
        invariants=(*_rules_of_steps(plan, stored, failures), *compare(plan, stored, store)),
        budget=ledger(plan),
        layers=layers,
        notes=(
            *plan.notes,
            *_not_defined(plan, stored),
            *_data_notes(plan),
            *_emptied(plan, stored),
            *_failed_notes(plan, stored, failures),
            *_paths_left_out(plan, stored, failures),
        ),
        controls=tuple(name for name, arm in plan.spec.named_arms.items() if arm.control),
        residuals=residuals(plan, stored),
        connectivity=_connectivity(plan, stored),
        along_training=along_training(plan, stored),
        overlap_by_layer=overlap_by_layer(plan, stored, layers),
        mask_overlap=mask_overlap(plan, stored, store),
        recipes=plan.recipes,
        quantities=quantities(plan, stored, store),
    )


def _trial(planned: PlannedTrial, stored: Stored, cached: Collection[str]) -> Trial:
    key = planned.step.key
    found = stored[key].metrics
    return Trial(
        key=key,
        arm=planned.arm,
        mask=planned.mask,
        learning_rate=planned.learning_rate,
        sparsity=planned.sparsity,
        density=found.get("density", 1.0),
        seed=planned.seed,
        epochs=found.get("epochs", 0),  # a state of the user's was not trained here
        steps=found.get("steps", 0),
        test_accuracy=found.get("test_accuracy"),
        test_loss=found["test_loss"],
        diverged=found["diverged"],
        cached=key in cached,
        seconds=stored[key].manifest["seconds"],
        start_digest=found.get("start_digest", ""),
        mask_digest=found.get("mask_digest"),
        data_order_digest=found.get("data_order_digest", ""),
        validation_accuracy=found.get("validation_accuracy"),
        score=found.get("score"),
        validation_score=found.get("validation_score"),
    )


def _missing(planned: PlannedTrial, stored: Stored, failures: Mapping[str, str]) -> Missing:
    diverged, why = _why(planned.step, stored, failures)
    return Missing(
        arm=planned.arm,
        mask=planned.mask,
        learning_rate=planned.learning_rate,
        sparsity=planned.sparsity,
        seed=planned.seed,
        why=why,
        failed=diverged is None,
    )


def _why(step: Step, stored: Stored, failures: Mapping[str, str]) -> tuple[Train | None, str]:
    """The source that diverged, if that is why a step was not done, and the reason in words."""
    diverged = next(_diverged_sources(step, stored), None)
    if diverged is not None:
        rate = diverged.recipe.learning_rate
        return diverged, f"diverged source: Train {diverged.key[:12]} at learning rate {rate:g}"
    return None, f"failed: {failures[step.key]}" if step.key in failures else "not run"


def _diverged_sources(step: Step, stored: Stored) -> Iterator[Train]:
    """The stored trainings that diverged among those whose states `step` rests on, nearest first.

    Each is looked at once: over the rounds of iterative pruning the number of paths doubles with every round.
    """
    waiting, seen = [*reversed(step.parents)], set[Step]()
    while waiting:
        parent = waiting.pop()
        if parent in seen:
            continue
        seen.add(parent)
        if isinstance(parent, Train) and parent.key in stored and stored[parent.key].metrics["diverged"]:
            yield parent
        else:
            waiting.extend(reversed(parent.parents))


def _correlations(plan: Plan, stored: Stored) -> tuple[Correlation, ...]:
    """A row for every stored overlap that is defined."""
    rows = []
    for planned in plan.correlations:
        found = measured(stored, planned.step, planned.p) if planned.step.key in stored else None
        if found and found["value"] is not None:
            place = planned.pair, planned.learning_rate, planned.mask, planned.sparsity, planned.seed, planned.p
            rows.append(Correlation(*place, value=found["value"], expected=found["expected"]))
    return tuple(sorted(rows, key=lambda row: (row.pair, *_order(row)[:3], row.seed, row.p)))


def _not_defined(plan: Plan, stored: Stored) -> tuple[str, ...]:
    """Where R_p has no meaning, because a layer keeps too few weights: one note for all seeds of a place."""
    found: dict[str, str] = {}
    for planned in plan.correlations:
        row = measured(stored, planned.step, planned.p) if planned.step.key in stored else {}
        if "why" in row:
            where = (
                f"{planned.pair}, {planned.mask} masks at {planned.sparsity:g}, learning rate {planned.learning_rate:g}"
            )
            found.setdefault(where, row["why"])
    return tuple(f"R_p of {where} is left out where it is not defined: {why}" for where, why in found.items())


def _connectivity(plan: Plan, stored: Stored) -> tuple[Connectivity, ...]:
    finished = [planned for planned in plan.connections if planned.step.key in stored]
    return tuple(sorted((_path(planned, stored) for planned in finished), key=_order))


def _path(planned: PlannedConnection, stored: Stored) -> Connectivity:
    found = stored[planned.step.key].metrics
    return Connectivity(
        arm=planned.arm,
        learning_rate=planned.learning_rate,
        mask=planned.mask,
        sparsity=planned.sparsity,
        seed=planned.seed,
        alpha=tuple(found["alpha"]),
        test_loss=tuple(found["test_loss"]),
        test_accuracy=tuple(found["test_accuracy"] or ()),
        loss_barrier=found["loss_barrier"],
        accuracy_barrier=math.nan if found["accuracy_barrier"] is None else found["accuracy_barrier"],
        score=tuple(found.get("score") or ()),
        score_barrier=found.get("score_barrier", math.nan),
    )


def _paths_left_out(plan: Plan, stored: Stored, failures: Mapping[str, str]) -> Iterator[str]:
    """A note for every path between networks without a result, and why."""
    for planned in plan.connections:
        if planned.step.key not in stored:
            yield f"connectivity: no line for {planned}: {_why(planned.step, stored, failures)[1]}"


def _rules_of_steps(plan: Plan, stored: Stored, failures: Mapping[str, str]) -> Iterator[Invariant]:
    """The rules that each step was held to while it ran: how many kept them, and the steps that failed by them."""
    held = [name for step in plan.steps if step.key in stored for name in stored[step.key].metrics["invariants"]]
    for name, meaning in RULES.items():
        breaches = tuple(sorted({why for why in failures.values() if f": {name}: " in why and "not run" not in why}))
        yield Invariant(name, meaning, held.count(name) + len(breaches), breaches)


def _layers(plan: Plan, stored: Stored) -> tuple[Layer, ...]:
    model = build(plan.model, plan.input_shape, plan.outputs)
    scope = Scope(plan.spec.scope.include, plan.spec.scope.exclude)
    kept = _kept_shares(plan, stored)
    return tuple(
        Layer(row.name, row.shape, row.prunable, row.reason, kept.get(row.name, {}))
        for row in list_parameters(model, scope)
    )


def _kept_shares(plan: Plan, stored: Stored) -> dict[str, dict[str, float]]:
    """Layer -> "mask @ sparsity" -> the mean kept share over the distinct masks (rates and seeds)."""
    shares: dict[str, dict[str, float]] = {}
    for name, found in _layer_counts(plan, stored).items():
        for layer in next(iter(found.values())):
            mean = fmean(layers[layer]["kept"] / layers[layer]["total"] for layers in found.values())
            shares.setdefault(layer, {})[name] = mean
    return shares


def _emptied(plan: Plan, stored: Stored) -> tuple[str, ...]:
    """A line for every layer of which some mask keeps nothing, so that nothing comes through it."""
    lines = []
    for name, found in _layer_counts(plan, stored).items():
        for layer in next(iter(found.values())):
            if empty := sum(layers[layer]["kept"] == 0 for layers in found.values()):
                lines.append(f"no weight of '{layer}' is left by {name} (in {empty} of {counted(len(found), 'mask')})")
    return tuple(lines)


def _layer_counts(plan: Plan, stored: Stored) -> dict[str, dict[str, dict[str, Any]]]:
    """Of "mask @ sparsity" and the key of each distinct mask -> layer -> its kept and total weights."""
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    for trial in sorted(plan.trials, key=_order):
        step = trial.step.mask if isinstance(trial.step, Train) else None
        if isinstance(step, Prune) and step.key in stored:
            name = f"{trial.mask} @ {trial.sparsity:g}"
            masks.setdefault(name, {})[step.key] = stored[step.key].metrics["layers"]
    return masks


def _data_notes(plan: Plan) -> tuple[str, ...]:
    """What is to be known of the data: that they are not the published bytes, that some are held out."""
    note, held = load_examples(plan.data).note, facts(plan.data).validation
    held_out = f"the best rate and the recommendation are chosen on {held} held-out training examples, not on the test"
    return (*([f"data: {note}"] if note else []), *([held_out] if held else []))


def _environment(plan: Plan, stored: Stored) -> dict[str, Any]:
    fingerprints = [stored[step.key].manifest["environment"] for step in plan.steps if step.key in stored]
    trained = [step for step in plan.steps if isinstance(step, Train | Import)]
    guessing = {"outputs": plan.outputs, "chance": chance_of(plan.spec.task, plan.data)}
    return {
        **environment(),
        "test_images": facts(plan.data).test,
        **({} if plan.spec.recipe.metric else guessing),  # of a metric of the user's it is not known
        "devices": sorted({step.device for step in trained}),
        "precisions": sorted({step.recipe.precision for step in trained}),
        "mixed": mixed(fingerprints),
    }


def _order(row: Any) -> tuple[Any, ...]:
    """As tables show them: by rate, mask algorithm (none first), sparsity, arm, seed."""
    return row.learning_rate, row.mask or "", row.sparsity, getattr(row, "arm", ""), row.seed
