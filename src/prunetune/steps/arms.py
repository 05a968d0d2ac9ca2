"""Arms: what a sparse training starts from. Mask and recipe are the study's own, but for controls."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from prunetune.core.limits import Count, Number
from prunetune.core.references import Ref
from prunetune.core.registry import Registry
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError, given
from prunetune.models import narrowed, parameters_kept
from prunetune.sparsity.allocation import BY_SHAPE
from prunetune.steps import graph
from prunetune.steps.steps import DenseStates, Import, Init, Prune, Train, Transform, Weights
from prunetune.training.recipe import Recipe, Schedule

Start = Callable[[DenseStates], Weights]
MaskChoice = Callable[[DenseStates, Prune], Prune | None]


def as_found(states: DenseStates, mask: Prune) -> Prune:
    """The study's own mask, as all arms have it but controls that are about the mask."""
    return mask


def redrawn(states: DenseStates, mask: Prune) -> Prune:
    """A random mask with the layer counts and the pattern of the study's.

    Where counts follow from shapes, it does not hang on how the study's mask is found, and algorithms share it.
    """
    return replace(
        mask,
        source=states.theta_0,
        within=None,
        criterion=Ref.of("random"),
        seed=derive(states.trainer.seed, "random_mask"),
        like=None if mask.allocation in BY_SHAPE else mask,
        probe=None,
    )


def permuted(states: DenseStates, mask: Prune) -> Prune:
    """The study's mask with its entries permuted within each layer: a uniform draw of those with its layer counts."""
    return replace(redrawn(states, mask), seed=derive(states.trainer.seed, "permuted_mask"), like=mask)


def without_mask(states: DenseStates, mask: Prune) -> None:
    """No mask: the network is dense."""


def of_the_study(states: DenseStates) -> Recipe:
    """The study's own recipe, as all arms have it but those that are about the budget."""
    return states.recipe


def of_the_whole_budget(states: DenseStates) -> Recipe:
    """The study's recipe stretched to the epochs of pruning & fine-tuning in all: dense run, mask finding, training."""
    pipeline = graph.closure([states.train(states.theta_t, given(states.mask, "an arm has a mask"))])
    if any(isinstance(step, Import) for step in pipeline):
        raise ConfigError(
            "arms: 'scratch_long' needs the epochs of the pre-training, and `pretrained` has none to tell"
        )
    return states.recipe.lasting(graph.total_epochs(pipeline))


@dataclass(frozen=True)
class Arm:
    """A named choice of start weights; the study applies the mask to them and trains them by its one recipe.

    A control shows whether a baseline failed for the reason that is thought; it is never recommended. Only a control
    may choose another mask, which must keep as many weights of every layer as the study's, or none, or another recipe.
    """

    name: str
    start: Start
    mask: MaskChoice = as_found
    control: bool = False
    recipe: Callable[[DenseStates], Recipe] = of_the_study

    def __post_init__(self) -> None:
        own = "mask" if not self.shares_mask else "recipe"
        if not (self.control or (self.shares_mask and self.shares_recipe)):
            raise ConfigError(f"arm: '{self.name}' has a {own} of its own; then it must be a control")

    @property
    def shares_mask(self) -> bool:
        """Whether it trains under the study's mask, bit for bit."""
        return self.mask is as_found

    @property
    def shares_recipe(self) -> bool:
        """Whether it trains by the study's recipe: as many epochs, at the same rates."""
        return self.recipe is of_the_study

    def train(self, states: DenseStates, mask: Prune) -> Train:
        """The step that trains this arm where the study's mask is `mask`."""
        under = replace(states, mask=mask)
        return states.trainer.train(self.recipe(under), self.start(under), self.mask(under, mask))


class ArmWithSettings(Protocol):
    """A frozen dataclass whose fields are the settings of an arm: a spec gives them beside the arm's `kind`.

    A method `recipe`, of the states too, is optional: without one the arm has the study's.
    """

    control: ClassVar[bool]

    def start(self, states: DenseStates) -> Weights:
        """The start weights with these settings."""
        ...


ARMS: Registry[Arm | type[ArmWithSettings]] = Registry("arm")
"""Arms by name: an `Arm`, or a frozen dataclass whose fields are the settings."""


def _arm(
    name: str,
    mask: MaskChoice = as_found,
    control: bool = False,
    recipe: Callable[[DenseStates], Recipe] = of_the_study,
) -> Callable[[Start], Start]:
    def file(start: Start) -> Start:
        ARMS.register(name)(Arm(name, start, mask, control, recipe))
        return start

    return file


@_arm("ticket")
def ticket(states: DenseStates) -> Weights:
    """θ0, the initial weights that the dense run started from."""
    return states.theta_0


@_arm("reinit")
def reinit(states: DenseStates) -> Weights:
    """θ0', an independent second draw of the initial weights."""
    return states.theta_0_prime


@_arm("rewind")
def rewind(states: DenseStates) -> Weights:
    """θk, the dense run's state at the study's `rewind` moment (Frankle et al. 2019). At 0 it is θ0."""
    return states.theta_k


@_arm("finetune")
def finetune(states: DenseStates) -> Weights:
    """θT, the dense run's final state: pruning & fine-tuning."""
    return states.theta_t


@_arm("finetune_chain")
def finetune_chain(states: DenseStates) -> Weights:
    """The very state that the mask was chosen from, trained on: learning-rate rewinding under masks with `reset: none`.

    Under `one_shot` that is θT, and the arm is `finetune`, the same step; under `iterative` the final state of the
    round before (Renda, Frankle & Carbin 2020), under `admm` the weights trained under the penalty.
    """
    return states.mask_source


@_arm("shuffle", control=True)
def shuffle(states: DenseStates) -> Weights:
    """Control: θ0 permuted within each layer over the surviving positions."""
    origin = states.theta_0
    return Weights(origin.step, origin.at, Transform("shuffle", derive(states.trainer.seed, "shuffle")))


@_arm("sign_reinit", control=True)
def sign_reinit(states: DenseStates) -> Weights:
    """Control: θ0' with the signs of θ0 in every weight of two or more dimensions (after Zhou et al. 2019).

    Biases and normalisation are those of θ0', so that it differs from `reinit` in signs alone.
    """
    again = states.theta_0_prime
    return Weights(again.step, again.at, Transform("sign_reinit", second=states.theta_0))


@_arm("random_mask", mask=redrawn, control=True)
def random_mask(states: DenseStates) -> Weights:
    """Control: θ0 under a random mask that keeps as many weights of every layer as the study's."""
    return states.theta_0


@_arm("permuted_mask", mask=permuted, control=True)
def permuted_mask(states: DenseStates) -> Weights:
    """Control: θ0 under the study's mask permuted within each layer (Frankle et al. 2021, arXiv 2009.08576, sec. 5).

    `random_mask` is the same draw where an allocation's counts do not follow from shapes; otherwise it draws one mask
    for all mask algorithms of a seed, and this one for each.
    """
    return states.theta_0


@_arm("scratch_long", recipe=of_the_whole_budget, control=True)
def scratch_long(states: DenseStates) -> Weights:
    """Baseline: θ0' trained for all the epochs that pruning & fine-tuning takes in the whole (scratch-B of Liu et al.
    2019, arXiv 1810.05270, counted in epochs).
    """
    return states.theta_0_prime


@_arm("dense_small", mask=without_mask, control=True)
def dense_small(states: DenseStates) -> Weights:
    """Baseline: a dense network of the same kind, made narrower to as many parameters as the sparse one keeps."""
    init = states.theta_0_prime.step
    if not isinstance(init, Init):
        raise RuntimeError("theta_0' is drawn: a fault of prunetune")
    mask = given(states.mask, "an arm has a mask")
    kept = parameters_kept(init.model, init.input_shape, init.outputs, mask.scope, mask.density)
    model = narrowed(init.model, init.input_shape, init.outputs, kept)
    return Weights(replace(init, model=model, seed=derive(states.trainer.seed, "dense_small")))


@ARMS.register("finetune_short")
@dataclass(frozen=True)
class FinetuneShort:
    """Baseline: θT trained for `epochs` at the one low `learning_rate`: fine-tuning as before equal budgets were asked
    (Han et al. 2015, arXiv 1506.02626).
    """

    epochs: Count
    learning_rate: Annotated[Number, Field(gt=0)]
    control: ClassVar[bool] = True

    def start(self, states: DenseStates) -> Weights:
        """θT."""
        return states.theta_t

    def recipe(self, states: DenseStates) -> Recipe:
        """The study's recipe but for its epochs and its rate, which stays."""
        schedule = Schedule("constant")
        return replace(states.recipe, epochs=self.epochs, learning_rate=self.learning_rate, schedule=schedule)


@ARMS.register("mixed")
@dataclass(frozen=True)
class Mixed:
    """Control: αθ0 + √(1 − α²)θ0', whose correlation with θ0 is α; 0 is `reinit` and 1 is `ticket`, the same steps.

    The transform `mixed` says what becomes of the weights' distribution.
    """

    alpha: Annotated[Number, Field(ge=0, le=1)]
    control: ClassVar[bool] = True

    def start(self, states: DenseStates) -> Weights:
        """θ0' with α parts of θ0; where one of the two has no part in it, the other as it is."""
        if self.alpha in (0, 1):
            return states.theta_0 if self.alpha else states.theta_0_prime
        again = states.theta_0_prime
        return Weights(again.step, again.at, Transform.of("mixed", second=states.theta_0, alpha=self.alpha))
