"""The independent check that pruned weights stay exactly zero after every optimizer step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from prunetune.sparsity.mask import Mask

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per weight


class PrunedZeroCheck:
    """Gathers, on the device and without waiting for it, which pruned weights were ever anything but zero.

    It looks at the weights' bits, with no code or memory in common with what zeroes them: (bits of W) AND (all ones but
    the sign where pruned, zeros where kept), ORed into what was seen before. So NaN and infinity at a pruned position
    count, and at a kept position do not; -0.0 counts as zero. Two element-wise operations a layer, no reduction.
    """

    def __init__(self, model: nn.Module, mask: Mask) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._weights = [parameters[name] for name in mask]
        self._pruned = [_bits_where(~mask[name], weight) for name, weight in zip(mask, self._weights, strict=True)]
        self.seen = [torch.zeros_like(bits) for bits in self._pruned]  # what `restore` takes

    def check(self) -> None:
        """Take in the weights as they are now."""
        for weight, pruned, seen in zip(self._weights, self._pruned, self.seen, strict=True):
            seen.bitwise_or_(weight.detach().view(pruned.dtype).bitwise_and(pruned))

    def count(self) -> int:
        """The number of pruned positions that were found non-zero at any check. Waits for the device."""
        return sum(int(seen.count_nonzero()) for seen in self.seen)

    def restore(self, seen: Iterable[Tensor]) -> None:
        """Take up what another check of the same weights had seen."""
        for own, other in zip(self.seen, seen, strict=True):
            own.copy_(other)


def _bits_where(pruned: Tensor, weight: Tensor) -> Tensor:
    """An integer tensor in the weight's memory order: all bits but the sign where `pruned`, 0 elsewhere."""
    dtype = _INTEGERS[weight.element_size()]
    bits = torch.empty_like(weight, dtype=dtype, requires_grad=False)
    return bits.copy_(pruned).mul_(torch.iinfo(dtype).max)
