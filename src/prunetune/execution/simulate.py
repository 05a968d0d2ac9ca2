"""When the steps of a plan would end on a number of workers: a discrete-event simulation of what an executor does."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunetune.steps import graph
from prunetune.steps.steps import Step


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
