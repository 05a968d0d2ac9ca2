"""Criteria: how much a weight is worth keeping."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from prunetune.registry import Registry


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at, for one layer, on the CPU.

    `weight` has the layer's shape, and so has `grad`; `activation` is what the criterion's docstring says of it. A
    criterion that draws takes its numbers from `generator` (None: torch's global one).
    """

    weight: Tensor
    grad: Tensor | None = None
    activation: Tensor | None = None
    generator: torch.Generator | None = None


class Criterion(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters; `needs` is a subset of weight, grad, activation."""

    needs: ClassVar[frozenset[str]]

    def score(self, evidence: Evidence) -> Tensor:
        """Finite scores of the weight's shape; the higher, the more worth keeping. Changes nothing that it is given."""
        ...


CRITERIA: Registry[type[Criterion]] = Registry("criterion")


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
