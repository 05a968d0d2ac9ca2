"""The IDX format of MNIST and Fashion-MNIST: big-endian magic number, dimensions, then unsigned bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from prunetune.errors import RequestError

MOST = 2**30  # bytes that a file may unpack to, twenty times those of MNIST: a .gz of a megabyte can hold a thousand
UNSIGNED_BYTES = 0x08  # the only element type that these data sets use


def read_raw(path: Path) -> bytes:
    """Content of an IDX file, unpacked where it ends in .gz; RequestError for a gzip stream damaged or too large."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(MOST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"data: {path} is damaged: {error}") from error
    if len(content) > MOST:
        raise RequestError(f"data: {path} unpacks to more than {MOST:,} bytes; no such data set is as large")
    return content


def parse(content: bytes, name: str, dimensions: int) -> Tensor:
    """Elements of the IDX file `name` as a uint8 tensor of the shape that its header gives.

    RequestError when the magic number is not that of unsigned bytes in `dimensions` dimensions, or when the header and
    the size of the file disagree.
    """
    header = 4 + 4 * dimensions
    magic = UNSIGNED_BYTES << 8 | dimensions
    if len(content) < header or int.from_bytes(content[:4], "big") != magic:
        raise RequestError(
            f"data: {name} starts with 0x{content[:4].hex()}; an IDX file of this kind with 0x{magic:08x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise RequestError(
            f"data: {name} holds {len(content) - header} bytes of data; its header says {math.prod(shape)} {shape}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].reshape(shape).clone()
