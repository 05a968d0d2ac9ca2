"""Writes small data sets of every form that can be loaded."""

import gzip
import importlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CIFAR10_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int) -> list[int]:
    return [i % classes for i in range(count)]


def idx_bytes(array: np.ndarray) -> bytes:
    """IDX of unsigned bytes, from the format's description: 0, 0, type 8, number of dimensions, sizes, data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_idx(folder: Path, train: int = 20, test: int = 10, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 1), ("t10k", test, 2)):
        files = {
            f"{split}-images-idx3-ubyte": idx_bytes(pixels(count, 28, 28, seed=seed)),
            f"{split}-labels-idx1-ubyte": idx_bytes(np.array(labels(count, 10), np.uint8)),
        }
        for name, content in files.items():
            (folder / f"{name}.gz" if zipped else folder / name).write_bytes(
                gzip.compress(content) if zipped else content
            )
    return folder


def write_cifar10(root: Path, rows: int = 12, protocol: int = 3) -> Path:
    """The official layout with `rows` images a file; file k's pixels come from seed k."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(CIFAR10_FILES):
        batch = {
            b"batch_label": name.encode(),
            b"labels": labels(rows, 10),
            b"data": pixels(rows, 3072, seed=seed),
            b"filenames": [b"x.png"] * rows,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return root


def write_cifar100(root: Path, train: int = 200, test: int = 100, protocol: int = 3, fine: int = 100) -> Path:
    """The official layout; the labels are of the first `fine` classes."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        batch = {
            b"filenames": [b"x.png"] * count,
            b"batch_label": name.encode(),
            b"fine_labels": labels(count, fine),
            b"coarse_labels": labels(count, 20),
            b"data": pixels(count, 3072, seed=seed),
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return root


def write_images(folder: Path, train: int = 6, test: int = 3, shape: tuple[int, ...] = (8, 10, 3)) -> Path:
    """Two classes, `bird` and `ant`, as PNG files, which keep every pixel."""
    for split, count in (("train", train), ("test", test)):
        for seed, name in enumerate(("bird", "ant")):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i, array in enumerate(pixels(count, *shape, seed=seed + (split == "test") * 2)):
                Image.fromarray(array).save(folder / split / name / f"{i:02d}.png")
    return folder


def _png(array: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def write_hub(
    folder: Path, channels: int = 3, images: str = "img", splits: tuple[str, ...] = ("train", "test")
) -> Path:
    """As repositories on the hub are: data/SPLIT-00000-of-00001.parquet, with the features in the file's metadata."""
    datasets: Any = importlib.import_module("datasets")  # of an optional extra, so that its types may not be there
    pq: Any = importlib.import_module("pyarrow.parquet")

    datasets.config.HF_DATASETS_CACHE = folder / "cache"  # no test reads what another one left, or asks the network
    datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    features = datasets.Features(
        {images: datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b", "c"]), "id": datasets.Value("int64")}
    )
    (folder / "data").mkdir(parents=True)
    for seed, split in enumerate(splits):
        arrays = pixels(24 - 15 * seed, 5, 4, channels, seed=seed)
        rows = {images: [_png(a) for a in arrays], "fine": [i % 3 for i in range(len(arrays))], "id": [7] * len(arrays)}
        pq.write_table(
            datasets.Dataset.from_dict(rows, features=features).with_format("arrow")[:],
            folder / "data" / f"{split}-00000-of-00001.parquet",
        )
    return folder
