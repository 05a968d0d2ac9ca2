"""Arms: what a sparse training starts from. An arm has no epochs and no recipe, so arms are fair by construction."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from prunetune.core.limits import Number
from prunetune.core.references import Ref
from prunetune.core.registry import Registry
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError
from prunetune.sparsity.allocation import BY_SHAPE
from prunetune.steps.steps import DenseStates, Prune, Transform, Weights

Start = Callable[[DenseStates], Weights]


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


@dataclass(frozen=True)
class Arm:
    """A named choice of start weights; the study applies the mask to them and trains them by its one recipe.

    A control shows whether a baseline failed for the reason that is thought; it is never recommended. Only a control
    may choose another mask, which must keep as many weights of every layer as the study's.
    """

    name: str
    start: Start
    mask: Callable[[DenseStates, Prune], Prune] = as_found
    control: bool = False

    def __post_init__(self) -> None:
        if not (self.control or self.shares_mask):
            raise ConfigError(f"arm: '{self.name}' has a mask of its own; then it must be a control")

    @property
    def shares_mask(self) -> bool:
        """Whether it trains under the study's mask, bit for bit."""
        return self.mask is as_found


class ArmWithSettings(Protocol):
    """A frozen dataclass whose fields are the settings of an arm: a spec gives them beside the arm's `kind`."""

    control: ClassVar[bool]

    def start(self, states: DenseStates) -> Weights:
        """The start weights with these settings."""
        ...


ARMS: Registry[Arm | type[ArmWithSettings]] = Registry("arm")
"""Arms by name: an `Arm`, or a frozen dataclass whose fields are the settings."""


def _arm(
    name: str, mask: Callable[[DenseStates, Prune], Prune] = as_found, control: bool = False
) -> Callable[[Start], Start]:
    def file(start: Start) -> Start:
        ARMS.register(name)(Arm(name, start, mask, control))
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
    if states.theta_k is None:
        raise ConfigError(
            "arms: 'rewind' needs the state at the rewind moment; give pretrained.theta_k or leave it out"
        )
    return states.theta_k


@_arm("finetune")
def finetune(states: DenseStates) -> Weights:
    """θT, the dense run's final state: pruning & fine-tuning."""
    return states.theta_t


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
