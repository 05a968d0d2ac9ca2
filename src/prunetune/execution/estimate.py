"""What a plan will cost on this machine: time from a short probe, disk from the model's size."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from prunetune.data import Dataset, load
from prunetune.errors import ConfigError
from prunetune.execution.inputs import weights_read
from prunetune.models import draw
from prunetune.plan.compile import Plan, Remaining
from prunetune.steps.steps import Connect, Prune, Step, Train
from prunetune.training.evaluate import IMAGES
from prunetune.training.loop import train
from prunetune.training.recipe import Schedule

PROBE_STEPS = {"cpu": 4, "mps": 4, "cuda": 200}  # on CUDA the first few are slow, and then a graph is replayed
EVALUATION_COST = 1 / 3  # of a training step on as many images: forward without backward
MEASURE_SECONDS = 0.05  # a step that does not train reads and writes a few states
STEP_BYTES = 4 * 4096  # of every step: its folder and three short files, a block of the disk each


@dataclass(frozen=True)
class Estimate:
    """Expected wall-clock seconds, and bytes by which the store will grow."""

    seconds: float | None  # None where the data or the device are not at hand to time anything
    store_bytes: int


def estimate(plan: Plan, remaining: Remaining, jobs: int) -> Estimate:
    """Time one training's inner loop for a moment, and scale it to what is left of the plan, on `jobs` workers.

    No number of jobs ends sooner than the longest chain of trainings (the rounds of iterative pruning).
    """
    return Estimate(_seconds(plan, remaining, jobs), bytes_written(plan, remaining))


def _seconds(plan: Plan, remaining: Remaining, jobs: int) -> float | None:
    trainings = [step for step in remaining.left if isinstance(step, Train)]
    lines = [step for step in remaining.left if isinstance(step, Connect)]
    others = (len(remaining.left) - len(trainings) - len(lines)) * MEASURE_SECONDS / jobs
    if not trainings and not lines:
        return others
    if [*trainings, *lines][0].device == "cuda" and not torch.cuda.is_available():
        return None
    try:
        data = load(plan.data)
    except ConfigError:
        return None
    per_epoch, per_evaluation = probe(plan, data, [*trainings, *lines][0])
    per_point = per_evaluation + EVALUATION_COST * per_epoch * min(1, IMAGES / len(data.train_labels))
    work = remaining.epochs_left * per_epoch + remaining.trainings_left * per_evaluation
    work += sum(line.points for line in lines) * per_point
    return max(work / jobs, remaining.longest_epochs * per_epoch) + others


def probe(plan: Plan, data: Dataset, step: Train | Connect) -> tuple[float, float]:
    """Seconds of an epoch and of an evaluation, from a few steps on the first images."""
    images = PROBE_STEPS[step.device] * step.recipe.batch_size
    few = replace(
        data,
        train_images=data.train_images[:images],
        train_labels=data.train_labels[:images],
        test_images=data.test_images[:images],
        test_labels=data.test_labels[:images],
    )
    recipe = replace(step.recipe, epochs=1, schedule=Schedule("constant"))
    model = draw(plan.model, plan.input_shape, plan.outputs, seed=0)
    passes = [train(model, few, recipe, order_seed=0, augment_seed=0, device=step.device) for _ in range(2)]
    per_image = passes[-1].seconds / (
        len(few.train_labels) + EVALUATION_COST * len(few.test_labels)
    )  # the first warms up
    shared_by = plan.spec.devices
    return per_image * len(data.train_labels) / shared_by, per_image * EVALUATION_COST * len(data.test_labels)


def bytes_written(plan: Plan, remaining: Remaining) -> int:
    """Four bytes a value of every state to be written, a bit a value of every mask, and what every step takes."""
    return _state_and_mask_bytes(plan, remaining.states_left, remaining.masks_left) + STEP_BYTES * len(remaining.left)


def bytes_read(plan: Plan, steps: Iterable[Step]) -> int:
    """Of the states and masks that these steps start from, each taken once a step: of other machines, or of a cache."""
    states = masks = 0
    for step in steps:
        states += sum(len(weights.states) for weights in weights_read(step))
        masks += sum(isinstance(parent, Prune) for parent in step.parents)
    return _state_and_mask_bytes(plan, states, masks)


def _state_and_mask_bytes(plan: Plan, states: int, masks: int) -> int:
    with torch.device("meta"):
        model = draw(plan.model, plan.input_shape, plan.outputs, seed=0)
    values = sum(tensor.numel() for tensor in model.state_dict().values())
    return values * 4 * states + math.ceil(values / 8) * masks
