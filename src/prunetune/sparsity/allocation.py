"""Allocations: how many weights of each layer are kept."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import torch

from prunetune.core.registry import Registry
from prunetune.sparsity.mask import keep_top_of_all

Allocate = Callable[[Mapping[str, torch.Tensor], float], Mapping[str, int]]
"""Scores per layer and the density (kept share of the original weights, in (0, 1]) to kept counts per layer.

Every layer's scores have its full, original shape; positions that may not be kept score minus infinity.
"""

ALLOCATIONS: Registry[Allocate] = Registry("allocation")
"""Allocations by name: functions of scores and a density to kept counts."""
BY_SHAPE = frozenset({"uniform", "erk"})  # whose counts follow from the shapes and the density, whatever the scores


@ALLOCATIONS.register("uniform")
def uniform(scores: Mapping[str, torch.Tensor], density: float) -> dict[str, int]:
    """The same share of every layer: round(density * N_l) of its original N_l (Liu et al. 2021).

    >>> uniform({"a": torch.rand(10), "b": torch.rand(3, 5)}, 0.2)
    {'a': 2, 'b': 3}
    """
    return {name: round(density * score.numel()) for name, score in scores.items()}


@ALLOCATIONS.register("global")
def globally(scores: Mapping[str, torch.Tensor], density: float) -> dict[str, int]:
    """One threshold for all layers: the round(density * sum N_l) highest scores, ties by (layer name, flat index).

    >>> globally({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0, 7.0, 3.0])}, 0.5)
    {'a': 2, 'b': 1}
    """
    return {name: int(kept.count_nonzero()) for name, kept in keep_top_of_all(scores, density).items()}


@ALLOCATIONS.register("erk")
def erk(scores: Mapping[str, torch.Tensor], density: float) -> dict[str, int]:
    """Erdős–Rényi-Kernel: layer density eps * (sum of its dimensions) / (their product), at most 1.

    Mocanu et al. 2018, with the kernel's dimensions as in RigL (Evci et al. 2020, section 3). A layer with dimensions
    of sum S_l keeps eps * S_l weights, rounded, or all N_l of them; eps is such that round(density * sum N_l) are kept
    in all. Exact: rational arithmetic, and where rounding misses that number, the layers nearest to the next whole
    number give way (ties: by name). So no layer keeps more at a smaller density, as the rounds of a nested mask need.

    >>> erk({"wide": torch.rand(10, 10), "narrow": torch.rand(2, 2)}, 0.5)
    {'wide': 48, 'narrow': 4}
    """
    sizes = {name: score.numel() for name, score in scores.items()}
    sums = {name: sum(score.shape) for name, score in scores.items()}
    total = round(density * sum(sizes.values()))
    eps = _scale(sizes, sums, total)
    counts = {name: min(size, math.ceil(eps * sums[name] - Fraction(1, 2))) for name, size in sizes.items()}
    while (missing := total - sum(counts.values())) > 0:
        growing = (name for name in counts if counts[name] < sizes[name])
        counts[min(growing, key=lambda name: (Fraction(2 * counts[name] + 1, sums[name]), name))] += 1
    for _ in range(-missing):
        shrinking = (name for name in counts if counts[name])
        counts[max(shrinking, key=lambda name: (Fraction(2 * counts[name] - 1, sums[name]), name))] -= 1
    return counts


def _scale(sizes: Mapping[str, int], sums: Mapping[str, int], total: int) -> Fraction:
    """The eps at which sum min(N_l, eps * S_l) is `total`: what full layers cannot take goes to the others."""
    left, open_layers = total, set(sizes)
    while True:
        eps = Fraction(left, sum(sums[name] for name in open_layers))
        full = {name for name in open_layers if eps * sums[name] > sizes[name]}
        if not full:
            return eps
        left -= sum(sizes[name] for name in full)
        open_layers -= full
