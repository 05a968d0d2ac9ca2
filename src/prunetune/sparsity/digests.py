"""Fingerprints of tensors: equal digests mean bit-equal weights under the same names."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors in sorted order of their names, 64 hexadecimal digits.

    Each tensor enters as the UTF-8 line `name|dtype|shape` (`conv.weight|float32|16,1,5,5`), ended by a line feed, then
    its elements' bytes in row-major order. Device, strides and aliasing do not matter.

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> digest_tensors({"a": a, "b": b}) == digest_tensors({"b": b, "a": a})
    True
    >>> digest_tensors({"a": torch.zeros(2)}) == digest_tensors({"a": -torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{shape}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
