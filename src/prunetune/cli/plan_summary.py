"""What a planned study would run and cost, as a person reads it."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prunetune.analysis.paper.scale import retention_text
from prunetune.api import Prepared
from prunetune.errors import ConfigError, counted, unknown
from prunetune.execution.cost import (
    Costs,
    Estimate,
    Simulation,
    bytes_read,
    bytes_written,
    costs,
    estimate,
    simulate,
)
from prunetune.execution.progress import duration, duration_range
from prunetune.plan.compile import Plan, Remaining, labels, plan
from prunetune.steps import graph
from prunetune.steps.steps import Prune, Step, Train, device_of
from prunetune.training.recipe import TrainingTime

WORTH_A_GPU = 60.0  # seconds of work
GPU_SPEEDS = (10, 50)  # times a core's, between which a GPU is likely to lie
OPTION = "--simulate"
EXAMPLE = f"{OPTION} nodes=64,gpus=8"


@dataclass(frozen=True)
class Machines:
    """Alike nodes, each with so many GPUs or processor cores, and a training at a time on each of these."""

    nodes: int
    each: int  # GPUs or cores of a node
    device: str  # cuda or cpu
    per_training: float | None = None  # seconds of a training of the study's recipe there, where somebody knows them

    @property
    def workers(self) -> int:
        """How many steps are done at once."""
        return self.nodes * self.each

    def __str__(self) -> str:
        what = "GPUs" if self.device == "cuda" else "cores"
        return f"nodes × {what}: {self.nodes} × {self.each} = {self.workers} workers, a step at a time on each"

    @classmethod
    def parse(cls, text: str) -> "Machines":
        """From `nodes=64,gpus=8` or `nodes=1,cpus=16`, either with `seconds=60`; ConfigError where it is none."""
        given = dict(_pairs(text))
        if ("gpus" in given) == ("cpus" in given):
            raise ConfigError(f"{OPTION}: '{text}'; give one of gpus and cpus, such as {EXAMPLE}")
        device, each = ("cuda", "gpus") if "gpus" in given else ("cpu", "cpus")
        seconds = _seconds(given["seconds"]) if "seconds" in given else None
        return cls(_count("nodes", given.get("nodes", "1")), _count(each, given[each]), device, seconds)


def foresee(prepared: Prepared, machines: Machines) -> str:
    """What a replay of the whole study on these machines comes to, as a person reads it; nothing counts as stored.

    Where seeds may be added, it is that of the least.
    ConfigError where it is not known what a training takes there.
    """
    planned = plan(prepared.spec, machines.device)  # steps on another device have other keys
    cost = costs(planned, prepared.store, machines.device, machines.per_training)
    found = simulate(planned.steps, cost.seconds, machines.workers)
    return "\n".join(_lines(planned, machines, cost, found))


class _Nothing:
    """A store that holds nothing."""

    def has(self, key: str, points: Collection[TrainingTime] = ()) -> bool:
        return False


def _lines(planned: Plan, machines: Machines, cost: Costs, found: Simulation) -> Iterator[str]:
    written, read = bytes_written(planned, planned.remaining(_Nothing())), bytes_read(planned, planned.steps)
    yield f"simulated with {counted(planned.spec.looks[0], 'seed')}, from an empty store: {machines}"
    yield from (f"  cost: {source}" for source in cost.sources)
    yield f"  makespan {duration(found.makespan)}, utilisation {100 * found.utilisation:.1f} %"
    yield (
        f"  no order can beat {duration(max(found.shared_evenly, found.chain_seconds))}: work / workers is "
        f"{duration(found.shared_evenly)}, the critical path {duration(found.chain_seconds)}"
    )
    yield f"  busy at once: at most {found.most_at_once} of {counted(found.workers, 'worker')}"
    yield f"  answer at sparsity {planned.spec.asked_sparsity:g} after {duration(found.end_of(planned.answer))}"
    yield (
        f"  store traffic: {written / 1e6:,.1f} MB written, {read / 1e6:,.1f} MB read"
        f"{_rate(written + read, found.makespan)}"
    )
    yield "  critical path, one after the other:"
    names = labels(planned)
    trainings = [step for step in found.chain if isinstance(step, Train)]
    for step in trainings:
        yield f"    {duration(cost.seconds[step.key])}  {names.get(step.key, f'Train {step.key[:12]}')}"
    others = len(found.chain) - len(trainings)
    yield f"    and {counted(others, 'step that does', 'steps that do')} not train"


def _rate(moved: int, makespan: float) -> str:
    return f", {moved / makespan / 1e6:,.1f} MB/s on average" if makespan else ""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    known, seen = ("nodes", "gpus", "cpus", "seconds"), set[str]()
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ConfigError(f"{OPTION}: '{part}' is no NAME=NUMBER, such as {EXAMPLE}")
        if name not in known:
            raise unknown(OPTION, name, known)
        if name in seen:
            raise ConfigError(f"{OPTION}: {name} is given twice")
        seen.add(name)
        yield name, value


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise ConfigError(f"{OPTION}: {name}='{text}'; must be a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{OPTION}: seconds='{text}'; must be a number above 0")
    return value


@dataclass(frozen=True)
class PlanGroup:
    """Plans and the union of their steps."""

    plans: tuple[Plan, ...]
    steps: tuple[Step, ...]  # each once

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> "PlanGroup":
        """The union of at least one plan."""
        return cls(tuple(plans), union(plan.steps for plan in plans))

    @property
    def trainings(self) -> int:
        """Distinct trainings of all studies."""
        return graph.trainings(self.steps)

    @property
    def epochs(self) -> int:
        """Epochs of the distinct trainings."""
        return graph.total_epochs(self.steps)

    @property
    def one_by_one(self) -> tuple[int, int]:
        """Trainings and epochs if each study shared its own steps but none with the others."""
        return sum(plan.trainings for plan in self.plans), sum(plan.epochs for plan in self.plans)

    @property
    def separate(self) -> tuple[int, int]:
        """Trainings and epochs if every row of every study were an experiment of its own."""
        plans = self.plans
        return sum(plan.separate_trainings for plan in plans), sum(plan.separate_epochs for plan in plans)


def union(parts: Iterable[Sequence[Step]]) -> tuple[Step, ...]:
    """Every step of the parts once, in order of first appearance."""
    return tuple(dict.fromkeys(step for part in parts for step in part))


Bound = tuple[str, Plan, Remaining]
"""A title, empty where there is but one; a plan; and what of it is left."""


def outline(prepared: Prepared, jobs: int, verbose: bool = False) -> str:
    """Trainings, masks and cost with `jobs` workers, and the plan's notes; where seeds may be added, least and most.

    `verbose` counts the steps of each kind too.
    """
    kappas = [f"learning rate {row.learning_rate:g}: {retention_text(row)}" for row in prepared.plan.recipes]
    scaled = _scaled(prepared.plan)
    blocks = [
        (title, _size(plan), _steps(plan) if verbose else "", *_cost_lines(plan, left, jobs))
        for title, plan, left in _bounds(prepared)
    ]
    lines = [line for block in blocks for line in block if line]
    return "\n".join([*lines, *scaled, *kappas, *(f"note: {note}" for note in prepared.plan.notes)])


def outline_of_group(group: str, studies: Sequence[Prepared]) -> str:
    """A line for each study, and what they come to together."""
    heads = [_left(study.plan, study.remaining) for study in studies]
    return "\n".join([*heads, f"{group}: {counted(len(studies), 'study', 'studies')}", *_together(studies)])


def cost_line(plan: Plan, remaining: Remaining, jobs: int) -> str:
    """What is left to train, how long that takes with `jobs` workers, and what it takes of the disk."""
    return _cost_lines(plan, remaining, jobs)[0]


def _cost_lines(plan: Plan, remaining: Remaining, jobs: int) -> tuple[str, str]:
    """The cost here, and on a GPU; what is empty has no line."""
    if not remaining.left:
        return _left(plan, remaining), ""
    expected = estimate(plan, remaining, jobs)
    return f"{_left(plan, remaining)}; {_cost_words(expected, jobs)}", _on_gpu(plan, expected)


def _on_gpu(plan: Plan, expected: Estimate) -> str:
    """What a GPU would take; empty where that is known already or of no use, and where nothing could be timed."""
    on_cpu = all(device_of(step) == "cpu" for step in plan.steps)
    if expected.work is None or expected.work < WORTH_A_GPU or not on_cpu:
        return ""
    slow, fast = GPU_SPEEDS
    took = duration_range(expected.work / fast, expected.work / slow)
    other = f"for another speed divide {duration(expected.work)} by it"
    return f"on one GPU that is {slow} to {fast} times as fast as a core here: about {took}; {other}"


def _cost_words(expected: Estimate, jobs: int) -> str:
    room = f"{expected.store_bytes / 1e6:.1f} MB of store"
    if expected.low is None or expected.high is None:
        return f"time unknown without data and device, {room}"
    took = duration_range(expected.low, expected.high)
    return f"about {took} here with --jobs {jobs} if the machine gets no busier, {room}"


def _together(studies: Sequence[Prepared]) -> Iterator[str]:
    for bounds in zip(*map(_bounds, studies), strict=True):
        titles, plans, remainders = zip(*bounds, strict=True)
        together, left = PlanGroup.of(plans), union(remaining.left for remaining in remainders)
        (alone, alone_epochs), (separate, separate_epochs) = together.one_by_one, together.separate
        if titles[0]:
            yield titles[0]
        yield (
            f"distinct trainings: {together.trainings} ({counted(together.epochs, 'epoch')}), "
            f"of which {graph.trainings(left)} ({counted(graph.total_epochs(left), 'epoch')}) to run"
        )
        yield (
            f"without sharing between studies they would be {alone} ({counted(alone_epochs, 'epoch')}), "
            f"and as separate experiments {separate} ({counted(separate_epochs, 'epoch')})"
        )


def _bounds(prepared: Prepared) -> list[Bound]:
    """The least and the most that a study takes; of a fixed number of seeds the one."""
    least = prepared.plan, prepared.remaining
    if prepared.max_plan is prepared.plan:
        return [("", *least)]
    first, *_, last = prepared.spec.looks
    most = prepared.max_plan, prepared.max_plan.remaining(prepared.store)
    return [
        (f"the least, where {first} seeds decide every verdict:", *least),
        (f"the most, where no verdict is decided before {last} seeds:", *most),
    ]


def _scaled(plan: Plan) -> list[str]:
    """What `--scale` changed, in a line; nothing where the study was not scaled."""
    was, recipe = plan.spec.scaled, plan.spec.recipe
    if was is None:
        return []
    steps = plan.recipes[0].steps // recipe.epochs
    share = plan.spec.data_args.get("validation")
    held = f", {share:g} of the training images held out" if share else ""
    return [
        f"scaled by {was.factor:g}: {counted(recipe.epochs, 'epoch')} for {was.epochs}, {counted(steps, 'step')} an "
        f"epoch for {was.steps_per_epoch}, weight decay {recipe.weight_decay:g} for {was.weight_decay:g}{held}"
    ]


def _left(plan: Plan, remaining: Remaining) -> str:
    trainings, epochs = counted(remaining.trainings_left, "training"), counted(remaining.epochs_left, "epoch")
    return f"{plan.spec.name}: {trainings} ({epochs}) to run, {remaining.trainings_cached} cached"


def _size(plan: Plan) -> str:
    masks = counted(sum(isinstance(step, Prune) for step in plan.steps), "mask")
    arms = ", ".join(dict.fromkeys(trial.arm for trial in plan.trials))
    return (
        f"model {plan.model.name}, data {plan.data.name}: "
        f"{counted(plan.trainings, 'training')} ({counted(plan.epochs, 'epoch')}) and {masks} for {arms}\n"
        f"without what they share they would be {counted(plan.separate_trainings, 'training')} "
        f"({counted(plan.separate_epochs, 'epoch')})"
    )


def _steps(plan: Plan) -> str:
    kinds = Counter(type(step).__name__ for step in plan.steps)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"steps: {counts}; {counted(len(plan.trials), 'row')} of the table"
