"""Patterns: which positions of a layer may be kept together."""

from collections.abc import Callable, Mapping

from torch import Tensor

from prunetune.registry import Registry
from prunetune.sparsity.mask import Mask, keep_top

Select = Callable[[Mapping[str, Tensor], Mapping[str, int]], Mask]
"""Scores and kept counts per layer to a mask with exactly these counts: the highest scores that the pattern allows."""

PATTERNS: Registry[Select] = Registry("pattern")


@PATTERNS.register("unstructured")
def unstructured(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """Any position: the highest scores of every layer, ties to the lower flat index."""
    return keep_top(scores, counts)
