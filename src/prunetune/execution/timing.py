"""Timing a training for a moment on this machine, whatever else is running, and with or without the data."""

import os
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from prunetune.data import TrainingData, facts, load_examples
from prunetune.data.dataset import OFFICIAL, Dataset
from prunetune.errors import ConfigError
from prunetune.execution.executors.launch import default_jobs
from prunetune.models import draw
from prunetune.plan.compile import Plan
from prunetune.steps.quantities import MeasureBarrier, MeasureBlocks, MeasureCurvature, MeasureSensitivity
from prunetune.steps.steps import Connect, Train
from prunetune.training.loop import train
from prunetune.training.recipe import Schedule

PROBE_STEPS = {"cpu": 4, "mps": 4, "cuda": 200}  # on CUDA the first few are slow, and then a graph is replayed
TRIES = 2  # of a probe
PATIENCE = 3.0  # seconds, after which one try is enough
EVALUATION_COST = 1 / 3  # of a training step on as many images: forward without backward

# images pass through a network
Evaluating = Train | Connect | MeasureBarrier | MeasureCurvature | MeasureSensitivity | MeasureBlocks


class Timed(NamedTuple):
    """Seconds that a pass over one image takes in a training step: the fastest and the slowest of a few tries."""

    fast: float
    slow: float


def timed(plan: Plan, step: Evaluating) -> Timed | None:
    """A short probe of what passes images through a network; None without the device or the data."""
    if step.device == "cuda" and not torch.cuda.is_available():
        return None
    count = PROBE_STEPS[step.device] * step.recipe.batch_size
    if plan.data.digest == OFFICIAL:  # known without a look at it, and perhaps not on this machine
        return probe(plan, stand_in(plan, count), step)
    try:
        return probe(plan, load_examples(plan.data).first(count), step)
    except ConfigError:
        return None


def stand_in(plan: Plan, count: int) -> Dataset:
    """Images of noise, as many as asked for or as there are, in the shape and with the classes of the plan's."""
    known = facts(plan.data)
    generator = torch.Generator().manual_seed(0)

    def part(most: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = min(count, most)
        pixels = torch.randint(0, 256, (images, *known.input_shape), generator=generator, dtype=torch.uint8)
        return pixels, torch.arange(images) % known.outputs

    return Dataset.of(plan.data.name, part(known.train), part(known.test), outputs=known.outputs)


def crowding(device: str, jobs: int) -> tuple[float, float]:
    """How much longer than on a core of its own a worker takes: beside the others alone, and beside all that runs now.

    Nothing is known of what shares an accelerator.
    """
    if device != "cpu":
        return 1.0, 1.0
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, default_jobs()
    return max(1.0, jobs / cores), max(1.0, (jobs + load) / cores)


def probe(plan: Plan, few: TrainingData, step: Evaluating) -> Timed:
    """Train on a few examples again and again; the first pass, which warms up, does not count.

    On a processor the time is what the training had of it, whatever else was running meanwhile.
    """
    recipe = replace(step.recipe, epochs=1, schedule=Schedule("constant"))
    model = draw(plan.model, plan.input_shape, plan.outputs, seed=0)
    images = len(few.train) + EVALUATION_COST * len(few.test)
    passes: list[float] = []
    start = time.perf_counter()
    while len(passes) < 2 or (len(passes) <= TRIES and time.perf_counter() - start < PATIENCE):
        began, had = time.perf_counter(), time.process_time()
        seconds = train(model, few, recipe, order_seed=0, augment_seed=0, device=step.device).seconds
        whole, own = time.perf_counter() - began, time.process_time() - had
        passes.append(seconds / images * (min(1.0, own / whole) if step.device == "cpu" else 1.0))
    return Timed(min(passes[1:]), max(passes[1:]))
