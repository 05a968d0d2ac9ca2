"""Data that are made to fill the memory, or to start a program: refused in one line."""

import io
import pickle
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunetune.data import dataset, identify, load
from prunetune.data import fashion as idx
from prunetune.data.cifar import load_batch
from prunetune.errors import ConfigError
from tests.support import data_makers as make
from tests.support.fuzzing import assert_one_clear_line

ROOM = 300_000  # kB


def line_of(name: str, **arguments: object) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as caught:
        load(identify(name, arguments))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM
    return assert_one_clear_line(caught.value)


def test_a_gzip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "MOST", 1_000_000)
    make.write_idx(tmp_path)
    packer, name = zlib.compressobj(1, wbits=31), "train-images-idx3-ubyte"  # 31: as gzip
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(400)) + packer.flush()
    assert len(bomb) < 2_000_000
    (tmp_path / name).unlink()
    (tmp_path / f"{name}.gz").write_bytes(bomb)
    line = line_of("fashion_mnist", root=str(tmp_path))
    assert line.endswith(f"{name}.gz unpacks to more than 1,000,000 bytes; no such data set is as large")


def png_of(width: int, height: int) -> bytes:
    """The beginning of a greyscale PNG of that size, which is all that a reader needs to make room for it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_an_image_that_unpacks_to_hundreds_of_megabytes(side: int, tmp_path: Path) -> None:
    folder = make.write_images(tmp_path)
    (folder / "train" / "ant" / "00.png").write_bytes(png_of(side, side))
    line = line_of(f"imagefolder:{folder}")
    assert "train/ant/00.png cannot be read as an image: " in line
    assert f"({side * side} pixels)" in line


def test_images_that_together_are_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 1000}[name])
    line = line_of(f"imagefolder:{make.write_images(tmp_path)}")
    assert line.endswith("need 1,440 bytes, and this machine has 1,000; give data_args.size, or fewer of them")


def test_a_postscript_file_that_is_called_an_image(tmp_path: Path) -> None:
    """Pillow would hand it to Ghostscript, which runs it."""
    folder = make.write_images(tmp_path)
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "EPS")
    (folder / "train" / "ant" / "00.png").write_bytes(content.getvalue())
    assert "it is no image of a known format" in line_of(f"imagefolder:{folder}")


def test_images_that_are_scaled_beyond_reason(tmp_path: Path) -> None:
    folder = make.write_images(tmp_path)
    assert line_of(f"imagefolder:{folder}", size=10**6) == (
        "data_args.size: 1000000 pixels; want 1 or more, and at most 4096"
    )


def test_a_pickle_that_names_a_distant_place_in_its_memory(tmp_path: Path) -> None:
    """LONG_BINPUT with the largest index: the unpickler in C allots room for four billion entries."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = load_batch(pickle.PROTO + b"\x02}r" + struct.pack("<I", 2**32 - 1) + b".", "batch")
    assert found == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM


class _Claims:
    """An array of one byte that says it has many."""

    def __reduce__(self) -> tuple[object, ...]:
        shape, strides = (10_000_000, 3072), (0, 0)
        return np.ndarray, (shape, np.dtype("uint8"), b"\0", 0, strides)


def test_an_array_that_claims_more_than_its_file_holds(tmp_path: Path) -> None:
    make.write_cifar10(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(pickle.dumps({b"data": _Claims(), b"labels": [0] * 10}, 2))
    line = line_of("cifar10", root=str(tmp_path))
    assert line == "data: data_batch_1: 'data' must be a uint8 array of shape (rows, 3072)"


@pytest.mark.parametrize(
    ("root", "what"),
    [
        ("~nobody-of-this-name/x", "home directory"),
        ("x" * 5000, "too long"),
        ("a\0b", "null"),
        ("\ud800", "surrogates"),
    ],
    ids=["no home", "long", "NUL", "half a character"],
)
def test_folders_that_no_file_system_takes(root: str, what: str) -> None:
    for name in ("cifar10", "imagefolder"):
        line = line_of(name, root=root)
        assert line.startswith("data_args.root: ")
        assert what in line
