"""Allocations: how many weights of each layer are kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch

from prunetune.core.limits import DIGITS
from prunetune.core.registry import Registry
from prunetune.errors import ConfigError
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


SENSITIVITY = "sensitivity"
"""The allocation by `LayerLosses`: only a study's steps bring what was measured, so it is not among ALLOCATIONS."""
_EVEN = 1e-3  # of the largest loss: what decides between layers that lose alike, towards an even spread
_SCALE = 1e6  # of the objective: the solver's tolerances are absolute, and must not hide `_EVEN`


@dataclass(frozen=True)
class LayerLosses:
    """What pruning each layer, or group of coupled channels, alone costs at each of the growing `sparsities`.

    A loss is None where the network without these weights scores nothing finite: it counts as the largest there is.
    """

    sparsities: tuple[float, ...]
    losses: Mapping[str, Sequence[float | None]]

    def shares(self, sizes: Mapping[str, int], density: float) -> dict[str, float]:
        """The share that each layer keeps so that the losses add up to the least; the layers keep `density` together.

        A linear program (scipy's HiGHS): a layer's loss runs straight between the sparsities at which it was measured,
        from 0 of the whole layer, gains count as no loss, and no layer is pruned further than it was measured. Its
        optimum follows the lower convex hulls of the losses, so a layer never keeps more at a smaller density. Where
        several solutions are as good, the most even one is taken, so that there is one.

        ConfigError for a density that is lower than the last sparsity leaves.
        """
        least = round(1 - self.sparsities[-1], DIGITS)
        if density < least - 1e-9:  # decimals
            limit = f"sensitivity was measured up to {self.sparsities[-1]:g}"
            raise ConfigError(f"density: {density:g}; allocation '{SENSITIVITY}' cannot go there: {limit}")
        from scipy.optimize import linprog  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType] - slow

        levels = np.array([0.0, *self.sparsities])
        weights = np.array([sizes[name] for name in sizes], dtype=float) / sum(sizes.values())
        losses = np.stack([self._rising(self.losses[name]) for name in sizes])
        unit = float(losses.max()) or 1.0
        order = 1 + 1e-3 * np.arange(len(sizes)) / len(sizes)  # tells layers of one size apart
        cost = losses / unit + _EVEN * np.outer(weights * order, levels**2)
        whole_layers = np.kron(np.eye(len(sizes)), np.ones(len(levels)))
        kept = np.outer(weights, 1 - levels).ravel()
        found = cast(
            Any,
            linprog(
                _SCALE * cost.ravel(),
                A_eq=np.vstack([whole_layers, kept]),
                b_eq=np.append(np.ones(len(sizes)), max(density, least)),
                bounds=(0, None),
                method="highs-ds",
            ),
        )
        if found.status != 0:
            raise RuntimeError(f"no sparsities of layers were found: {found.message}")
        shares = found.x.reshape(losses.shape) @ (1 - levels)
        return {name: min(1.0, round(float(share), 9)) for name, share in zip(sizes, shares, strict=True)}

    def counts(self, scores: Mapping[str, torch.Tensor], density: float) -> dict[str, int]:
        """An Allocate: each layer keeps round(share * N_l) of its N_l weights."""
        sizes = {name: score.numel() for name, score in scores.items()}
        return {name: round(share * sizes[name]) for name, share in self.shares(sizes, density).items()}

    def _rising(self, losses: Sequence[float | None]) -> Any:
        worst = max((loss for own in self.losses.values() for loss in own if loss is not None), default=0.0)
        return np.maximum.accumulate([0.0, *(worst if loss is None else max(loss, 0.0) for loss in losses)])
