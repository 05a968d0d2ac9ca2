"""Several studies side by side: what they cost when every step that two of them have in common is done once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prunetune.study import graph
from prunetune.study.plan import Plan
from prunetune.study.steps import Step


@dataclass(frozen=True)
class Together:
    """Plans and the union of their steps."""

    plans: tuple[Plan, ...]
    steps: tuple[Step, ...]  # each once

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> "Together":
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
