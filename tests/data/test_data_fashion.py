"""Fashion-MNIST: what ships with the package, and IDX files."""

import gzip
import importlib.util
import json
import struct
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from prunetune.data import fashion, identify, load
from prunetune.data.fashion import DEBIAN, MINI, FashionMini
from tests.support import data_makers as make
from tests.support.refusals import refused

REPOSITORY = Path(__file__).parents[2]
needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_fashion_mini", REPOSITORY / "scripts/build_fashion_mini.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _idx(name: str) -> np.ndarray:
    """The elements, read without the package: what follows 4 bytes of magic number and 4 for each dimension."""
    content = gzip.decompress((DEBIAN / f"{name}-ubyte.gz").read_bytes())
    sizes = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


@pytest.mark.slow
@needs_debian
@pytest.mark.skipif("zlib-ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng compresses to other bytes than zlib")
def test_the_shipped_file_is_rebuilt_to_the_byte(tmp_path: Path):
    assert _script().build(DEBIAN) == MINI.read_bytes()


@needs_debian
def test_the_shipped_images_are_the_official_ones():
    with np.load(MINI, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["test_images", "test_labels", "train_images", "train_labels"]
        np.testing.assert_array_equal(arrays["train_images"], _idx("train-images-idx3")[:10000])
        np.testing.assert_array_equal(arrays["train_labels"], _idx("train-labels-idx1")[:10000])
        np.testing.assert_array_equal(arrays["test_images"], _idx("t10k-images-idx3"))
        np.testing.assert_array_equal(arrays["test_labels"], _idx("t10k-labels-idx1"))


def test_packing_depends_on_the_arrays_alone():
    script, arrays = _script(), {"b": np.arange(9, dtype=np.uint8), "a": np.zeros((2, 2), np.uint8)}
    assert script.pack(arrays) == script.pack({name: array.copy() for name, array in arrays.items()})
    assert script.pack(arrays) != script.pack({**arrays, "a": np.ones((2, 2), np.uint8)})


def test_rebuilding_from_other_content_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="does not hold the official Fashion-MNIST"):
        _script().build(make.write_idx(tmp_path))


def test_mini_is_official_and_small():
    data = load(identify("fashion-mini"))
    assert data.official
    assert data.train_images.shape == data.test_images.shape == (10000, 1, 28, 28)
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert MINI.stat().st_size < 9_500_000
    assert "Zalando SE" in MINI.with_suffix(".LICENSE").read_text()


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_installation_is_told(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = MINI.read_bytes()
    copy = tmp_path / "fashion_mini.npz"
    if damage != "missing":
        copy.write_bytes(content[:-1] if damage == "truncated" else content[:5000] + b"!" + content[5001:])
    monkeypatch.setattr(fashion, "MINI", copy)
    with refused("data", "fashion_mini.npz", "install"):
        FashionMini().read()


@needs_debian
def test_debians_files_are_official():
    ref = identify("fashion_mnist")
    data = load(ref)
    assert (ref.digest, ref.root, data.official, data.note) == ("official", "", True, "")
    np.testing.assert_array_equal(data.train_images[:, 0].numpy(), _idx("train-images-idx3"))
    np.testing.assert_array_equal(data.test_labels.numpy(), _idx("t10k-labels-idx1"))


@needs_debian
def test_official_content_is_official_wherever_and_however_it_lies(tmp_path: Path):
    for path in DEBIAN.iterdir():
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    ref = identify("fashion_mnist", {"root": str(tmp_path)})
    assert ref.digest == "official"
    assert load(ref).official
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    changed = identify("fashion_mnist", {"root": str(tmp_path)})
    assert changed.digest not in ("official", "")
    assert not load(changed).official


def test_a_folder_of_other_content_is_read_and_noted(tmp_path: Path):
    ref = identify("fashion_mnist", {"root": str(make.write_idx(tmp_path, 20, 10))})
    data = load(ref)
    assert len(ref.digest) == 64
    assert not data.official
    assert data.note == (
        "not the official fashion_mnist (20 training and 10 test images): checksums differ from the published"
    )
    assert torch.equal(data.train_images[:, 0], torch.from_numpy(make.pixels(20, 28, 28, seed=1)))
    assert data.test_labels.tolist() == make.labels(10, 10)


def test_raw_and_gz_have_one_digest(tmp_path: Path):
    raw, zipped = make.write_idx(tmp_path / "raw"), make.write_idx(tmp_path / "gz", zipped=True)
    digests = {identify("fashion_mnist", {"root": str(folder)}).digest for folder in (raw, zipped)}
    assert len(digests) == 1


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", ("data", "0x", "IDX", "0x00000803", "starts")),
        (IMAGES, make.idx_bytes(np.zeros(4, np.uint8)), ("data", "0x00000801", "IDX", "starts")),
        (LABELS, make.idx_bytes(np.zeros((4, 1, 1), np.uint8)), ("data", "0x00000803", "IDX", "starts")),
        (IMAGES, make.idx_bytes(make.pixels(20, 28, 28))[:-1], ("data", "15679", "15680", "header")),
        (IMAGES, make.idx_bytes(make.pixels(20, 28, 28)) + b"0", ("data", "15681", "15680", "header")),
        (IMAGES, make.idx_bytes(make.pixels(19, 28, 28)), ("data", "(20,)", "19", "labels")),
        (LABELS, make.idx_bytes(np.full(10, 10, np.uint8)), ("data", "10", "0", "9", "labels")),
        (IMAGES, make.idx_bytes(np.zeros((0, 28, 28), np.uint8)), ("data", "(0, 1, 28, 28)", "shape")),
        (IMAGES, make.idx_bytes(make.pixels(20, 27, 28)), ("data", "alike")),
        (IMAGES, b"\x00\x00\x08\x03" + b"\xff" * 12, ("data", "its header says")),
    ],
)
def test_damaged_idx_files(name: str, content: bytes, message: tuple[str, ...], tmp_path: Path):
    (make.write_idx(tmp_path) / name).write_bytes(content)
    with refused(*message) as caught:
        load(identify("fashion_mnist", {"root": str(tmp_path)}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"no gzip"])
def test_damaged_gz_files(damage, tmp_path: Path):
    path = make.write_idx(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with refused("data", "train-images-idx3-ubyte.gz", "damaged"):
        load(identify("fashion_mnist", {"root": str(tmp_path)}))


def test_a_missing_file_is_named(tmp_path: Path):
    (make.write_idx(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with refused("data_args.root", "train-labels-idx1-ubyte", "expected"):
        identify("fashion_mnist", {"root": str(tmp_path)})


def test_an_empty_root_can_be_planned_with_but_not_loaded(tmp_path: Path):
    ref = identify("fashion_mnist", {"root": str(tmp_path)})
    assert ref.digest == "official"
    with refused("data_args.root", "fashion_mnist", "expected"):
        load(ref)


def test_what_nobody_named_must_be_official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make.write_idx(tmp_path)
    monkeypatch.setattr(fashion.FashionMNIST, "system_folders", (tmp_path,))
    with refused("data", "fashion_mnist", "delete"):
        identify("fashion_mnist")


def test_the_licence_is_part_of_the_package_data():
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    assert "data/*.npz" in pyproject
    assert json.dumps("src/prunetune/data/fashion_mini.LICENSE") in pyproject
