"""What the measuring steps do: movement, barriers, curvature and sensitivity from stored states."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.data import load_examples
from prunetune.errors import ConfigError
from prunetune.execution.inputs import Inputs, origin, transformed
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups
from prunetune.sparsity.criteria import Magnitude
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.movement import Movement, movement
from prunetune.sparsity.patterns import CHANNEL, require_channels, scored
from prunetune.sparsity.prune import choose
from prunetune.sparsity.scope import Scope, prunable
from prunetune.steps.quantities import (
    MeasureBarrier,
    MeasureBlocks,
    MeasureCurvature,
    MeasureMovement,
    MeasureSensitivity,
)
from prunetune.steps.steps import Prune, Step, Weights
from prunetune.training.batches import probe_batches, shown_indices, trial_inputs
from prunetune.training.curvature import curvature
from prunetune.training.evaluate import PathScores, evaluate, score_blocks, score_path
from prunetune.training.numerics import reproducible
from prunetune.training.objective import objective_of
from prunetune.training.recipe import Recipe

Metrics = dict[str, Any]
State = Mapping[str, Tensor]


def measure_movement(step: MeasureMovement, inputs: Inputs, model: nn.Module) -> Metrics:
    """Of all prunable weights together and of each layer."""
    mask = inputs.mask(step.mask)
    first, second = (_as_used(weights, step.mask, inputs) for weights in (step.first, step.second))
    whole, layers = movement(first, second, prunable(model, step.scope), mask)
    return {**_moved(whole), "layers": {name: _moved(own) for name, own in layers.items()}, "invariants": []}


def measure_barrier(step: MeasureBarrier, inputs: Inputs, model: nn.Module) -> Metrics:
    """The line and its two barriers."""
    first, second = inputs.state(step.first), inputs.state(step.second)
    line = score_path(model, first, second, None, load_examples(step.data), step.recipe, step.points, step.device)
    return {**line_metrics(line, step.recipe), "invariants": []}


def line_metrics(line: PathScores, recipe: Recipe) -> Metrics:
    """What a line between two networks measured; the scores are accuracies of classification, else in their unit."""
    values, worst = [finite(score.value) for score in line.test], finite(line.score_barrier)
    named = {"test_accuracy": values, "accuracy_barrier": worst}
    if recipe.task is not None:
        named = {"test_accuracy": None, "accuracy_barrier": None, "score": values, "score_barrier": worst}
    losses = {"test_loss": [finite(score.loss) for score in line.test], "loss_barrier": finite(line.loss_barrier)}
    return {"alpha": list(line.alpha), **losses, **named}


def measure_curvature(step: MeasureCurvature, inputs: Inputs, model: nn.Module) -> Metrics:
    """Over the network's trainable parameters, pruned weights left out."""
    mask = inputs.mask(step.mask)
    model.load_state_dict(inputs.state(step.weights))
    model.to(step.device)
    data = load_examples(step.data)
    shown = shown_indices(data, step.images, step.seed)
    batches = probe_batches(data, shown, step.recipe.batch_size, step.device)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    amounts = {"iterations": step.iterations, "probes": step.probes, "seed": step.seed}
    with reproducible(torch.device(step.device)):
        found = curvature(model, batches, objective_of(step.recipe).loss, names, mask, **amounts)
    figures = {name: finite(value) if isinstance(value, float) else value for name, value in asdict(found).items()}
    return {**figures, "images": len(shown), "invariants": []}


def measure_sensitivity(step: MeasureSensitivity, inputs: Inputs, model: nn.Module) -> Metrics:
    """The accuracy of the whole network, and with each layer or group alone pruned to each sparsity."""
    data = load_examples(step.data)
    if not len(data.validation):
        raise ConfigError(
            "data_args.validation: 0; sensitivity is measured on held-out examples: hold out a share, such as 0.1"
        )
    state = inputs.state(step.weights)
    model.to(step.device)

    def score(changed: State) -> float | None:
        model.load_state_dict({**state, **changed})
        return finite(evaluate(model, data.validation, data, step.recipe, step.device).value)

    pruned = _by_group if step.pattern == CHANNEL else _by_layer
    units = pruned(step, state, model)
    return {
        "whole": score({}),
        "sparsities": list(step.sparsities),
        "units": {name: [score(cut(sparsity)) for sparsity in step.sparsities] for name, cut in units.items()},
        "images": len(data.validation),
        "invariants": [],
    }


def measure_blocks(step: MeasureBlocks, inputs: Inputs, model: nn.Module) -> Metrics:
    """The score whole, and without each block."""
    data = load_examples(step.data)
    examples = data.test if step.part == "test" else data.validation
    model.load_state_dict(inputs.state(step.weights))
    model.to(step.device)
    whole, left_out = score_blocks(model, examples, data, step.recipe, step.device, step.blocks)
    return {
        "whole": finite(whole),
        "left_out": list(map(finite, left_out)),
        "examples": len(examples),
        "invariants": [],
    }


Cut = Callable[[float], State]  # a sparsity to the tensors that change by it


def _by_layer(step: MeasureSensitivity, state: State, model: nn.Module) -> dict[str, Cut]:
    def cutting(name: str) -> Cut:
        def cut(sparsity: float) -> State:
            kept = choose({name: state[name]}, round(1 - sparsity, 12), Magnitude())[name]
            return {name: torch.where(kept, state[name], torch.zeros_like(state[name]))}

        return cut

    return {name: cutting(name) for name in prunable(model, step.scope)}


def _by_group(step: MeasureSensitivity, state: State, model: nn.Module) -> dict[str, Cut]:
    groups = free_groups(model.cpu(), step.scope, trial_inputs(step.data, origin(step).input_shape))
    model.to(step.device)
    names = prunable(model, step.scope)

    def cutting(group: ChannelGroup) -> Cut:
        weights = {name: state[name] for name in scored(names, [group])}

        def cut(sparsity: float) -> State:
            mask = choose(weights, round(1 - sparsity, 12), Magnitude(), pattern=CHANNEL, groups=[group])
            return {name: torch.where(kept, state[name], torch.zeros_like(state[name])) for name, kept in mask.items()}

        return cut

    return {name: cutting(group) for name, group in groups.items()}


def free_groups(model: nn.Module, scope: Scope, shown: ExampleInputs) -> dict[str, ChannelGroup]:
    """The groups of coupled channels that may be pruned, each under its layer's name, in the model's order.

    Where a layer's outputs are in several groups, their range tells these apart: `conv[0:4]`. ConfigError where no
    group may be pruned.
    """
    groups = channel_groups(model, shown, scope)
    require_channels(groups)
    return named_groups(groups)


def named_groups(groups: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
    """Those that may be pruned, each under its layer's name; see `free_groups`."""
    free = [group for group in groups if group.whole is None]
    layers = Counter(group.layer for group in free)
    return {group.layer if layers[group.layer] == 1 else _with_range(group): group for group in free}


def _with_range(group: ChannelGroup) -> str:
    return f"{group.layer}[{min(group.outputs)}:{max(group.outputs) + 1}]"


def _as_used(weights: Weights, mask: Prune | None, inputs: Inputs) -> State:
    """The state as a training under the mask starts from it: after the transform of a control, if it has one."""
    return transformed(weights, inputs.state(weights), inputs.mask(mask), inputs.second(weights))


def _moved(found: Movement) -> Metrics:
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(found).items()}


def finite(value: float) -> float | None:
    """The number, or None where it is none: strict JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


QUANTITIES: dict[type[Step], Callable[..., Metrics]] = {
    MeasureMovement: measure_movement,
    MeasureBarrier: measure_barrier,
    MeasureCurvature: measure_curvature,
    MeasureSensitivity: measure_sensitivity,
    MeasureBlocks: measure_blocks,
}
"""By the kind of step: the step, its inputs and a network of the kind of its states, to its metrics."""
