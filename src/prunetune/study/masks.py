"""Mask algorithms: each emits the steps that find one mask per sparsity, and never trains anything itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from prunetune.errors import RequestError
from prunetune.references import Ref
from prunetune.registry import Registry
from prunetune.sparsity.scope import Scope
from prunetune.study.ground import Ground
from prunetune.study.steps import Prune, Weights
from prunetune.train.admm import RHO_LEVELS, UPDATES, Penalty
from prunetune.train.recipe import Recipe


@dataclass(frozen=True)
class Choice:
    """By which rule weights are chosen, once it is known which state to choose from."""

    criterion: Ref
    allocation: str
    pattern: str
    scope: Scope
    seed: int  # for criteria that draw

    def prune(self, source: Weights, density: float, within: Prune | None = None) -> Prune:
        """The step that chooses `density` of the weights of `source`, only among those that `within` keeps."""
        return Prune(source, density, within, self.criterion, self.allocation, self.pattern, self.scope, self.seed)


class MaskAt(NamedTuple):
    """A mask of a study: the name of how it is found, its nominal sparsity, and the step that chooses it."""

    label: str
    sparsity: float
    prune: Prune


class Algorithm(Protocol):
    """A mask algorithm: a frozen dataclass whose fields are its settings."""

    def emit(self, ground: Ground, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """One Prune for every density (kept share, falling), on top of whatever trainings it takes to get there."""
        ...


MASKS: Registry[type[Algorithm]] = Registry("mask")


@MASKS.register("one_shot")
@dataclass(frozen=True)
class OneShot:
    """θT once, straight to each sparsity."""

    def emit(self, ground: Ground, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """Prune θT to each density, each by itself."""
        return tuple(choice.prune(ground.theta_t, density) for density in densities)


@MASKS.register("iterative")
@dataclass(frozen=True)
class Iterative:
    """Iterative magnitude pruning (Frankle & Carbin 2018): one round for every sparsity of the study."""

    def emit(self, ground: Ground, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """Prune θT; reset the survivors to θ0, train them, prune the result; and so on.

        A round's training is the `ticket` at its sparsity.
        """
        masks: list[Prune] = []
        for density in densities:
            source = Weights(ground.train(ground.theta_0, masks[-1])) if masks else ground.theta_t
            masks.append(choice.prune(source, density, masks[-1] if masks else None))
        return tuple(masks)


@MASKS.register("admm")
@dataclass(frozen=True)
class Admm:
    """ADMM pruning (Zhang et al. 2018, arXiv 1804.03294): θT trained under the penalty, then its largest weights.

    It lasts as many epochs as the study's recipe unless `epochs` says otherwise; the schedule is stretched to them.
    The other settings are Penalty's.
    """

    epochs: int | None = None
    rho: float = Penalty.rho
    rho_growth: float = Penalty.rho_growth
    rho_every: float | None = Penalty.rho_every
    update_every: float | None = Penalty.update_every

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise RequestError(f"epochs: {self.epochs}; must be at least 1")
        self._penalty(Scope(), "uniform", density=0.5, epochs=1)  # refuses what is not possible

    def emit(self, ground: Ground, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """A penalised training of θT for every density, and the Prune of its final state."""
        recipe = stretched(ground.recipe, self.epochs or ground.recipe.epochs)
        return tuple(self._one(ground, choice, recipe, density) for density in densities)

    def _one(self, ground: Ground, choice: Choice, recipe: Recipe, density: float) -> Prune:
        penalty = self._penalty(choice.scope, choice.allocation, density, recipe.epochs)
        return choice.prune(Weights(ground.trainer.train(recipe, ground.theta_t, penalty=penalty)), density)

    def _penalty(self, scope: Scope, allocation: str, density: float, epochs: int) -> Penalty:
        """The penalty with every interval in numbers, so that all that it does is in the step's key."""
        rho_every = epochs / RHO_LEVELS if self.rho_every is None else self.rho_every
        update_every = epochs / UPDATES if self.update_every is None else self.update_every
        return Penalty(density, scope, allocation, self.rho, self.rho_growth, rho_every, update_every)


def stretched(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over another number of epochs, milestones and warm-up in proportion."""
    scale = epochs / recipe.epochs
    if scale == 1:
        return recipe
    milestones = tuple(round(milestone * scale, 12) for milestone in recipe.schedule.milestones)
    schedule = replace(recipe.schedule, milestones=milestones, warmup=round(recipe.schedule.warmup * scale, 12))
    return replace(recipe, epochs=epochs, schedule=schedule)
