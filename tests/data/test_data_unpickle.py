"""Nothing in a pickle runs, and every official way of writing a batch is read."""

import builtins
import io
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from prunetune.data.cifar import load_batch
from tests.support.refusals import refused

BATCH = {b"labels": [0, 9, 3], b"data": np.arange(6, dtype=np.uint8).reshape(3, 2), b"filenames": [b"a.png"]}


_PythonPickler: Any = pickle._Pickler  # type: ignore[attr-defined]


class _Python2Pickler(_PythonPickler):
    """Writes protocol 2 as Python 2 did: bytes and text alike as SHORT_BINSTRING or BINSTRING."""

    dispatch: ClassVar[dict[Any, Any]] = dict(_PythonPickler.dispatch)

    def save_string(self, value: bytes | str) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def _python2(value: Any) -> bytes:
    stream = io.BytesIO()
    _Python2Pickler(stream, 2).dump(value)
    return stream.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def _check(content: bytes) -> None:
    batch = load_batch(content, "batch")
    assert set(batch) == {"labels", "data", "filenames"}
    assert batch["labels"] == [0, 9, 3]
    np.testing.assert_array_equal(batch["data"], BATCH[b"data"])
    assert batch["data"].dtype == np.uint8


def test_as_python_2_wrote_it():
    content = _python2(BATCH)
    assert b"U\x04data" in content
    assert b"numpy.core.multiarray" in content
    _check(content)


@pytest.mark.parametrize("protocol", range(6))
def test_as_python_3_writes_it(protocol: int):
    _check(pickle.dumps(BATCH, protocol))
    _check(pickle.dumps({key.decode(): value for key, value in BATCH.items()}, protocol))


@pytest.mark.parametrize("protocol", [0, 2, 3])
def test_under_the_older_and_newer_name_of_numpys_module(protocol: int):
    content = pickle.dumps(BATCH, protocol)
    bare = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    newer = bare.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert bare != newer
    _check(bare)
    _check(newer)


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_pickle_runs_nothing(protocol: int, nested: bool, tmp_path: Path):
    planted = tmp_path / "planted"
    for call in (
        _Call(os.system, f"touch {planted}"),
        _Call(subprocess.check_call, ["touch", str(planted)]),
        _Call(builtins.open, str(planted), "w"),
        _Call(builtins.eval, f"open({str(planted)!r}, 'w')"),
        _Call(getattr, np.ndarray, "tofile"),
    ):
        content = pickle.dumps({b"data": call} if nested else call, protocol)
        with refused("data", "admitted"):
            load_batch(content, "batch")
    assert not planted.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nload\n(Vx\ntR.",
        b"cnumpy\nfromfile\n(V/etc/passwd\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",  # a dotted name, which protocol 4 would resolve
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(tR.",
        b"\x80\x02\x82\x01.",  # a registered extension code
        b"P0\n.",  # a persistent id
        b"}\x94",
        b"garbage",
        b"",
        b"cnumpy\nndarray\n((I1000000000000000\ntVd\ntR.",
    ],
)
def test_what_is_not_admitted_or_damaged_is_one_line(content: bytes):
    with refused("data", "CIFAR", "damaged") as caught:
        load_batch(content, "batch")
    assert "\n" not in str(caught.value)
