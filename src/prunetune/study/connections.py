"""Which lines between two finals a study looks at (linear mode connectivity), and the twins that they lead to."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunetune.study import graph
from prunetune.study.seeds import derive
from prunetune.study.steps import Connect, Step, Train, Weights

if TYPE_CHECKING:
    from prunetune.study.plan import PlannedTrial


@dataclass(frozen=True)
class PlannedConnection:
    """A line of the study: from the final of the trial at this place, which is `step.first`, to its twin's."""

    arm: str
    mask: str | None
    learning_rate: float
    sparsity: float
    seed: int
    step: Connect

    def __str__(self) -> str:
        under = f" under {self.mask} at sparsity {self.sparsity:g}" if self.mask else ""
        return f"{self.arm}{under}, learning rate {self.learning_rate:g}, seed {self.seed}"

    @property
    def twin(self) -> Step:
        """The training at the other end of the line."""
        return self.step.second.step


def lines(trials: Iterable["PlannedTrial"], arms: Collection[str]) -> Iterator[PlannedConnection]:
    """A line for every trial of `arms`, in the order of the trials."""
    for trial in trials:
        step = trial.step
        if trial.arm in arms and isinstance(step, Train):
            ends = Weights(step), Weights(twin(step, trial.seed))
            line = Connect(*ends, step.mask, step.data, step.recipe, device=step.device)
            yield PlannedConnection(trial.arm, trial.mask, trial.learning_rate, trial.sparsity, trial.seed, line)


def twin(step: Train, seed: int) -> Train:
    """The same start, mask and recipe with another data order and augmentation: all of SGD's noise, and no more."""
    return replace(step, order_seed=derive(seed, "twin order"), augment_seed=derive(seed, "twin augment"))


def notes(connections: Sequence[PlannedConnection]) -> tuple[str, ...]:
    """What twins cost, which no row of the budget holds; none without connections."""
    if not connections:
        return ()
    twins = {connection.twin for connection in connections}
    arms = ", ".join(dict.fromkeys(connection.arm for connection in connections))
    count, epochs = graph.trainings(twins), graph.total_epochs(twins)
    return (f"connectivity: {count} twins of {arms} train {epochs} epochs, which are in no row of the budget",)
