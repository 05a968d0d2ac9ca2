"""The largest of very many numbers, exactly, without sorting them and without a copy of them.

`torch.kthvalue` over a concatenation takes five times the memory of what it looks at. Here two numbers of a small
sample enclose the k-th largest; all numbers are counted against both, and only the few in between are ranked.
"""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

FEW, FEW_OF = 1 << 18, 32  # numbers that are ranked at once: so many, or this part of all
_BLOCK = 1 << 18  # numbers that are counted at once: as many as a core's own cache takes
_SAMPLE = 1 << 16  # numbers that stand for all others
_MARGIN = 640  # places in the sorted sample to both sides: five times the spread of a median's, sqrt(_SAMPLE) / 2


class Threshold(NamedTuple):
    """The k-th largest of some numbers, and how many are larger."""

    value: float
    above: int


def threshold(parts: Sequence[Tensor], k: int) -> Threshold:
    """The k-th largest, 1 <= k <= N, of all numbers of `parts`, tensors of N in all and of any shape, without NaN.

    Numbers of several types are compared in the type that holds all of them. Beside `parts` it takes a tenth of their
    memory, and one more copy of a part whose numbers are not side by side. Linear time.

    >>> threshold([torch.tensor([2.0, 3.0]), torch.tensor([2.0])], 2)
    Threshold(value=2.0, above=1)
    """
    numbers = _Numbers(parts)
    # The answer is one of the `between` numbers that are above `low` and below `high`; `above` are not below `high`.
    low: float | None = None
    high: float | None = None
    above, between = 0, numbers.count
    few = max(FEW, between // FEW_OF)
    while between > few:
        sample = numbers.within(low, high, every=between // _SAMPLE + 1).sort(descending=True).values
        place = (k - above) * len(sample) // between
        upper = cast(float, sample[max(place - _MARGIN, 0)].item())
        lower = cast(float, sample[min(place + _MARGIN, len(sample) - 1)].item())
        over_upper, from_lower = numbers.over(upper), numbers.at_least(lower)
        if k <= over_upper:
            low, between = upper, over_upper - above
        elif k > from_lower:
            high, above, between = lower, from_lower, above + between - from_lower
        else:
            from_upper, over_lower = numbers.at_least(upper), numbers.over(lower)
            if k <= from_upper:
                return Threshold(upper, over_upper)
            if k > over_lower:
                return Threshold(lower, over_lower)
            low, high, above, between = lower, upper, from_upper, over_lower - from_upper
    found = numbers.within(low, high)
    value = found.kthvalue(len(found) - (k - above) + 1).values
    return Threshold(cast(float, value.item()), above + int((found > value).sum()))


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest elements as a bool tensor of the shape of `scores` on the CPU; ties go to the lower flat index.

    `scores` must hold no NaN, and 0 <= k <= its size. `torch.topk` promises nothing about ties; the k-th largest value
    is unique, so everything above it is in and the elements equal to it fill up from the front. Linear time.

    >>> largest(torch.tensor([2.0, 3.0, 2.0, 2.0]), 3)
    tensor([ True,  True,  True, False])
    """
    return largest_of_all([scores], k)[0]


def largest_of_all(parts: Sequence[Tensor], k: int) -> list[Tensor]:
    """The k largest elements of several tensors together, as `largest`; ties go to the earlier tensor.

    >>> largest_of_all([torch.tensor([9.0, 7.0]), torch.tensor([1.0, 7.0, 8.0])], 3)
    [tensor([True, True]), tensor([False, False,  True])]
    """
    chosen = [torch.zeros(part.shape, dtype=torch.bool) for part in parts]
    if k == 0:
        return chosen
    value, above = threshold(parts, k)
    numbers, room = _Numbers(parts), k - above
    places = (block for kept in chosen for block in _split(kept.view(-1)))
    for kept, block in zip(places, numbers.blocks(), strict=True):
        torch.gt(block, value, out=kept)
        if room:
            ties = _places(block == value)[:room]
            kept[ties] = True
            room -= len(ties)
    return chosen


class _Numbers:
    """The numbers of several tensors, looked at block by block in the type that holds all of them."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = [part.detach().cpu().flatten() for part in parts]
        self.kind = reduce(torch.promote_types, {part.dtype for part in parts})
        self.count = sum(part.numel() for part in parts)

    def blocks(self) -> Iterator[Tensor]:
        """In order; each lies in one tensor."""
        return (block.to(self.kind) for part in self.parts for block in _split(part))

    def over(self, value: float) -> int:
        """How many are above `value`."""
        return sum(int((block > value).count_nonzero()) for block in self.blocks())

    def at_least(self, value: float) -> int:
        """How many are not below `value`."""
        return sum(int((block >= value).count_nonzero()) for block in self.blocks())

    def within(self, low: float | None, high: float | None, every: int = 1) -> Tensor:
        """The numbers above `low` and below `high`; of each block one of so many."""
        return torch.cat([_between(block, low, high)[::every] for block in self.blocks()])


def _split(part: Tensor) -> tuple[Tensor, ...]:
    return cast(tuple[Tensor, ...], part.split(_BLOCK))


def _between(block: Tensor, low: float | None, high: float | None) -> Tensor:
    inside = [block > low] if low is not None else []
    inside += [block < high] if high is not None else []
    return block[_places(reduce(torch.logical_and, inside))] if inside else block


def _places(found: Tensor) -> Tensor:
    """Where a row of bool is true. Of few places numpy makes a list several times faster than torch does."""
    return torch.from_numpy(np.flatnonzero(found.numpy()))
