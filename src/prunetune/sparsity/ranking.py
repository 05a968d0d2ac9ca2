"""The k largest of a tensor, the same ones on every machine."""

import torch
from torch import Tensor


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest elements as a bool tensor of the shape of `scores` on the CPU; ties go to the lower flat index.

    `scores` must hold no NaN, and 0 <= k <= its size. `torch.topk` promises nothing about ties; the k-th largest value
    is unique, so everything above it is in and the elements equal to it fill up from the front. Linear time.

    >>> largest(torch.tensor([2.0, 3.0, 2.0, 2.0]), 3)
    tensor([ True,  True,  True, False])
    """
    flat = scores.detach().cpu().flatten()
    if k == 0:
        return torch.zeros(scores.shape, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - k + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    chosen[ties[: k - int(chosen.sum())]] = True
    return chosen.reshape(scores.shape)
