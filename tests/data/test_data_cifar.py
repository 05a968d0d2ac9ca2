"""CIFAR-10 and CIFAR-100 in their official layout, sound and damaged."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunetune.data import identify, load
from prunetune.data.cifar import CIFAR10, CIFAR100, Cifar, Layout
from tests.support import data_makers as make
from tests.support.refusals import refused


def _archive(root: Path, folder: str, path: Path, extra: dict[str, bytes] | None = None) -> bytes:
    """A .tar.gz of root/folder, with members that must be ignored."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(root / folder, folder)
        for name, content in (extra or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(packed.getvalue())
    return packed.getvalue()


def _published_as(layout: Layout, root: Path, archive: bytes = b"") -> Layout:
    """The layout if what lies under `root` had been published."""
    md5 = {name: hashlib.md5((root / layout.folder / name).read_bytes()).hexdigest() for name in layout.train}
    tests = {name: hashlib.md5((root / layout.folder / name).read_bytes()).hexdigest() for name in layout.test}
    return replace(layout, train=md5, test=tests, archive_md5=hashlib.md5(archive).hexdigest())


def test_published_checksums():
    """As on the data sets' page and in the other libraries that read them."""
    assert CIFAR10.archive_md5 == "c58f30108f718f92721af3b95e74349a"
    assert CIFAR100.archive_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
    assert len({*CIFAR10.train.values(), *CIFAR10.test.values()}) == 6
    assert CIFAR100.train == {"train": "16019d7e3df5f24257cddd939b257f8d"}
    assert CIFAR100.test == {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_batches_in_their_order(protocol: int, tmp_path: Path):
    data = load(identify("cifar10", {"root": str(make.write_cifar10(tmp_path, 12, protocol))}))
    rows = np.concatenate([make.pixels(12, 3072, seed=seed) for seed in range(5)])
    expected = np.stack([[row[:1024], row[1024:2048], row[2048:]] for row in rows]).reshape(60, 3, 32, 32)
    np.testing.assert_array_equal(data.train_images.numpy(), expected)
    assert data.train_labels.tolist() == make.labels(12, 10) * 5
    assert data.outputs == 10
    assert data.note.startswith("not the official cifar10 (60 training and 12 test images)")


@pytest.mark.parametrize("protocol", [2, 3])
def test_cifar100_has_the_fine_labels(protocol: int, tmp_path: Path):
    data = load(identify("cifar100", {"root": str(make.write_cifar100(tmp_path, 200, 100, protocol))}))
    assert data.train_labels.tolist() == make.labels(200, 100)
    assert data.test_images.shape == (100, 3, 32, 32)
    assert data.outputs == 100


def test_the_extracted_folder_itself_may_be_the_root(tmp_path: Path):
    outer = make.write_cifar10(tmp_path)
    inner = outer / "cifar-10-batches-py"
    assert identify("cifar10", {"root": str(outer)}).digest == identify("cifar10", {"root": str(inner)}).digest


def test_content_decides_the_digest(tmp_path: Path):
    root = make.write_cifar10(tmp_path, 12)
    before = identify("cifar10", {"root": str(root)})
    make.write_cifar10(tmp_path, 13)
    assert before.digest != identify("cifar10", {"root": str(root)}).digest
    with refused("data", "planned"):
        load(before)


def test_files_with_the_published_checksums_are_official(tmp_path: Path):
    root = make.write_cifar10(tmp_path)
    source = Cifar(_published_as(CIFAR10, root))
    data, digest = source.read(root=str(root))
    assert (digest, source.digest(root=str(root)), data.official, data.note) == ("official", "official", True, "")


def test_an_archive_is_read_without_being_extracted(tmp_path: Path):
    made = make.write_cifar100(tmp_path / "made")
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "cifar-100-python.tar.gz"
    hostile = {"../escaped": b"x", "/cifar-100-python/train": b"x", "./cifar-100-python/../train": b"x"}
    archive = _archive(made, "cifar-100-python", path, hostile)
    source = Cifar(_published_as(CIFAR100, made, archive))
    data, digest = source.read(root=str(tmp_path / "root"))
    assert digest == "official"
    assert data.train_labels.tolist() == make.labels(200, 100)
    assert sorted(tmp_path.rglob("*")) == sorted({*tmp_path.rglob("made/**/*"), tmp_path / "made", path.parent, path})


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content + b"\0", lambda content: b""]
)
def test_an_archive_with_a_wrong_checksum_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path):
    made = make.write_cifar100(tmp_path)
    archive = _archive(made, "cifar-100-python", tmp_path / "x.tar.gz")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cifar-100-python.tar.gz").write_bytes(damage(archive))
    source = Cifar(_published_as(CIFAR100, made, archive))
    with refused("data", "cifar-100-python.tar.gz", "MD5", "archive"):
        source.digest(root=str(tmp_path / "root"))


def test_a_self_made_archive_is_refused_by_name(tmp_path: Path):
    _archive(make.write_cifar10(tmp_path), "cifar-10-batches-py", tmp_path / "root.tar.gz")
    (tmp_path / "root").mkdir()
    (tmp_path / "root.tar.gz").rename(tmp_path / "root" / "cifar-10-python.tar.gz")
    with refused("data", "data_args.root", "extract"):
        identify("cifar10", {"root": str(tmp_path / "root")})


def test_a_missing_batch_is_named(tmp_path: Path):
    root = make.write_cifar10(tmp_path)
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with refused("data_args.root", "data_batch_3", "cifar-10-batches-py/", "expected"):
        identify("cifar10", {"root": str(root)})


def _rewrite(root: Path, change: Callable[[dict[bytes, Any]], object]) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_2"
    batch = pickle.loads(path.read_bytes())
    result = change(batch)
    path.write_bytes(pickle.dumps(batch if result is None else result, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.pop(b"labels") and None, ("data", "labels", "data_batch_2", "cifar10", "file")),
        (lambda batch: batch.update({b"data": batch[b"data"][:11]}), ("data", "(12,)", "11", "labels")),
        (lambda batch: batch.update({b"labels": batch[b"labels"] + [1]}), ("data", "(13,)", "12", "labels")),
        (lambda batch: batch.update({b"data": batch[b"data"][:, :3071]}), ("data", "3072", "array")),
        (lambda batch: batch.update({b"data": batch[b"data"].astype("int16")}), ("data", "data", "uint8", "array")),
        (lambda batch: batch.update({b"data": [1, 2]}), ("data", "data", "uint8", "array")),
        (lambda batch: batch.update({b"data": batch[b"data"][:0], b"labels": []}), ("data", "(0, 3, 32, 32)", "shape")),
        (lambda batch: batch.update({b"labels": [10] * 12}), ("data", "10", "0", "9", "label")),
        (lambda batch: batch.update({b"labels": [-1] * 12}), ("data", "-1", "0", "9", "label")),
        (lambda batch: batch.update({b"labels": [1.0] * 12}), ("data", "1.0", "0", "9", "label")),
        (lambda batch: batch.update({b"labels": [10**40] * 12}), ("data", "label")),
        (lambda batch: batch.update({b"labels": "no"}), ("data", "str")),
        (lambda batch: [1], ("data", "data_batch_2", "CIFAR", "dictionary")),
    ],
)
def test_damaged_batches(change: Callable[[dict[bytes, Any]], object], message: tuple[str, ...], tmp_path: Path):
    root = make.write_cifar10(tmp_path)
    _rewrite(root, change)
    with refused(*message) as caught:
        load(identify("cifar10", {"root": str(root)}))
    assert "data_batch_2" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 20000])
def test_truncated_batches(keep: int, tmp_path: Path):
    path = make.write_cifar10(tmp_path) / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:keep])
    with refused("data", "test_batch", "CIFAR", "damaged"):
        load(identify("cifar10", {"root": str(tmp_path)}))


def test_nothing_there_can_be_planned_with_but_not_loaded(tmp_path: Path):
    ref = identify("cifar10", {"root": str(tmp_path / "absent")})
    assert ref.digest == "official"
    with refused("data_args.root", "cifar10", "cifar-10-batches-py/", "expected"):
        load(ref)
