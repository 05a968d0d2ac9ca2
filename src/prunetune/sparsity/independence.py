"""What R_p is between independent networks: hypergeometric in each layer, hence how surely a value is not chance."""

import math
from dataclasses import dataclass

from scipy.special import ndtr
from scipy.stats import hypergeom

from prunetune.sparsity.overlap import LayerOverlap, Overlap


@dataclass(frozen=True)
class Independence:
    """R_p of independent networks has mean `expected` and standard deviation `deviation`; where a value lies in it."""

    expected: float
    deviation: float
    errors: float  # standard deviations that the value lies above the mean
    p: float  # two-sided: independent networks are so far from the mean with this probability


def independence(overlap: Overlap) -> Independence:
    """How an observed R_p lies among those of networks whose weights are ranked independently.

    If the weights of a layer are exchangeable in one network (drawn alike, as initial weights are) and independent of
    the other network, then of the k largest of N weights C ~ Hypergeometric(N, k, k) are in common, with mean k² / N
    and variance k² (N - k)² / (N² (N - 1)); layers are independent. R_p = sum C / sum k, taken as normal: many
    thousands of weights are compared. See `p_above` for one layer without that.
    """
    layers = [layer for layer in overlap.per_layer.values() if layer.k]
    deviation = math.sqrt(math.fsum(map(_variance, layers))) / sum(layer.k for layer in layers)
    errors = (overlap.value - overlap.expected) / deviation if deviation else 0.0
    return Independence(overlap.expected, deviation, errors, float(2 * ndtr(-abs(errors))))


def p_above(layer: LayerOverlap) -> float:
    """The exact probability that independent rankings have so many or more of a layer's largest weights in common."""
    return float(hypergeom.sf(layer.common - 1, layer.n, layer.k, layer.k)) if layer.k else 1.0


def _variance(layer: LayerOverlap) -> float:
    n, k = layer.n, layer.k
    return (k * (n - k) / n) ** 2 / (n - 1) if n > 1 else 0.0
