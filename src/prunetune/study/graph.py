"""The graph of a plan's steps: what a step rests on, an order to run them in, and what trainings cost."""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from prunetune.study.steps import Step, Train


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


def longest_below(steps: Sequence[Step]) -> dict[str, int]:
    """For each step's key, the epochs of the longest chain that starts with it (`steps`: parents first)."""
    longest = {step.key: epochs_of(step) for step in steps}
    for step in reversed(steps):
        for parent in step.parents:
            if parent.key in longest:
                longest[parent.key] = max(longest[parent.key], epochs_of(parent) + longest[step.key])
    return longest


def by_urgency(steps: Sequence[Step], urgency: Mapping[str, int]) -> tuple[Step, ...]:
    """Parents first, and among the steps that could run next always the one with the longest chain below it.

    The rounds of iterative pruning are the long chains: begun late, they leave all but one worker idle at the end.
    Ties keep the order of `steps`.
    """
    place = {step: i for i, step in enumerate(steps)}
    children = _children(steps)
    open_parents = {step: sum(parent in place for parent in step.parents) for step in steps}
    ready = [(-urgency[step.key], i) for step, i in place.items() if not open_parents[step]]
    heapq.heapify(ready)
    order: list[Step] = []
    while ready:
        step = steps[heapq.heappop(ready)[1]]
        order.append(step)
        for child in children[step]:
            open_parents[child] -= 1
            if not open_parents[child]:
                heapq.heappush(ready, (-urgency[child.key], place[child]))
    return tuple(order)


def _children(steps: Collection[Step]) -> dict[Step, list[Step]]:
    children: dict[Step, list[Step]] = {step: [] for step in steps}
    for step in steps:
        for parent in step.parents:
            if parent in children:
                children[parent].append(step)
    return children
