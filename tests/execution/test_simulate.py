"""The replay of a graph: by hand, against a slow obvious one, between its bounds, and as the executor does it."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.execution.cost import simulate
from prunetune.execution.scheduler import Schedule
from prunetune.steps import graph
from prunetune.steps.steps import Step
from tests.support.toy_study import Work


@dataclass(frozen=True, eq=False)
class Node(Step):
    """A step that reads those before it, and counts how often anybody asks for them."""

    number: int
    before: tuple[Step, ...] = ()
    asked: ClassVar[list[int]] = []

    @property
    def parents(self) -> tuple[Step, ...]:  # type: ignore[override]
        self.asked.append(self.number)
        return self.before


def named(seconds: Mapping[Node, int]) -> dict[str, float]:
    return {step.key: float(cost) for step, cost in seconds.items()}


def chains(number: int, length: int) -> list[Step]:
    """So many chains, one after the other."""
    steps: list[Step] = []
    for i in range(number * length):
        steps.append(Node(i, (steps[-1],) if i % length else ()))
    return steps


# --- by hand ----------------------------------------------------------------------------------------------------


def test_a_fork_by_hand() -> None:
    """a 2, then b 3 and c 1 and d 1 of it, and e 4 of b: on two workers c and d share what b leaves."""
    a = Node(0)
    b, c, d = (Node(i, (a,)) for i in (1, 2, 3))
    e = Node(4, (b,))
    seconds = {a: 2, b: 3, c: 1, d: 1, e: 4}
    found = simulate([a, b, c, d, e], named(seconds), 2)
    assert [found.ends[step.key] for step in (a, b, c, d, e)] == [2, 5, 3, 4, 9]
    assert (found.makespan, found.work, found.shared_evenly) == (9, 11, 5.5)
    assert found.utilisation == pytest.approx(11 / 18)
    assert found.chain == (a, b, e)
    assert found.chain_seconds == 9
    assert found.most_at_once == 2
    assert found.end_of([c, d]) == 4


def test_the_order_of_the_steps_decides_by_hand() -> None:
    """Two workers, a chain of three ones and three single ones: chain first takes 3, chain last 4."""
    x, y, z = chains(1, 3)
    alone = [Node(i) for i in (7, 8, 9)]
    seconds = {step.key: 1.0 for step in (x, y, z, *alone)}
    assert simulate([x, y, z, *alone], seconds, 2).makespan == 3
    assert simulate([*alone, x, y, z], seconds, 2).makespan == 4


def test_nothing_to_do_takes_no_time() -> None:
    found = simulate([], {}, 3)
    assert (found.makespan, found.utilisation, found.chain, found.most_at_once, found.end_of([])) == (0, 0, (), 0, 0)


# --- against the obvious ----------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> dict[Node, int]:
    """Steps, parents first, with their seconds."""
    found: dict[Node, int] = {}
    for number in range(draw(st.integers(1, 12))):
        before = draw(st.lists(st.sampled_from(list(found)), unique=True, max_size=3)) if found else []
        found[Node(number, tuple(before))] = draw(st.integers(0, 5))
    return found


def obvious(seconds: Mapping[Node, int], workers: int) -> dict[str, float]:
    """Second by second, through all steps every time."""
    ends: dict[Node, float] = {}
    running: dict[Node, int] = {}
    now = 0
    while len(ends) < len(seconds):
        for step, cost in seconds.items():
            fresh = step not in ends and step not in running
            if fresh and len(running) < workers and all(parent in ends for parent in step.before):
                running[step] = cost
        over = [step for step, left in running.items() if left == 0]
        for step in over:
            del running[step]
            ends[step] = now
        if not over:
            running = {step: left - 1 for step, left in running.items()}
            now += 1
    return {step.key: end for step, end in ends.items()}


def longest_from(step: Step, seconds: Mapping[Node, int]) -> int:
    return seconds[step] + max((longest_from(s, seconds) for s in seconds if step in s.before), default=0)  # type: ignore[index]


@given(graphs(), st.integers(1, 4))
def test_ends_are_those_of_the_obvious_replay_and_lie_between_the_bounds(
    seconds: dict[Node, int], workers: int
) -> None:
    found = simulate(list(seconds), named(seconds), workers)
    assert found.ends == obvious(seconds, workers)
    work, chain = sum(seconds.values()), max(longest_from(step, seconds) for step in seconds)
    assert (found.work, found.chain_seconds) == (work, chain)
    assert max(work / workers, chain) - 1e-9 <= found.makespan <= work / workers + (1 - 1 / workers) * chain + 1e-9
    assert found.utilisation <= 1
    assert 1 <= found.most_at_once <= workers


@given(graphs())
def test_one_worker_takes_the_sum_and_one_for_each_step_the_chain(seconds: dict[Node, int]) -> None:
    steps = list(seconds)
    assert simulate(steps, named(seconds), 1).makespan == sum(seconds.values())
    found = simulate(steps, named(seconds), len(steps))
    assert found.makespan == found.chain_seconds
    assert all(parent in child.parents for parent, child in zip(found.chain, found.chain[1:], strict=False))


@given(graphs())
def test_by_urgency_parents_come_first_and_of_the_others_those_asked_for(seconds: dict[Node, int]) -> None:
    steps, wanted = list(seconds), frozenset(graph.closure(list(seconds)[::3]))
    order = graph.by_priority(steps, graph.longest_below(steps, seconds.__getitem__), wanted)  # type: ignore[arg-type]
    done: set[Step] = set()
    for step in order:
        ready = [s for s in steps if s not in done and done.issuperset(s.before)]
        best = [s for s in ready if s in wanted] or ready
        assert step in best
        assert longest_from(step, seconds) == max(longest_from(s, seconds) for s in best)
        done.add(step)
    assert done == set(steps)


# --- the executor's own schedule --------------------------------------------------------------------------------


class NothingStored:
    """What a schedule asks of a store and of claims: nothing is there, everything may be taken."""

    looks = 0

    def has(self, key: str, points: object = ()) -> bool:
        self.looks += 1
        return False

    def check(self, key: str) -> None:
        self.looks += 1

    def take(self, key: str) -> bool:
        return True

    def release(self, key: str) -> None: ...

    def share(self, key: str) -> None: ...


def replayed(steps: Sequence[Step], seconds: Mapping[str, float], workers: int, nothing: Any) -> dict[str, float]:
    """When each step ends if the executor's schedule hands them out."""
    schedule = Schedule(Work(tuple(steps)), nothing, nothing)
    running: list[tuple[float, str]] = []
    ends: dict[str, float] = {}
    now = 0.0
    while True:
        offered = schedule.take()
        while len(running) < workers and (step := next(offered, None)) is not None:
            heapq.heappush(running, (now + seconds[step.key], step.key))
        if not running:
            return ends
        now = running[0][0]
        while running and running[0][0] == now:
            _, key = heapq.heappop(running)
            ends[key] = now
            schedule.done(key)


@settings(deadline=None)  # a busy machine is no failure
@given(graphs(), st.integers(1, 4))
def test_the_replay_is_what_the_executor_does(seconds: dict[Node, int], workers: int) -> None:
    steps, costs = list(seconds), named(seconds)
    assert simulate(steps, costs, workers).ends == replayed(steps, costs, workers, NothingStored())


@pytest.mark.parametrize("workers", [1, 3])
def test_handing_out_twice_as_many_steps_takes_twice_as_many_looks(workers: int) -> None:
    counted = []
    for number in (20, 40):
        steps, nothing = chains(number, 5), NothingStored()
        seconds = {step.key: 1.0 for step in steps}
        Node.asked.clear()
        replayed(steps, seconds, workers, nothing)
        counted.append((len(Node.asked), nothing.looks))
    (asked, looks), twice = counted
    assert twice == (2 * asked, 2 * looks)
