"""From a store to the rows of a study: what a report shows, and all it can show."""

from collections.abc import Collection, Iterator, Mapping
from statistics import fmean
from typing import Any

from prunetune.run.comparisons import compare
from prunetune.run.environment import chance, environment, mixed
from prunetune.run.invariants import RULES
from prunetune.run.mask_overlap import mask_overlap
from prunetune.run.overlaps import along_training, measured, overlap_by_layer
from prunetune.run.residuals import residuals
from prunetune.run.shelves import Shelves
from prunetune.sparsity.scope import Scope, survey
from prunetune.study.budget import budget
from prunetune.study.connections import PlannedConnection
from prunetune.study.plan import Plan, PlannedTrial
from prunetune.study.results import Connectivity, Correlation, Invariant, Layer, Missing, Results, Trial
from prunetune.study.steps import Import, Prune, Step, Train
from prunetune.train.data import facts, load
from prunetune.train.models import build


def collect(plan: Plan, store: Shelves, cached: Collection[str], failures: Mapping[str, str]) -> Results:
    """The results of a study as far as they are stored, rows sorted.

    `cached` holds the keys stored before this command began; `failures` maps the key of a step that failed, or
    that needs one that did, to the reason. Raises DamageError when a stored file is not what was written.
    """
    stored = [trial for trial in plan.trials if store.has(trial.step.key)]
    missing = [trial for trial in plan.trials if not store.has(trial.step.key)]
    layers = _layers(plan, store)
    return Results(
        study=plan.spec.resolved(),
        environment=_environment(plan, store),
        trials=tuple(sorted((_trial(trial, store, cached) for trial in stored), key=_order)),
        correlations=_correlations(plan, store),
        missing=tuple(sorted((_missing(trial, store, failures) for trial in missing), key=_order)),
        invariants=(*_rules_of_steps(plan, store, failures), *compare(plan, store)),
        budget=budget(plan),
        layers=layers,
        notes=(
            *plan.notes,
            *_not_defined(plan, store),
            *_data_notes(plan),
            *_emptied(plan, store),
            *_lines_left_out(plan, store, failures),
        ),
        controls=tuple(name for name, arm in plan.spec.named_arms.items() if arm.control),
        residuals=residuals(plan, store),
        connectivity=_connectivity(plan, store),
        along_training=along_training(plan, store),
        overlap_by_layer=overlap_by_layer(plan, store, layers),
        mask_overlap=mask_overlap(plan, store),
        recipes=plan.recipes,
    )


def _trial(planned: PlannedTrial, store: Shelves, cached: Collection[str]) -> Trial:
    key = planned.step.key
    found = store.metrics(key)
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
        test_accuracy=found["test_accuracy"],
        test_loss=found["test_loss"],
        diverged=found["diverged"],
        cached=key in cached,
        seconds=store.manifest(key)["seconds"],
        start_digest=found.get("start_digest", ""),
        mask_digest=found.get("mask_digest"),
        data_order_digest=found.get("data_order_digest", ""),
        validation_accuracy=found.get("validation_accuracy"),
    )


def _missing(planned: PlannedTrial, store: Shelves, failures: Mapping[str, str]) -> Missing:
    diverged, why = _why(planned.step, store, failures)
    return Missing(
        arm=planned.arm,
        mask=planned.mask,
        learning_rate=planned.learning_rate,
        sparsity=planned.sparsity,
        seed=planned.seed,
        why=why,
        failed=diverged is None,
    )


def _why(step: Step, store: Shelves, failures: Mapping[str, str]) -> tuple[Train | None, str]:
    """The source that diverged, if that is why a step was not done, and the reason in words."""
    diverged = next(_diverged_sources(step, store), None)
    if diverged is not None:
        rate = diverged.recipe.learning_rate
        return diverged, f"diverged source: Train {diverged.key[:12]} at learning rate {rate:g}"
    return None, f"failed: {failures[step.key]}" if step.key in failures else "not run"


def _diverged_sources(step: Step, store: Shelves) -> Iterator[Train]:
    """The stored trainings that diverged among those whose states `step` rests on, nearest first.

    Each is looked at once: over the rounds of iterative pruning the number of paths doubles with every round.
    """
    waiting, seen = [*reversed(step.parents)], set[Step]()
    while waiting:
        parent = waiting.pop()
        if parent in seen:
            continue
        seen.add(parent)
        if isinstance(parent, Train) and store.has(parent.key) and store.metrics(parent.key)["diverged"]:
            yield parent
        else:
            waiting.extend(reversed(parent.parents))


def _correlations(plan: Plan, store: Shelves) -> tuple[Correlation, ...]:
    """A row for every stored overlap that is defined."""
    rows = []
    for planned in plan.correlations:
        found = measured(store, planned.step, planned.p) if store.has(planned.step.key) else None
        if found and found["value"] is not None:
            place = planned.pair, planned.learning_rate, planned.mask, planned.sparsity, planned.seed, planned.p
            rows.append(Correlation(*place, value=found["value"], expected=found["expected"]))
    return tuple(sorted(rows, key=lambda row: (row.pair, *_order(row)[:3], row.seed, row.p)))


def _not_defined(plan: Plan, store: Shelves) -> tuple[str, ...]:
    """Where R_p has no meaning, because a layer keeps too few weights: one note for all seeds of a place."""
    found: dict[str, str] = {}
    for planned in plan.correlations:
        row = measured(store, planned.step, planned.p) if store.has(planned.step.key) else {}
        if "why" in row:
            where = (
                f"{planned.pair}, {planned.mask} masks at {planned.sparsity:g}, learning rate {planned.learning_rate:g}"
            )
            found.setdefault(where, row["why"])
    return tuple(f"R_p of {where} is left out where it is not defined: {why}" for where, why in found.items())


def _connectivity(plan: Plan, store: Shelves) -> tuple[Connectivity, ...]:
    stored = [line for line in plan.connections if store.has(line.step.key)]
    return tuple(sorted((_line(planned, store) for planned in stored), key=_order))


def _line(planned: PlannedConnection, store: Shelves) -> Connectivity:
    found = store.metrics(planned.step.key)
    return Connectivity(
        arm=planned.arm,
        learning_rate=planned.learning_rate,
        mask=planned.mask,
        sparsity=planned.sparsity,
        seed=planned.seed,
        alpha=tuple(found["alpha"]),
        test_loss=tuple(found["test_loss"]),
        test_accuracy=tuple(found["test_accuracy"]),
        loss_barrier=found["loss_barrier"],
        accuracy_barrier=found["accuracy_barrier"],
    )


def _lines_left_out(plan: Plan, store: Shelves, failures: Mapping[str, str]) -> Iterator[str]:
    """A note for every line without a result, and why."""
    for planned in plan.connections:
        if not store.has(planned.step.key):
            yield f"connectivity: no line for {planned}: {_why(planned.step, store, failures)[1]}"


def _rules_of_steps(plan: Plan, store: Shelves, failures: Mapping[str, str]) -> Iterator[Invariant]:
    """The rules that each step was held to while it ran: how many kept them, and the steps that failed by them."""
    held = [name for step in plan.steps if store.has(step.key) for name in store.metrics(step.key)["invariants"]]
    for name, meaning in RULES.items():
        breaches = tuple(sorted({why for why in failures.values() if f": {name}: " in why and "not run" not in why}))
        yield Invariant(name, meaning, held.count(name) + len(breaches), breaches)


def _layers(plan: Plan, store: Shelves) -> tuple[Layer, ...]:
    model = build(plan.model, plan.input_shape, plan.outputs)
    scope = Scope(plan.spec.scope.include, plan.spec.scope.exclude)
    kept = _kept_shares(plan, store)
    return tuple(
        Layer(row.name, row.shape, row.prunable, row.reason, kept.get(row.name, {})) for row in survey(model, scope)
    )


def _kept_shares(plan: Plan, store: Shelves) -> dict[str, dict[str, float]]:
    """Layer -> "mask @ sparsity" -> the mean kept share over the distinct masks (rates and seeds)."""
    shares: dict[str, dict[str, float]] = {}
    for name, found in _layer_counts(plan, store).items():
        for layer in next(iter(found.values())):
            mean = fmean(layers[layer]["kept"] / layers[layer]["total"] for layers in found.values())
            shares.setdefault(layer, {})[name] = mean
    return shares


def _emptied(plan: Plan, store: Shelves) -> tuple[str, ...]:
    """A line for every layer of which some mask keeps nothing, so that nothing comes through it."""
    lines = []
    for name, found in _layer_counts(plan, store).items():
        for layer in next(iter(found.values())):
            if empty := sum(layers[layer]["kept"] == 0 for layers in found.values()):
                lines.append(f"no weight of '{layer}' is left by {name} (in {empty} of {len(found)} masks)")
    return tuple(lines)


def _layer_counts(plan: Plan, store: Shelves) -> dict[str, dict[str, dict[str, Any]]]:
    """Of "mask @ sparsity" and the key of each distinct mask -> layer -> its kept and total weights."""
    masks: dict[str, dict[str, dict[str, Any]]] = {}
    for trial in sorted(plan.trials, key=_order):
        step = trial.step.mask if isinstance(trial.step, Train) else None
        if isinstance(step, Prune) and store.has(step.key):
            name = f"{trial.mask} @ {trial.sparsity:g}"
            masks.setdefault(name, {})[step.key] = store.metrics(step.key)["layers"]
    return masks


def _data_notes(plan: Plan) -> tuple[str, ...]:
    """What is to be known of the data: that they are not the published bytes, that some are held out."""
    note, held = load(plan.data).note, facts(plan.data).validation
    held_out = f"the best rate and the recommendation are chosen on {held} held-out training images, not on the test's"
    return (*([f"data: {note}"] if note else []), *([held_out] if held else []))


def _environment(plan: Plan, store: Shelves) -> dict[str, Any]:
    fingerprints = [store.manifest(step.key)["environment"] for step in plan.steps if store.has(step.key)]
    trained = [step for step in plan.steps if isinstance(step, Train | Import)]
    guessing = {"outputs": plan.outputs, "chance": chance(load(plan.data).test_labels)}
    return {
        **environment(),
        "test_images": facts(plan.data).test,
        **({} if plan.spec.recipe.metric else guessing),  # guessing has a score only in accuracy
        "devices": sorted({step.device for step in trained}),
        "precisions": sorted({step.recipe.precision for step in trained}),
        "mixed": mixed(fingerprints),
    }


def _order(row: Any) -> tuple[Any, ...]:
    """As tables show them: by rate, mask algorithm (none first), sparsity, arm, seed."""
    return row.learning_rate, row.mask or "", row.sparsity, getattr(row, "arm", ""), row.seed
