"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the official "python version" archives or their extracted folders.

Their pickled batches are read by a restricted unpickler, which runs nothing that a file names.
"""

import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import Dataset, Facts, check_pair
from prunetune.data.downloads import Published, checksum, download
from prunetune.errors import ConfigError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Names and published MD5s of one archive: https://www.cs.toronto.edu/~kriz/cifar.html."""

    name: str
    folder: str
    archive: str
    archive_md5: str
    train: Mapping[str, str]  # file to MD5, in the order in which the images count
    test: Mapping[str, str]
    labels: str  # key of the labels within a file
    outputs: int
    address: str = "https://www.cs.toronto.edu/~kriz"


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    labels="labels",
    outputs=10,
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    labels="fine_labels",
    outputs=100,
)


class Cifar(Published):
    """One of the two sets, by its layout: the folder, else the archive, under `root` or the cache; else a download."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.name = layout.name
        self.facts = Facts(SHAPE, layout.outputs, 50000, 0, 10000)
        self.checksums = {**layout.train, **layout.test}
        self.expected = f"{layout.folder}/ with {', '.join(self.checksums)}, or {layout.archive}"

    def files(self, folder: Path) -> dict[str, bytes]:
        """The batch files: from the extracted folder in `folder`, from `folder` itself, or from the archive in it."""
        for place in (folder / self.layout.folder, folder):
            found = {name: place / name for name in self.checksums if (place / name).is_file()}
            if found:
                return {name: path.read_bytes() for name, path in found.items()}
        archive = folder / self.layout.archive
        return self._unpack(archive) if archive.is_file() else {}

    def fetch(self, folder: Path) -> None:
        """Download the archive, which is read without being extracted."""
        layout = self.layout
        download(f"{layout.address}/{layout.archive}", folder / layout.archive, layout.archive_md5, self.name)

    def decode(self, files: Mapping[str, bytes]) -> Dataset:
        """Images of shape (N, 3, 32, 32), in the order of the files."""
        train, test = (
            [self._batch(files[name], name) for name in part] for part in (self.layout.train, self.layout.test)
        )
        return Dataset.of(self.name, _join(train), _join(test), outputs=self.layout.outputs)

    def _unpack(self, archive: Path) -> dict[str, bytes]:
        content = archive.read_bytes()
        content_md5 = checksum(content, self.layout.archive_md5)
        if content_md5 != self.layout.archive_md5:
            raise ConfigError(
                f"data: {archive} has MD5 {content_md5}, the official archive {self.layout.archive_md5}: "
                "delete it and fetch it again, or extract it and give its folder as data_args.root"
            )
        wanted = {f"{self.layout.folder}/{name}": name for name in self.checksums}
        found: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:  # read in memory by exact names, in the archive's order; nothing is extracted
                if member.name in wanted and (file := tar.extractfile(member)):
                    found[wanted[member.name]] = file.read()
        return found

    def _batch(self, content: bytes, name: str) -> tuple[Tensor, Tensor]:
        batch = load_batch(content, name)
        for key in ("data", self.layout.labels):
            if key not in batch:
                raise ConfigError(f"data: {name} has no '{key}'; a {self.name} file has '{key}'")
        pixels, labels = batch["data"], _labels(batch[self.layout.labels], self.layout.outputs, name)
        if not _is_pixels(pixels) or pixels.nbytes > len(content):  # an array may claim more than the file holds
            raise ConfigError(f"data: {name}: 'data' must be a uint8 array of shape (rows, {PIXELS})")
        images = torch.from_numpy(np.array(pixels)).reshape(-1, *SHAPE)
        check_pair(images, labels, self.layout.outputs, name)
        return images, labels


def _is_pixels(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 2 and value.shape[1] == PIXELS


def _labels(values: Any, outputs: int, name: str) -> Tensor:
    if not isinstance(values, list):
        raise ConfigError(f"data: {name}: its labels are a {type(values).__name__}; want a list")
    for value in values:
        if type(value) is not int or not 0 <= value < outputs:
            raise ConfigError(f"data: {name}: label {value!r:.40}; want whole numbers from 0 to {outputs - 1}")
    return torch.tensor(values, dtype=torch.int64)


def _join(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into protocol 2: the only use of `_codecs.encode` that is let through."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return text.encode("latin1")


# numpy's own rebuilders, taken from where it names them today; older and newer numpy pickle them under other modules.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # type: ignore[index]
_FROM_BUFFER: Any = np.empty(0).__reduce_ex__(5)[0]  # type: ignore[index]
ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle._Unpickler):  # the one in Python: the one in C allots room for whatever index a file names
    def persistent_load(self, pid: Any) -> Any:
        """Nothing: these files refer to nothing outside themselves."""
        raise pickle.UnpicklingError("it refers to an object outside itself")

    def find_class(self, module: str, name: str) -> Any:
        """One of ADMITTED, whatever protocol asks for it."""
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted") from None


def load_batch(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary pickled in the file `name`, its keys as str: arrays, lists, strings and numbers only.

    The official files were written by Python 2: their strings arrive as bytes. ConfigError for a damaged file, for
    one that is no dictionary and for one that names anything beyond ADMITTED (nothing of it is run).
    """
    try:
        found = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged stream raises almost anything: EOFError, IndexError, struct.error, ...
        why = str(error) or type(error).__name__
        raise ConfigError(f"data: {name} is damaged or not a CIFAR file: {why}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"data: {name} holds a {type(found).__name__}; a CIFAR file holds a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
