"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747): 28 x 28 greyscale images of ten kinds of clothes."""

import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import OFFICIAL, Dataset, Facts, Source, check_pair
from prunetune.data.downloads import Published, download
from prunetune.errors import ConfigError

MOST = 2**30  # bytes that a file may unpack to, twenty times those of MNIST: a .gz of a megabyte can hold a thousand
UNSIGNED_BYTES = 0x08  # the only element type that these data sets use


def read_raw(path: Path) -> bytes:
    """Content of an IDX file, unpacked where it ends in .gz; ConfigError for a gzip stream damaged or too large."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(MOST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"data: {path} is damaged: {error}") from error
    if len(content) > MOST:
        raise ConfigError(f"data: {path} unpacks to more than {MOST:,} bytes; no such data set is as large")
    return content


def parse(content: bytes, name: str, dimensions: int) -> Tensor:
    """Elements of the IDX file `name` as a uint8 tensor of the shape that its header gives.

    ConfigError when the magic number is not that of unsigned bytes in `dimensions` dimensions, or when the header and
    the size of the file disagree.
    """
    header = 4 + 4 * dimensions
    magic = UNSIGNED_BYTES << 8 | dimensions
    if len(content) < header or int.from_bytes(content[:4], "big") != magic:
        raise ConfigError(
            f"data: {name} starts with 0x{content[:4].hex()}; an IDX file of this kind with 0x{magic:08x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ConfigError(
            f"data: {name} holds {len(content) - header} bytes of data; its header says {math.prod(shape)} {shape}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].reshape(shape).clone()


CLASSES = 10
ADDRESS = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
GZIP_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
# Debian ships the same deflate streams under another gzip header (its files with the original header put back have the
# MD5s above), and others decompress them; so what is found is recognised by the SHA-256 of the decompressed content.
CONTENT_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist

MINI = Path(__file__).with_name("fashion_mini.npz")  # written by scripts/build_fashion_mini.py
MINI_SHA256 = "119686fdeb18e7b49621dd2a1eabce3e8b14d26bf7d8c45ca94ee7ef86b080fb"
MINI_NOTE = "the first 10,000 training images and all 10,000 test images of Fashion-MNIST"


class FashionMNIST(Published):
    """`fashion_mnist`: IDX files, raw or .gz, from `root`, Debian's package, the cache folder or a download."""

    name = "fashion_mnist"
    expected = f"{', '.join(CONTENT_SHA256)}, each raw or as .gz"
    facts = Facts((1, 28, 28), CLASSES, 60000, 0, 10000)
    checksums = CONTENT_SHA256
    system_folders = (DEBIAN,)
    cache_name = "fashion-mnist"  # MNIST's files have the same names

    def files(self, folder: Path) -> dict[str, bytes]:
        """The IDX files in `folder`, decompressed; a raw file goes before its .gz."""
        found = {name: (folder / name, folder / f"{name}.gz") for name in CONTENT_SHA256}
        paths = {name: next((p for p in pair if p.is_file()), None) for name, pair in found.items()}
        return {name: read_raw(path) for name, path in paths.items() if path}

    def fetch(self, folder: Path) -> None:
        """Download the four .gz files."""
        for name, md5 in GZIP_MD5.items():
            download(f"{ADDRESS}/{name}.gz", folder / f"{name}.gz", md5, self.name)

    def decode(self, files: Mapping[str, bytes]) -> Dataset:
        """Images of shape (N, 1, height, width), 28 x 28 when official."""
        return Dataset.of(self.name, _pair(files, "train"), _pair(files, "t10k"), outputs=CLASSES)


class FashionMini(Source):
    """`fashion-mini`: the part of Fashion-MNIST that ships with the package, MIT licence (fashion_mini.LICENSE)."""

    facts = Facts((1, 28, 28), CLASSES, 10000, 0, 10000)
    official_order = True

    def digest(self, **options: Any) -> str:
        """Always OFFICIAL: `read` refuses anything else."""
        return OFFICIAL

    def read(self, **options: Any) -> tuple[Dataset, str]:
        """20,000 images; ConfigError when the file in the package is not the one that was released."""
        content = MINI.read_bytes() if MINI.is_file() else b""
        if hashlib.sha256(content).hexdigest() != MINI_SHA256:
            raise ConfigError(f"data: {MINI} is missing or damaged (wrong checksum); install prunetune again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            train, test = ((_images(arrays, split), _labels(arrays, split)) for split in ("train", "test"))
        return Dataset.of("fashion-mini", train, test, outputs=CLASSES, official=True, note=MINI_NOTE), OFFICIAL


def _pair(files: Mapping[str, bytes], split: str) -> tuple[Tensor, Tensor]:
    images, labels = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    pair = parse(files[images], images, 3).unsqueeze(1), parse(files[labels], labels, 1).long()
    check_pair(*pair, CLASSES, labels)
    return pair


def _images(arrays: Mapping[str, np.ndarray], split: str) -> Tensor:
    return torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1)


def _labels(arrays: Mapping[str, np.ndarray], split: str) -> Tensor:
    return torch.from_numpy(arrays[f"{split}_labels"]).long()
