"""How many bytes a model's weights take in a file, as they are and compressed."""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

from safetensors.torch import save
from torch import Tensor

from prunetune.sparsity.mask import memory_of

_LEVEL = 9  # zlib's strongest


class FileSizes(NamedTuple):
    """Bytes of the safetensors file, `raw` and `compressed`."""

    raw: int
    compressed: int


def file_sizes(state: Mapping[str, Tensor]) -> FileSizes:
    """Bytes of `state` as a safetensors file, raw and compressed by zlib (DEFLATE, level 9). Writes nothing.

    DEFLATE is what .zip, .gz and HTTP use, so `compressed` is what a download takes. Zeros take as many bytes as any
    number in the raw file: pruning makes only the compressed one smaller. Both are the same whenever `state` and the
    zlib library are. Tied tensors are stored once, under the first name.
    """
    content = save(_untied(state))
    return FileSizes(len(content), len(zlib.compress(content, _LEVEL)))


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first name of every tensor, with memory of its own, as the format wants it."""
    first: dict[object, str] = {}
    for name, tensor in state.items():
        first.setdefault(memory_of(tensor), name)
    return {name: state[name].detach().cpu().clone().contiguous() for name in first.values()}
