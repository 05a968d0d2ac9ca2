"""Mask algorithms: each emits the steps that find one mask per sparsity, and never trains anything itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from prunetune.core.limits import DIGITS, MAX_COUNT
from prunetune.core.references import Ref
from prunetune.core.registry import Registry
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError, counted, given, shown
from prunetune.sparsity.criteria import Place
from prunetune.sparsity.patterns import CHANNEL, Groups, require_density
from prunetune.sparsity.scope import Scope
from prunetune.steps.quantities import MeasureSensitivity
from prunetune.steps.steps import DenseStates, Probe, Prune, Train, Trainer, Weights
from prunetune.training.admm import RHO_LEVELS, RHO_TIMES_RATE, UPDATES, Penalty
from prunetune.training.recipe import Recipe


@dataclass(frozen=True)
class Choice:
    """By which rule weights are chosen, once it is known which state to choose from."""

    criterion: Ref
    allocation: str
    pattern: str
    scope: Scope
    seed: int  # for criteria that draw
    probe: Probe | None = None  # for criteria that look at data
    sequences: bool | None = None  # where whole channels of (N, L, C) can go
    heads: bool | None = None  # where attention heads can go
    round_to: int | None = None  # of which the widths are multiples
    losses: MeasureSensitivity | None = None  # where the allocation goes by it

    def prune(self, source: Weights, density: float, within: Prune | None = None) -> Prune:
        """The step that chooses `density` of the weights of `source`, only among those that `within` keeps."""
        require_density(self.pattern, self.allocation, density)
        return Prune(
            source,
            density,
            within,
            criterion=self.criterion,
            allocation=self.allocation,
            pattern=self.pattern,
            scope=self.scope,
            seed=self.seed,
            probe=self.probe,
            sequences=self.sequences if self.pattern == CHANNEL else None,
            heads=self.heads if self.pattern == CHANNEL else None,
            round_to=self.round_to,
            losses=self.losses,
        )


class MaskAt(NamedTuple):
    """A mask of a study: the name of how it is found, its nominal sparsity, and the step that chooses it."""

    label: str
    sparsity: float
    prune: Prune


class Algorithm(Protocol):
    """A mask algorithm: a frozen dataclass whose fields are its settings."""

    def emit(self, states: DenseStates, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """One Prune for every density (kept share, falling), on top of whatever trainings it takes to get there."""
        ...


MASKS: Registry[type[Algorithm]] = Registry("mask")
"""Mask algorithms by name: frozen dataclasses with `emit`."""
UPDATES_BY_DEFAULT = 10  # of gradual pruning
MOST_UPDATES = 100


@MASKS.register("one_shot")
@dataclass(frozen=True)
class OneShot:
    """θT once, straight to each sparsity; or θ0, at `init`: a spec's default where the criterion is meant for that."""

    at: Place = "trained"

    def emit(self, states: DenseStates, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """Prune θT, or θ0, to each density, each by itself. A mask at `init` rests on no training."""
        source = states.theta_0 if self.at == "init" else states.theta_t
        return tuple(choice.prune(source, density) for density in densities)


@MASKS.register("iterative")
@dataclass(frozen=True)
class Iterative:
    """Iterative magnitude pruning: one round for every sparsity of the study, the survivors reset between rounds.

    `reset` to `init` goes back to θ0 (Frankle & Carbin 2018, arXiv 1803.03635), to `rewind` to θk (weight rewinding,
    Frankle et al. 2019, arXiv 1903.01611), and `none` trains on from the round's own final weights with the recipe's
    learning rates from their beginning (learning-rate rewinding, Renda, Frankle & Carbin 2020, arXiv 2003.02389).
    """

    reset: Literal["init", "rewind", "none"] = "init"

    def emit(self, states: DenseStates, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """Prune θT; reset the survivors, train them, prune the result; and so on.

        A round's training is an arm at its sparsity, the same step: `ticket`, `rewind` or `finetune_chain`.
        """
        masks: list[Prune] = []
        source = states.theta_t
        for density in densities:
            if masks:
                source = Weights(states.train(self._start(states, source), masks[-1]))
            masks.append(choice.prune(source, density, masks[-1] if masks else None))
        return tuple(masks)

    def _start(self, states: DenseStates, source: Weights) -> Weights:
        """What a round starts from, whose mask was chosen from `source`."""
        if self.reset == "none":
            return source
        return states.theta_0 if self.reset == "init" else states.theta_k


@MASKS.register("admm")
@dataclass(frozen=True)
class Admm:
    """ADMM pruning (Zhang et al. 2018, arXiv 1804.03294): θT trained under the penalty, then its largest weights.

    It lasts as many epochs as the study's recipe unless `epochs` says otherwise; the schedule is stretched to them.
    The penalty draws towards the mask's own allocation and pattern. `rho` is RHO_TIMES_RATE over the learning rate
    unless it is given. The other settings are Penalty's.
    """

    epochs: int | None = None
    rho: float | None = None
    rho_growth: float = Penalty.rho_growth
    rho_every: float | None = Penalty.rho_every
    update_every: float | None = Penalty.update_every

    def __post_init__(self) -> None:
        _require_within("epochs", self.epochs, MAX_COUNT)
        self._penalty(Recipe(1, 1, learning_rate=1.0), Scope(), "uniform", None, 0.5)  # refuses what is not possible

    def emit(self, states: DenseStates, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """A penalised training of θT for every density, and the Prune of its final state."""
        if choice.pattern == CHANNEL:
            others = "one_shot, iterative or gradual"
            raise ConfigError(f"pattern: 'channel' has no projection for the penalty of 'admm'; use it with {others}")
        if choice.losses is not None:
            what = f"'{choice.allocation}' has no projection for the penalty of 'admm'"
            raise ConfigError(f"allocation: {what}; use it with one_shot, iterative or gradual")
        recipe = states.recipe.lasting(self.epochs or states.recipe.epochs)
        return tuple(self._one(states, choice, recipe, density) for density in densities)

    def _one(self, states: DenseStates, choice: Choice, recipe: Recipe, density: float) -> Prune:
        pattern = None if choice.pattern == "unstructured" else choice.pattern
        penalty = self._penalty(recipe, choice.scope, choice.allocation, pattern, density)
        return choice.prune(Weights(states.trainer.train(recipe, states.theta_t, penalty=penalty)), density)

    def _penalty(self, recipe: Recipe, scope: Scope, allocation: str, pattern: str | None, density: float) -> Penalty:
        """The penalty with every setting in numbers, so that all that it does is in the step's key."""
        rho = round(RHO_TIMES_RATE / recipe.learning_rate, DIGITS) if self.rho is None else self.rho
        rho_every = recipe.epochs / RHO_LEVELS if self.rho_every is None else self.rho_every
        update_every = recipe.epochs / UPDATES if self.update_every is None else self.update_every
        return Penalty(
            density=density,
            scope=scope,
            allocation=allocation,
            rho=rho,
            rho_growth=self.rho_growth,
            rho_every=rho_every,
            update_every=update_every,
            pattern=pattern,
        )


@MASKS.register("gradual")
@dataclass(frozen=True)
class Gradual:
    """Gradual pruning (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1): θT trained on while its sparsity rises.

    After t of `epochs` E the sparsity is s_f + (s_i − s_f) (1 − t/E)³, from s_i = `initial` to s_f, the study's. It is
    brought there `updates` times, at the ends of as many parts of whole epochs, as equal as can be; what is pruned
    stays pruned. None: as many epochs as the study's recipe, and ten updates or one an epoch.

    Each part is a training that starts where the part before ended, at the rates that the recipe, stretched to E, has
    there, with data orders of its own. Its optimizer starts anew: momentum does not cross an update of the mask.
    """

    epochs: int | None = None
    updates: int | None = None
    initial: float = 0.0

    def __post_init__(self) -> None:
        _require_within("epochs", self.epochs, MAX_COUNT)
        _require_within("updates", self.updates, MOST_UPDATES)
        if not 0 <= self.initial < 1:
            raise ConfigError(f"initial: {self.initial} is no sparsity to start from; it must lie in [0, 1)")

    def emit(self, states: DenseStates, choice: Choice, densities: Sequence[float]) -> tuple[Prune, ...]:
        """A chain of trainings and masks for every density. Chains share the part before their first mask."""
        if self.initial >= 1 - max(densities):
            least = f"{round(1 - max(densities), DIGITS):g}"
            raise ConfigError(f"initial: {self.initial}; must be less than the study's least sparsity, {least}")
        recipe = states.recipe.lasting(self.epochs or states.recipe.epochs)
        ends = self._ends(recipe.epochs)
        if Groups.named(choice.pattern) and len(ends) > 1:
            raise ConfigError(
                f"pattern: '{choice.pattern}' has one sparsity and 'gradual' goes through {len(ends)}; "
                "use it with one_shot, iterative or admm, or with updates: 1"
            )
        return tuple(self._one(states, choice, recipe, ends, density) for density in densities)

    def _ends(self, epochs: int) -> tuple[int, ...]:
        """The epochs after which the mask is updated."""
        updates = min(epochs, UPDATES_BY_DEFAULT) if self.updates is None else self.updates
        if updates > epochs:
            raise ConfigError(f"updates: {updates}; must be at most the {counted(epochs, 'epoch')} that it lasts")
        return tuple(epochs * (i + 1) // updates for i in range(updates))

    def _one(self, states: DenseStates, choice: Choice, recipe: Recipe, ends: Sequence[int], density: float) -> Prune:
        first = round(1 - self.initial, DIGITS)
        source = states.theta_t
        mask = choice.prune(source, first) if self.initial else None
        for begin, end in zip((0, *ends), ends, strict=False):
            source = Weights(_part(states.trainer, recipe, begin, end, source, mask))
            kept = round(density + (first - density) * (1 - end / recipe.epochs) ** 3, DIGITS)
            mask = choice.prune(source, kept, mask)
        return given(mask, "there is at least one update")


def _part(trainer: Trainer, recipe: Recipe, begin: int, end: int, source: Weights, mask: Prune | None) -> Train:
    """The epochs `begin` to `end` of a training by `recipe`, each part with draws of its own."""
    piece = replace(recipe, epochs=end - begin, schedule=replace(recipe.schedule, part=(begin, recipe.epochs)))
    order, augment = (derive(trainer.seed, f"{purpose} from epoch {begin}") for purpose in ("order", "augment"))
    return replace(trainer.train(piece, source, mask), order_seed=order, augment_seed=augment)


def _require_within(name: str, count: int | None, most: int) -> None:
    if count is not None and not 1 <= count <= most:
        raise ConfigError(f"{name}: {shown(count)}; must be at least 1 and at most {most:,}")
