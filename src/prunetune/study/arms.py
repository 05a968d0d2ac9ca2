"""Arms: what a sparse training starts from. An arm has no epochs and no recipe, so arms are fair by construction."""

from collections.abc import Callable
from dataclasses import dataclass

from prunetune.errors import RequestError
from prunetune.registry import Registry
from prunetune.study.ground import Ground
from prunetune.study.seeds import derive
from prunetune.study.steps import Transform, Weights


@dataclass(frozen=True)
class Arm:
    """A named choice of start weights; the study applies the mask to them and trains them by its one recipe."""

    name: str
    start: Callable[[Ground], Weights]


ARMS: Registry[Arm] = Registry("arm")


def _arm(name: str) -> Callable[[Callable[[Ground], Weights]], Callable[[Ground], Weights]]:
    def file(start: Callable[[Ground], Weights]) -> Callable[[Ground], Weights]:
        ARMS.register(name)(Arm(name, start))
        return start

    return file


@_arm("ticket")
def ticket(ground: Ground) -> Weights:
    """θ0, the initial weights that the dense run started from."""
    return ground.theta_0


@_arm("reinit")
def reinit(ground: Ground) -> Weights:
    """θ0', an independent second draw of the initial weights."""
    return ground.theta_0_prime


@_arm("rewind")
def rewind(ground: Ground) -> Weights:
    """θk, the dense run's state at the study's `rewind` moment (Frankle et al. 2019). At 0 it is θ0."""
    if ground.theta_k is None:
        raise RequestError(
            "arms: 'rewind' needs the state at the rewind moment; give pretrained.theta_k or leave it out"
        )
    return ground.theta_k


@_arm("finetune")
def finetune(ground: Ground) -> Weights:
    """θT, the dense run's final state: pruning & fine-tuning."""
    return ground.theta_t


@_arm("shuffle")
def shuffle(ground: Ground) -> Weights:
    """Control: θ0 permuted within each layer over the surviving positions."""
    origin = ground.theta_0
    return Weights(origin.step, origin.at, Transform("shuffle", derive(ground.trainer.seed, "shuffle")))
