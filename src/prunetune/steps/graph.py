"""The graph of a plan's steps: what a step rests on, an order to run them in, and what trainings cost."""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from prunetune.steps.steps import Step, Train

Cost = TypeVar("Cost", int, float)


def closure(targets: Iterable[Step]) -> tuple[Step, ...]:
    """The targets and all they rest on, each once, parents first; otherwise in the order of the targets."""
    done: dict[Step, None] = {}
    for target in targets:
        stack = [target]
        while stack:
            waiting = [parent for parent in stack[-1].parents if parent not in done]
            if stack[-1] in done or not waiting:
                done[stack.pop()] = None
            else:
                stack.extend(reversed(waiting))
    return tuple(done)


def epochs_of(step: Step) -> int:
    """The epochs that a step trains: a Train's recipe's, else 0."""
    return step.recipe.epochs if isinstance(step, Train) else 0


def total_epochs(steps: Iterable[Step]) -> int:
    """The epochs that these steps train."""
    return sum(epochs_of(step) for step in steps)


def trainings(steps: Iterable[Step]) -> int:
    """How many of these steps are trainings."""
    return sum(isinstance(step, Train) for step in steps)


def longest_below(steps: Sequence[Step], cost: Callable[[Step], Cost]) -> dict[str, Cost]:
    """For each step's key, the cost of the dearest chain that starts with it (`steps`: parents first)."""
    longest = {step.key: cost(step) for step in steps}
    for step in reversed(steps):
        for parent in step.parents:
            if parent.key in longest:
                longest[parent.key] = max(longest[parent.key], cost(parent) + longest[step.key])
    return longest


def longest_chain(steps: Sequence[Step], cost: Callable[[Step], float]) -> tuple[Step, ...]:
    """The steps of the dearest chain, first to last (`steps`: parents first); of equal ones that which comes first."""
    longest, below = longest_below(steps, cost), children(steps)
    chain: list[Step] = []
    then: Sequence[Step] = steps
    while then:
        chain.append(max(then, key=lambda step: longest[step.key]))
        then = below[chain[-1]]
    return tuple(chain)


def by_priority(
    steps: Sequence[Step], priority: Mapping[str, int], first: Collection[Step] = frozenset()
) -> tuple[Step, ...]:
    """Parents first; among the steps that could run next those of `first`, and then always the most urgent.

    The most urgent has the longest chain below it. The rounds of iterative pruning are the long chains: begun late,
    they leave all but one worker idle at the end. Ties keep the order of `steps`; `first` holds all that it rests on.
    """
    place = {step: i for i, step in enumerate(steps)}
    below = children(steps)
    open_parents = {step: sum(parent in place for parent in step.parents) for step in steps}

    def rank(step: Step) -> tuple[bool, int, int]:
        return step not in first, -priority[step.key], place[step]

    ready = [rank(step) for step in steps if not open_parents[step]]
    heapq.heapify(ready)
    order: list[Step] = []
    while ready:
        step = steps[heapq.heappop(ready)[-1]]
        order.append(step)
        for child in below[step]:
            open_parents[child] -= 1
            if not open_parents[child]:
                heapq.heappush(ready, rank(child))
    return tuple(order)


def children(steps: Collection[Step]) -> dict[Step, list[Step]]:
    """For each step, those of `steps` that read its results, in the order of `steps`."""
    below: dict[Step, list[Step]] = {step: [] for step in steps}
    for step in steps:
        for parent in step.parents:
            if parent in below:
                below[parent].append(step)
    return below
