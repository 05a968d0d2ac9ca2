"""Criteria: how much a weight is worth keeping."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from prunetune.core.registry import Registry
from prunetune.errors import ConfigError, given, shown


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at, for one layer, on the CPU.

    `weight` has the layer's shape, and so has all that is gathered for it (`gradients.gather` says how): `grad`,
    `grad_square`, `hessian_grad`, `flow`. `activation` is what the criterion's docstring says of it. A criterion that
    draws takes its numbers from `generator` (None: torch's global one).
    """

    weight: Tensor
    grad: Tensor | None = None
    activation: Tensor | None = None
    generator: torch.Generator | None = None
    grad_square: Tensor | None = None
    hessian_grad: Tensor | None = None
    flow: Tensor | None = None


class Criterion(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters; `needs` names the fields of Evidence that it reads.

    It may have three more attributes: `at` (`init` when it is meant for initial weights; else `trained`), `rounds` (so
    many times weights are removed and the others scored again; else once) and `temperature` (by which outputs are
    divided before the loss; else 1).
    """

    needs: ClassVar[frozenset[str]]

    def score(self, evidence: Evidence) -> Tensor:
        """Finite scores of the weight's shape; the higher, the more worth keeping. Changes nothing that it is given."""
        ...


CRITERIA: Registry[type[Criterion]] = Registry("criterion")
"""Criteria by name: frozen dataclasses with `needs` and `score`."""

Place = Literal["init", "trained"]


def place_of(criterion: Criterion | type[Criterion]) -> Place:
    """Whether the criterion is meant for the initial weights or for trained ones."""
    return getattr(criterion, "at", "trained")


def rounds_of(criterion: Criterion) -> int:
    """How many times the criterion scores on the way to a mask."""
    return getattr(criterion, "rounds", 1)


def temperature_of(criterion: Criterion) -> float:
    """What the outputs are divided by before the loss."""
    return getattr(criterion, "temperature", 1.0)


@CRITERIA.register("magnitude")
@dataclass(frozen=True)
class Magnitude:
    """|w|, the paper's criterion (Liu et al. 2021)."""

    needs: ClassVar[frozenset[str]] = frozenset({"weight"})

    def score(self, evidence: Evidence) -> Tensor:
        """The absolute values of the weights.

        >>> Magnitude().score(Evidence(weight=torch.tensor([-2.0, 1.0])))
        tensor([2., 1.])
        """
        return evidence.weight.abs()


@CRITERIA.register("random")
@dataclass(frozen=True)
class Random:
    """Uniform draws: every mask with the allocated counts is equally likely. The control for every other criterion."""

    needs: ClassVar[frozenset[str]] = frozenset({"weight"})

    def score(self, evidence: Evidence) -> Tensor:
        """Double precision, so that equal draws, which the lower index would win, do not happen in practice."""
        return torch.rand(evidence.weight.shape, generator=evidence.generator, dtype=torch.float64)


@CRITERIA.register("snip")
@dataclass(frozen=True)
class Snip:
    """Connection sensitivity |∂L/∂c| = |w · ∂L/∂w| (Lee et al. 2019, arXiv 1810.02340, eq. 5), of initial weights.

    c = 1 multiplies the weight. The paper divides by the sum over all weights, which no ranking sees, and ranks all
    layers together (allocation `global`).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"weight", "grad"})
    at: ClassVar[Place] = "init"

    def score(self, evidence: Evidence) -> Tensor:
        """The size of the first-order change of the loss when the weight goes.

        >>> Snip().score(Evidence(weight=torch.tensor([-2.0, 1.0]), grad=torch.tensor([1.0, 3.0])))
        tensor([2., 3.])
        """
        return (evidence.weight * _gathered(evidence.grad)).abs()


@CRITERIA.register("grasp")
@dataclass(frozen=True)
class Grasp:
    """Preserved gradient flow (Wang et al. 2020, arXiv 2002.07376, eq. 8 and algorithm 1), of initial weights.

    S = −w · (Hg) is half the first-order change of ‖g‖² when the weight goes; the paper removes the weights with the
    highest S, those whose loss lets the gradient grow, so that w · (Hg) is kept from the top. It ranks all
    layers together (allocation `global`). Outputs are divided by `temperature` before the loss (200 in their code).
    """

    temperature: float = 200.0

    needs: ClassVar[frozenset[str]] = frozenset({"weight", "hessian_grad"})
    at: ClassVar[Place] = "init"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature: {self.temperature}; must be a number above 0")

    def score(self, evidence: Evidence) -> Tensor:
        """−S: the weights that carry the gradient's flow come first.

        >>> Grasp().score(Evidence(weight=torch.tensor([-2.0, 1.0]), hessian_grad=torch.tensor([1.0, 3.0])))
        tensor([-2.,  3.])
        """
        return evidence.weight * _gathered(evidence.hessian_grad)


MOST_ROUNDS = 10_000  # of removing weights and scoring again, each with a gradient


@CRITERIA.register("synflow")
@dataclass(frozen=True)
class SynFlow:
    """Synaptic flow |w| · ∂R/∂|w| (Tanaka et al. 2020, arXiv 2006.05467, eq. 3 and algorithm 1), of initial weights.

    R is the sum of the outputs for an input of ones, of the network with |w| in place of w. No data is looked at. In
    round r of n the share ρ^(r/n) is kept, ρ in the end. The paper ranks all layers together (allocation `global`);
    with a uniform allocation its conservation of flow between layers decides nothing.
    """

    rounds: int = 100

    needs: ClassVar[frozenset[str]] = frozenset({"weight", "flow"})
    at: ClassVar[Place] = "init"

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ConfigError(f"rounds: {shown(self.rounds)}; must be at least 1 and at most {MOST_ROUNDS:,}")

    def score(self, evidence: Evidence) -> Tensor:
        """The weight's share in R: in a network without biases, the product of the weights summed over its paths.

        >>> SynFlow().score(Evidence(weight=torch.tensor([-2.0, 1.0]), flow=torch.tensor([1.0, 3.0])))
        tensor([2., 3.])
        """
        return evidence.weight.abs() * _gathered(evidence.flow)


@CRITERIA.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """The squared first-order change of the loss when the weight goes, (w · g)² (Molchanov et al. 2019, CVPR, eq. 8).

    Averaged over batches as there, so that gradients of opposite sign do not cancel. (Molchanov et al. 2017, arXiv
    1611.06440, averages |a · g| of activations, whole filters at a time.) Of trained weights.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"weight", "grad_square"})

    def score(self, evidence: Evidence) -> Tensor:
        """w² times the mean of g² over batches.

        >>> Taylor().score(Evidence(weight=torch.tensor([-2.0, 1.0]), grad_square=torch.tensor([1.0, 9.0])))
        tensor([4., 9.])
        """
        return evidence.weight.square() * _gathered(evidence.grad_square)


def _gathered(tensor: Tensor | None) -> Tensor:
    return given(tensor, "choose() asks for all that `needs` names")
