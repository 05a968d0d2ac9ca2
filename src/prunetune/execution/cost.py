"""What a plan will cost: the time of each step, when workers would end them (simulated), and the room on the disk."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from prunetune.core.environment import cpu_model, fingerprint
from prunetune.data import facts
from prunetune.errors import ConfigError, CorruptionError, counted
from prunetune.execution.inputs import weights_read
from prunetune.execution.timing import EVALUATION_COST, Evaluating, crowding, timed
from prunetune.models import draw
from prunetune.plan.compile import Plan, Remaining
from prunetune.sparsity.scope import prunable
from prunetune.steps import graph
from prunetune.steps.quantities import MeasureBarrier, MeasureBlocks, MeasureCurvature, MeasureSensitivity
from prunetune.steps.steps import Connect, Prune, Step, Train
from prunetune.store.layout import StoreReader
from prunetune.training.evaluate import IMAGES

PRODUCT_COST = 3.0  # of a training step on as many images: a Hessian-vector product is a gradient of a gradient
BESIDE = 1.3  # of a training's batches: what it takes for checks, weights that are written, and the next one's start
START_SECONDS = 10.0  # at most, until workers have imported torch
MEASURE_SECONDS = 0.05  # a step that does not train reads and writes a few states
STEP_BYTES = 4 * 4096  # of every step: its folder and three short files, a block of the disk each


UNITS: dict[type[Step], str] = {
    Train: "an epoch",
    Connect: "a point",
    MeasureBarrier: "a point",
    MeasureCurvature: "a product",
    MeasureSensitivity: "a sparsity",
    MeasureBlocks: "a part of the data",
}


@dataclass(frozen=True)
class Estimate:
    """Expected wall-clock seconds, from `low` to `high`, and bytes by which the store will grow.

    Seconds are None where the data or the device are not at hand to time anything. `work` is what all steps come to one
    after the other, on one core of this machine or its accelerator.
    """

    low: float | None
    high: float | None
    work: float | None
    store_bytes: int


@dataclass(frozen=True)
class Costs:
    """Seconds of every step, by its key; `sources` says in a line for each kind of step where they come from."""

    seconds: Mapping[str, float]
    sources: tuple[str, ...]


class Rate(NamedTuple):
    """Seconds a unit of UNITS; any other step is one."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Known:
    """What stored steps of a plan took on one kind of machine."""

    seconds: Mapping[Step, float]
    machine: str

    def median(self, kind: type[Step]) -> Rate | None:
        """Of one kind of step. None where none is known."""
        found = [seconds / _units(step) for step, seconds in self.seconds.items() if type(step) is kind]
        if not found:
            return None
        rate = median(found)
        return Rate(rate, f"{rate:.3g} s {UNITS.get(kind, 'each')} (median of {len(found)} stored, on {self.machine})")


def costs(plan: Plan, store: StoreReader, device: str, per_training: float | None = None) -> Costs:
    """The cost of every step of a plan on `device`, `cpu` or `cuda`.

    A step of which `store` holds what it took on that kind of machine takes that again, any other the median of its
    kind. `per_training` takes their place for trainings: seconds for as many epochs as the study's recipe has.
    ConfigError where no training is stored, none can be timed here, and nothing is given.
    """
    known = _known(dict(_stored(plan, store)), device, trainings=per_training is None)
    an_epoch = _an_epoch(plan, known, device, per_training)
    kinds = sorted({type(step): step for step in plan.steps}.items(), key=lambda kind: kind[0].__name__)
    rates = {
        kind: an_epoch if kind is Train else _rate(plan, step, known, an_epoch.seconds * plan.spec.devices)
        for kind, step in kinds
    }
    return Costs(
        {step.key: known.seconds.get(step, rates[type(step)].seconds * _units(step)) for step in plan.steps},
        tuple(f"{kind.__name__} {rate.source}" for kind, rate in rates.items()),
    )


def estimate(plan: Plan, remaining: Remaining, jobs: int) -> Estimate:
    """Time one training's inner loop for a moment, and scale it to what is left of the plan, on `jobs` workers.

    No number of jobs ends sooner than the longest chain of trainings (the rounds of iterative pruning). `low` is by the
    fastest try and workers that have the processor to themselves; `high` by the slowest, beside all that runs here now,
    and with what a training takes beside its batches. Data with published checksums need not be on this machine: images
    of the right shape stand for them.
    """
    stored = bytes_written(plan, remaining)
    passing = [step for step in remaining.left if isinstance(step, Evaluating)]
    other_steps = (len(remaining.left) - len(passing)) * MEASURE_SECONDS
    if not remaining.left:
        return Estimate(0.0, 0.0, 0.0, stored)
    if not passing:
        return Estimate(other_steps / jobs, other_steps, other_steps, stored)
    found = timed(plan, passing[0])
    if found is None:
        return Estimate(None, None, None, stored)
    low, high = (
        max(_work(plan, remaining, passing, seconds) / jobs, remaining.longest_epochs * _an_epochs(plan, seconds))
        for seconds in found
    )
    alone, beside = crowding(passing[0].device, jobs)
    return Estimate(
        (low + other_steps / jobs) * alone,
        (high + other_steps / jobs) * beside * BESIDE + START_SECONDS,
        _work(plan, remaining, passing, found.fast) + other_steps,
        stored,
    )


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


def _stored(plan: Plan, store: StoreReader) -> Iterator[tuple[Step, Mapping[str, Any]]]:
    """The plan's steps that are stored, with what is known of how they were made; what diverged ended early."""
    for step in plan.steps:
        try:
            about = store.manifest(step.key)
        except (KeyError, CorruptionError):
            continue
        if not about["diverged"]:
            yield step, about


def _known(stored: Mapping[Step, Mapping[str, Any]], device: str, trainings: bool) -> Known:
    """What was done on this machine's processor, or on that and that accelerator which most trainings had."""
    where = {step: (about["environment"]["cpu"], about["environment"]["accelerator"]) for step, about in stored.items()}
    counted = Counter(place for step, place in where.items() if isinstance(step, Train))
    here = (cpu_model(), None) if device == "cpu" else max(counted, key=counted.__getitem__, default=(None, None))

    def counts(step: Step) -> bool:
        return trainings and where[step] == here if isinstance(step, Train) else where[step][0] == here[0]

    seconds = {step: float(about["seconds"]) for step, about in stored.items() if counts(step)}
    return Known(seconds, " with ".join(filter(None, here)))


def _an_epoch(plan: Plan, known: Known, device: str, per_training: float | None) -> Rate:
    """Seconds of an epoch, the evaluation's share included."""
    epochs = plan.spec.recipe.epochs
    if per_training is not None:
        return Rate(per_training / epochs, f"{per_training:g} s for {counted(epochs, 'epoch')} (given)")
    if found := known.median(Train):
        return found
    first = next(step for step in plan.steps if isinstance(step, Train))
    if found := timed(plan, first):
        here = fingerprint(device, None)
        seconds = _an_epochs(plan, found.fast) + found.fast * EVALUATION_COST * facts(plan.data).test / epochs
        return Rate(
            seconds, f"{seconds:.3g} s an epoch (a few steps timed now, on {here['accelerator'] or here['cpu']})"
        )
    raise ConfigError(
        f"--simulate: no training of this study on such a machine ({device}) is stored, and none can be timed here; "
        f"add seconds=N, what one of its trainings of {counted(epochs, 'epoch')} takes there"
    )


def _an_epochs(plan: Plan, per_image: float) -> float:
    """Seconds of an epoch on as many devices as share a training."""
    return per_image * facts(plan.data).train / plan.spec.devices


def _rate(plan: Plan, step: Step, known: Known, an_epoch: float) -> Rate:
    """Of the kind of a step that does not train; `an_epoch` is of one device, which is what such a step has."""
    if found := known.median(type(step)):
        return found
    if share := _epochs_a_unit(plan, step):
        return Rate(an_epoch * share, f"{share:.2g} of an epoch {UNITS[type(step)]} (assumed)")
    return Rate(MEASURE_SECONDS, f"{MEASURE_SECONDS:g} s each (assumed)")


def _units(step: Step) -> int:
    if isinstance(step, Train):
        return step.recipe.epochs
    if isinstance(step, Connect | MeasureBarrier):
        return step.points
    if isinstance(step, MeasureCurvature):
        return step.iterations + step.probes
    return len(step.sparsities) if isinstance(step, MeasureSensitivity) else 1


def _epochs_a_unit(plan: Plan, step: Step) -> float:
    """What share of an epoch's time a unit of a step takes; 0 of one that no images pass through."""
    if isinstance(step, Connect | MeasureBarrier):
        return EVALUATION_COST
    images = facts(plan.data)
    if isinstance(step, MeasureCurvature):
        return PRODUCT_COST * min(step.images, images.train) / images.train
    if isinstance(step, MeasureSensitivity):
        layers = len(prunable(_meta_model(plan), step.scope))
        return EVALUATION_COST * layers * images.validation / images.train
    if isinstance(step, MeasureBlocks):
        return EVALUATION_COST * (images.test if step.part == "test" else images.validation) / images.train
    return 0.0


def _work(plan: Plan, remaining: Remaining, passing: Sequence[Evaluating], per_image: float) -> float:
    """Seconds of all steps that images pass through, one after the other."""
    known, per_epoch = facts(plan.data), _an_epochs(plan, per_image)
    alone = per_epoch * plan.spec.devices  # of a step that does not train, which has one device
    per_evaluation = per_image * EVALUATION_COST * known.test
    per_point = per_evaluation + EVALUATION_COST * per_epoch * min(1, IMAGES / known.train)
    work = remaining.epochs_left * per_epoch + remaining.trainings_left * per_evaluation
    work += sum(step.points for step in passing if isinstance(step, Connect | MeasureBarrier)) * per_point
    measuring = (step for step in passing if isinstance(step, MeasureCurvature | MeasureSensitivity | MeasureBlocks))
    return work + sum(_units(step) * _epochs_a_unit(plan, step) for step in measuring) * alone


def _state_and_mask_bytes(plan: Plan, states: int, masks: int) -> int:
    values = sum(tensor.numel() for tensor in _meta_model(plan).state_dict().values())
    return values * 4 * states + math.ceil(values / 8) * masks


def _meta_model(plan: Plan) -> nn.Module:
    """The network's shapes without its weights."""
    with torch.device("meta"):
        return draw(plan.model, plan.input_shape, plan.outputs, seed=0)


@dataclass(frozen=True)
class Simulation:
    """What came of a replay on `workers` alike workers; all times in seconds since its beginning."""

    workers: int
    ends: Mapping[str, float]  # by the key of the step
    work: float  # of all steps together
    chain: tuple[Step, ...]  # the critical path: each reads the result of the one before
    chain_seconds: float
    most_at_once: int  # workers that were ever busy together

    @property
    def makespan(self) -> float:
        """When the last step ends."""
        return max(self.ends.values(), default=0.0)

    @property
    def shared_evenly(self) -> float:
        """The work by the number of workers: with `chain_seconds`, what no order of the steps can beat."""
        return self.work / self.workers

    @property
    def utilisation(self) -> float:
        """The share of the workers' time until the end in which they have a step to do."""
        return self.shared_evenly / self.makespan if self.makespan else 0.0

    def end_of(self, steps: Iterable[Step]) -> float:
        """When the last of these steps ends."""
        return max((self.ends[step.key] for step in steps), default=0.0)


def simulate(steps: Sequence[Step], seconds: Mapping[str, float], workers: int) -> Simulation:
    """Replay `steps` (parents first, each once), which take `seconds` by their keys, on at least one worker.

    As an executor does it: whenever a worker is free it gets, of the steps whose parents are done, the first in the
    order of `steps`. Handing out takes no time, nothing fails, and nothing is stored before. No such replay takes
    longer than work / workers + (1 − 1/workers) · critical path (Graham 1969).
    """
    takes = [seconds[step.key] for step in steps]
    below, parents_left = _by_place(steps)
    ready = [i for i, left in enumerate(parents_left) if not left]  # a heap, being sorted
    running: list[tuple[float, int]] = []
    ends = [0.0] * len(steps)
    now, most_at_once = 0.0, 0
    while ready or running:
        while ready and len(running) < workers:
            begun = heapq.heappop(ready)
            heapq.heappush(running, (now + takes[begun], begun))
        most_at_once = max(most_at_once, len(running))
        now = running[0][0]
        while running and running[0][0] == now:
            done = heapq.heappop(running)[1]
            ends[done] = now
            for child in below[done]:
                parents_left[child] -= 1
                if not parents_left[child]:
                    heapq.heappush(ready, child)
    chain = graph.longest_chain(steps, lambda step: seconds[step.key])
    return Simulation(
        workers=workers,
        ends={step.key: end for step, end in zip(steps, ends, strict=True)},
        work=sum(takes),
        chain=chain,
        chain_seconds=sum(seconds[step.key] for step in chain),
        most_at_once=most_at_once,
    )


def _by_place(steps: Sequence[Step]) -> tuple[list[list[int]], list[int]]:
    """Of each step, by its place among them: the places of those that read it, and how many of them it reads."""
    place = {step.key: i for i, step in enumerate(steps)}
    below: list[list[int]] = [[] for _ in steps]
    parents = [0] * len(steps)
    for i, step in enumerate(steps):
        for parent in step.parents:
            if (above := place.get(parent.key)) is not None:
                below[above].append(i)
                parents[i] += 1
    return below, parents
