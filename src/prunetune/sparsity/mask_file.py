"""The content of a mask's file: bool tensors, as everybody writes them, or one bit a weight, as a store keeps them.

Of the second form: safetensors; under a tensor's name its elements in row-major order, eight to a byte of uint8, the
first in the highest bit (`numpy.packbits`), 1 = kept; its shape is in the metadata: `shapes`, a JSON object of lists.
A tensor without elements is stored as it is.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

SHAPES = "shapes"


def packed(mask: Mapping[str, Tensor]) -> bytes:
    """The content of a file with one bit for each element of these bool tensors, the same bytes each time."""
    shapes = {name: list(kept.shape) for name, kept in sorted(mask.items()) if kept.numel()}
    bits = {name: torch.from_numpy(np.packbits(mask[name].numpy())) for name in shapes}
    return save({**mask, **bits}, {SHAPES: json.dumps(shapes)})


def unpacked(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file of either form, in the order of their names; those of bits are bool and of their shape.

    SafetensorError for what is no safetensors, ValueError for bits that are not as many as the shapes say.
    """
    stored = dict(sorted(load(content).items()))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if SHAPES not in metadata:
        return stored
    shapes = json.loads(metadata[SHAPES])
    if not isinstance(shapes, dict) or not shapes.keys() <= stored.keys():
        raise ValueError(f"{SHAPES} must be an object that names tensors of the file")
    return stored | {name: elements(name, stored[name], shape) for name, shape in shapes.items()}


def elements(name: str, bits: Tensor, shape: Any) -> Tensor:
    """The bool tensor of a shape, a list from JSON, that these bits are; ValueError where they are none of its."""
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"the shape of '{name}' is {shape}; it must be a list of positive integers")
    total = math.prod(shape)
    if bits.dtype is not torch.uint8 or bits.shape != (math.ceil(total / 8),):
        raise ValueError(f"'{name}' of shape {shape} has bits of shape {list(bits.shape)} and type {bits.dtype}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=total).view(bool)).reshape(shape)
