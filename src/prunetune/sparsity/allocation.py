"""Allocations: how many weights of each layer are kept."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunetune.registry import Registry
from prunetune.sparsity.ranking import largest

Allocate = Callable[[Mapping[str, Tensor], float], Mapping[str, int]]
"""Scores per layer and the density (kept share of the original weights, in (0, 1]) to kept counts per layer.

Every layer's scores have its full, original shape; positions that may not be kept score minus infinity.
"""

ALLOCATIONS: Registry[Allocate] = Registry("allocation")


@ALLOCATIONS.register("uniform")
def uniform(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """The same share of every layer: round(density * N_l) of its original N_l (Liu et al. 2021).

    >>> uniform({"a": torch.rand(10), "b": torch.rand(3, 5)}, 0.2)
    {'a': 2, 'b': 3}
    """
    return {name: round(density * score.numel()) for name, score in scores.items()}


@ALLOCATIONS.register("global")
def globally(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """One threshold for all layers: the round(density * sum N_l) highest scores, ties by (layer name, flat index).

    >>> globally({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0, 7.0, 3.0])}, 0.5)
    {'a': 2, 'b': 1}
    """
    names = sorted(scores)
    everything = torch.cat([scores[name].flatten() for name in names])
    chosen = largest(everything, round(density * everything.numel()))
    parts = chosen.split([scores[name].numel() for name in names])
    counts = {name: int(part.sum()) for name, part in zip(names, parts, strict=True)}
    return {name: counts[name] for name in scores}
