"""What a study measures of its networks where the spec's `measure` asks for it: the planned steps and their places."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prunetune.core.references import Ref
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError
from prunetune.plan.context import StudyContext
from prunetune.plan.measurements import DENSE_PAIR, PlannedCorrelation, PlannedTrial
from prunetune.rows import DENSE
from prunetune.sparsity.allocation import SENSITIVITY
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.scope import Scope
from prunetune.spec.study import Spec
from prunetune.steps.quantities import (
    MeasureBarrier,
    MeasureCurvature,
    MeasureMovement,
    MeasureSensitivity,
    Quantity,
)
from prunetune.steps.steps import Train, Weights
from prunetune.training.recipe import Recipe

ROUNDS = ("ticket", "rewind", "finetune_chain")  # the arms that a round of iterative pruning may be
CURVATURE_IMAGES = 512  # training images over which the loss's curvature is taken
SENSITIVITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # to which each layer is pruned by itself


@dataclass(frozen=True)
class PlannedQuantity:
    """One quantity of the study: `step` measures it; `of` says of which network, or between which two."""

    kind: str  # an entry of the spec's `measure`
    of: str
    learning_rate: float
    mask: str | None
    sparsity: float
    seed: int
    step: Quantity


def sensitivity_of(
    weights: Weights, recipe: Recipe, pattern: str, scope: Scope, data: Ref, device: str, heads: bool | None
) -> MeasureSensitivity:
    """What a layer, or under `channel` a group of coupled channels, alone costs a network of the study.

    `heads` says whether the network has attention heads that can go.
    """
    if pattern == CHANNEL:
        return MeasureSensitivity(weights, SENSITIVITIES, scope, CHANNEL, data, recipe, device, heads)
    return MeasureSensitivity(weights, SENSITIVITIES, scope, "unstructured", data, recipe, device)


def require_held_out(context: StudyContext) -> None:
    """ConfigError where sensitivity is asked for and there are no images to measure it on."""
    asked = "sensitivity" in context.spec.measure or any(m.allocation == SENSITIVITY for m in context.spec.masks)
    if asked and not context.facts.validation:
        raise ConfigError(
            "data_args.validation: 0; sensitivity is measured on held-out examples: set the share of the training "
            "examples to hold out, such as 0.1"
        )


def quantities(
    spec: Spec,
    scope: Scope,
    heads: bool | None,
    trials: Sequence[PlannedTrial],
    correlations: Iterable[PlannedCorrelation],
) -> Iterator[PlannedQuantity]:
    """Those that the spec asks for, in the order of the trials. Networks without a mask of the study's have none.

    `masks` needs no step: the stored masks are compared when rows are collected.
    """
    planners = {
        "movement": lambda: _movements(scope, trials, correlations),
        "barriers": lambda: _barriers(trials),
        "curvature": lambda: _curvatures(trials),
        "sensitivity": lambda: _sensitivities(spec, scope, heads, trials),
    }
    for kind in spec.measure:
        if kind in planners:
            yield from planners[kind]()


def _movements(
    scope: Scope, trials: Iterable[PlannedTrial], correlations: Iterable[PlannedCorrelation]
) -> Iterator[PlannedQuantity]:
    """From θ0 to θT, and from start to end of every arm, within its mask."""
    pairs = {(c.learning_rate, c.seed): c.step for c in correlations if c.pair == DENSE_PAIR}
    for (rate, seed), pair in pairs.items():
        step = MeasureMovement(pair.first, pair.second, None, scope)
        yield PlannedQuantity("movement", DENSE_PAIR, rate, None, 0.0, seed, step)
    for trial, step in _sparse(trials):
        moved = MeasureMovement(step.start, Weights(step), step.mask, scope)
        yield _at("movement", f"{trial.arm}_0/{trial.arm}_T", trial, moved)


def _barriers(trials: Sequence[PlannedTrial]) -> Iterator[PlannedQuantity]:
    """From θT to every sparse final, from the ticket's to finetune's, and from each level's to the next one's."""
    dense = {(t.learning_rate, t.seed): t.step for t in trials if t.arm == DENSE}
    sparse = list(_sparse(trials))
    for trial, step in sparse:
        line = _line(Weights(dense[trial.learning_rate, trial.seed]), step)
        yield _at("barriers", f"theta_T/{trial.arm}_T", trial, line)
    finals = {(t.arm, *_cell(t), t.sparsity): step for t, step in sparse}
    for trial, step in sparse:
        other = finals.get(("finetune", *_cell(trial), trial.sparsity))
        if trial.arm == "ticket" and other is not None:
            yield _at("barriers", "ticket_T/finetune_T", trial, _line(Weights(step), other))
    levels: dict[tuple[object, ...], list[tuple[PlannedTrial, Train]]] = {}
    for trial, step in sparse:
        if trial.arm in ROUNDS:
            levels.setdefault((trial.arm, *_cell(trial)), []).append((trial, step))
    for rows in levels.values():
        for (_, before), (trial, step) in pairwise(sorted(rows, key=lambda row: row[0].sparsity)):
            yield _at("barriers", f"previous {trial.arm}_T/{trial.arm}_T", trial, _line(Weights(before), step))


def _curvatures(trials: Iterable[PlannedTrial]) -> Iterator[PlannedQuantity]:
    """Of every dense final, also a user's, and of every sparse one within its mask."""
    for trial in trials:
        step = trial.step
        mask = step.mask if isinstance(step, Train) else None
        if mask is not None or trial.arm == DENSE:
            seed = derive(trial.seed, "curvature")
            found = MeasureCurvature(
                Weights(step), mask, step.data, step.recipe, CURVATURE_IMAGES, seed, device=step.device
            )
            yield _at("curvature", f"{trial.arm}_T", trial, found)


def _sensitivities(
    spec: Spec, scope: Scope, heads: bool | None, trials: Iterable[PlannedTrial]
) -> Iterator[PlannedQuantity]:
    """Of θT, a layer at a time, and where a mask of the study takes whole channels a group of them at a time."""
    patterns = sorted({CHANNEL if mask.pattern == CHANNEL else "unstructured" for mask in spec.masks})
    for trial in trials:
        step = trial.step
        if trial.arm != DENSE:
            continue
        for pattern in patterns:
            found = sensitivity_of(Weights(step), step.recipe, pattern, scope, step.data, step.device, heads)
            yield _at("sensitivity", f"theta_T, {pattern}", trial, found)


def _sparse(trials: Iterable[PlannedTrial]) -> Iterator[tuple[PlannedTrial, Train]]:
    """The trials that train under a mask, with their step."""
    for trial in trials:
        if isinstance(trial.step, Train) and trial.step.mask is not None:
            yield trial, trial.step


def _line(first: Weights, second: Train) -> MeasureBarrier:
    return MeasureBarrier(first, Weights(second), second.data, second.recipe, device=second.device)


def _cell(trial: PlannedTrial) -> tuple[object, ...]:
    return trial.learning_rate, trial.mask, trial.seed


def _at(kind: str, of: str, trial: PlannedTrial, step: Quantity) -> PlannedQuantity:
    return PlannedQuantity(kind, of, trial.learning_rate, trial.mask, trial.sparsity, trial.seed, step)
