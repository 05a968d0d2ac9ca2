"""A study foreseen on machines that are not here: when it would end, what it would wait for, what it would move."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from prunetune.api import Prepared
from prunetune.errors import RequestError, unknown
from prunetune.progress import duration
from prunetune.run.costs import Costs, costs
from prunetune.run.estimate import bytes_read, bytes_written
from prunetune.run.simulate import Simulation, simulate
from prunetune.study.labels import labels
from prunetune.study.plan import Plan, plan
from prunetune.study.steps import Train
from prunetune.train.recipe import Point

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
        """From `nodes=64,gpus=8` or `nodes=1,cpus=16`, either with `seconds=60`; RequestError where it is none."""
        given = dict(_pairs(text))
        if ("gpus" in given) == ("cpus" in given):
            raise RequestError(f"{OPTION}: '{text}'; give one of gpus and cpus, such as {EXAMPLE}")
        device, each = ("cuda", "gpus") if "gpus" in given else ("cpu", "cpus")
        seconds = _seconds(given["seconds"]) if "seconds" in given else None
        return cls(_count("nodes", given.get("nodes", "1")), _count(each, given[each]), device, seconds)


def foresee(prepared: Prepared, machines: Machines) -> str:
    """What a replay of the whole study on these machines comes to, as a person reads it; nothing counts as stored.

    Where seeds may be added, it is that of the least.
    RequestError where it is not known what a training takes there.
    """
    planned = plan(prepared.spec, machines.device)  # steps on another device have other keys
    cost = costs(planned, prepared.store, machines.device, machines.per_training)
    found = simulate(planned.steps, cost.seconds, machines.workers)
    return "\n".join(_lines(planned, machines, cost, found))


class _Nothing:
    """A store that holds nothing."""

    def has(self, key: str, points: Collection[Point] = ()) -> bool:
        return False


def _lines(planned: Plan, machines: Machines, cost: Costs, found: Simulation) -> Iterator[str]:
    written, read = bytes_written(planned, planned.against(_Nothing())), bytes_read(planned, planned.steps)
    yield f"simulated with {planned.spec.looks[0]} seeds, from an empty store: {machines}"
    yield from (f"  cost: {source}" for source in cost.sources)
    yield f"  makespan {duration(found.makespan)}, utilisation {100 * found.utilisation:.1f} %"
    yield (
        f"  no order can beat {duration(max(found.shared_evenly, found.chain_seconds))}: work / workers is "
        f"{duration(found.shared_evenly)}, the critical path {duration(found.chain_seconds)}"
    )
    yield f"  busy at once: at most {found.most_at_once} of {found.workers} workers"
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
    yield f"    and {len(found.chain) - len(trainings)} steps that do not train"


def _rate(moved: int, makespan: float) -> str:
    return f", {moved / makespan / 1e6:,.1f} MB/s on average" if makespan else ""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    known, seen = ("nodes", "gpus", "cpus", "seconds"), set[str]()
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise RequestError(f"{OPTION}: '{part}' is no NAME=NUMBER, such as {EXAMPLE}")
        if name not in known:
            raise unknown(OPTION, name, known)
        if name in seen:
            raise RequestError(f"{OPTION}: {name} is given twice")
        seen.add(name)
        yield name, value


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise RequestError(f"{OPTION}: {name}='{text}'; must be a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RequestError(f"{OPTION}: seconds='{text}'; must be a number above 0")
    return value
