"""How far masks agree on which weights to keep: their Jaccard index, beside that of independent masks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunetune.errors import RequestError
from prunetune.sparsity.mask import Mask


@dataclass(frozen=True, eq=False)
class Flat:
    """A mask as one row of bits with its layers' counts, in sorted order of names: what comparing many masks takes."""

    names: tuple[str, ...]
    bits: NDArray[np.bool_]  # (N,)
    kept: NDArray[np.int64]  # (L,) of each layer
    total: NDArray[np.int64]  # (L,)


class Agreement(NamedTuple):
    """Jaccard index of two masks in [0, 1], and the ratio of expectations that independent masks give."""

    value: float
    expected: float


def flat(mask: Mask) -> Flat:
    """The mask's bits side by side."""
    names = tuple(sorted(mask))
    layers = [mask[name].numpy().ravel() for name in names]
    kept, total = ([count(layer) for layer in layers] for count in (np.count_nonzero, np.size))
    return Flat(names, np.concatenate(layers), np.array(kept, dtype=np.int64), np.array(total, dtype=np.int64))


def jaccard(a: Flat, b: Flat) -> Agreement:
    """|A and B| / |A or B| over all weights of both masks, and E / (|A| + |B| - E) beside it.

    E = sum_l a_l * b_l / N_l is the expected number of common weights of two masks that are drawn independently, each
    uniformly among those that keep a_l and b_l of a layer's N_l weights. The mean of a ratio is not the ratio of the
    means, which is given; for more than some hundred weights they are as good as equal. Two masks that keep nothing
    agree: both are 1.

    RequestError for masks of other layers or of other sizes.
    """
    if a.names != b.names or not np.array_equal(a.total, b.total):
        raise RequestError("masks: they name other layers, or layers of other sizes; both must come from one model")
    both = a.kept.sum() + b.kept.sum()
    if not both:
        return Agreement(1.0, 1.0)
    common = np.count_nonzero(a.bits & b.bits)
    filled = a.total > 0
    expected = (a.kept[filled] * b.kept[filled] / a.total[filled]).sum()
    return Agreement(float(common / (both - common)), float(expected / (both - expected)))
