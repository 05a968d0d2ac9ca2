"""The store: layout, atomic writes, first write wins, damage found."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunetune.core import files
from prunetune.errors import ConfigError, CorruptionError, InvariantError
from prunetune.sparsity.mask import Mask
from prunetune.steps.steps import Init
from prunetune.store import maintenance
from prunetune.store.layout import entry, manifest_bytes
from prunetune.store.store import Store
from tests.support.disks import mounted
from tests.support.refusals import refused
from tests.support.toy_study import ONE_EPOCH, dense, init

STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_layout_is_readable_without_prunetune(store: Store) -> None:
    step = init(3)
    store.write(step, {"digest": "x"}, state=STATE, snapshots={ONE_EPOCH: {"w": torch.ones(2)}}, seconds=1.5)
    folder = store.root / "steps" / step.key[:2] / step.key
    names = {"step.json", "metrics.json", "state.safetensors", "state@1ep.safetensors", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert sha256(folder / "step.json") == step.key  # the address is the content's
    assert json.loads((folder / "step.json").read_text())["seed"] == 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == names - {"manifest.json"}
    for name, listed in manifest["files"].items():
        assert listed == {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
    assert manifest["seconds"] == 1.5
    assert torch.equal(safetensors.torch.load_file(folder / "state.safetensors")["w"], STATE["w"])


def test_a_step_is_on_the_disk_before_it_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, synced = store.folder(init().key), set[int]()

    def sync(descriptor: int) -> None:
        if not folder.exists():
            synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    store.write(init(), {"steps": 8}, state=STATE)
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} <= synced


def test_a_mask_is_stored_as_bits(store: Store) -> None:
    mask, key = Mask({"w": torch.arange(800).reshape(20, 40) % 3 == 0}), init().key
    store.write(init(), {}, mask=mask)
    path = store.folder(key) / "mask.safetensors"
    bits = safetensors.torch.load_file(path)["w"]
    assert bits.tolist() == np.packbits(mask["w"].flatten().numpy()).tolist()
    assert store.mask(key) == mask
    assert Mask.load(path) == mask


def test_a_mask_of_a_store_of_version_1_is_read(store: Store) -> None:
    mask, key = Mask({"w": torch.eye(5, dtype=torch.bool)}), init().key
    store.write(init(), {}, mask=mask)
    about: dict[str, Any] = {**store.manifest(key)}
    as_then = safetensors.torch.save(dict(mask))
    files = about.pop("files") | {"mask.safetensors": entry(as_then)}
    (store.folder(key) / "mask.safetensors").write_bytes(as_then)
    (store.folder(key) / "manifest.json").write_bytes(manifest_bytes({**about, "schema_version": 1}, files))
    (store.root / "prunetune-store.json").write_text('{"kind": "prunetune store", "schema_version": 1}')
    again = Store(store.root)
    assert again.mask(key) == mask
    assert not list(again.verify())
    again.prepare()  # to be written to: a prunetune that reads bool tensors alone must refuse it from here on
    assert json.loads((store.root / "prunetune-store.json").read_text())["schema_version"] == 2


@pytest.mark.parametrize(
    ("metrics", "state"), [({"steps": 9}, STATE), ({"steps": 8}, {**STATE, "w": STATE["w"] + 1e-7})]
)
def test_a_second_writer_must_have_the_same_bytes(store: Store, metrics: dict, state: dict) -> None:
    store.write(init(), {"steps": 8}, state=STATE, seconds=1.0)
    before = sorted((path, sha256(path)) for path in store.folder(init().key).iterdir())
    store.write(init(), {"steps": 8}, state=STATE, seconds=2.0)  # another time is no difference
    with pytest.raises(InvariantError, match=f"Init {init().key[:12]}: not reproducible here: "):
        store.write(init(), metrics, state=state, snapshots={ONE_EPOCH: STATE})
    assert sorted((path, sha256(path)) for path in store.folder(init().key).iterdir()) == before


WRITER = """
import sys, time
import torch
from tests.support.toy_study import init
from prunetune.store.store import Store
store = Store(sys.argv[1])
store.prepare()
(store.root / sys.argv[2]).touch()
while not ((store.root / ".one").exists() and (store.root / ".two").exists()):
    time.sleep(0.001)
for seed in range(40):
    store.write(init(seed), {"seed": seed}, state={"w": torch.full((50, 50), float(seed))})
"""


@pytest.mark.cluster
def test_two_processes_that_write_the_same_keys(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, name], env=environment) for name in (".one", ".two")]
    assert [process.wait() for process in processes] == [0, 0]
    store = Store(tmp_path / "store")
    assert len(list(store.ls())) == 40
    assert list(store.verify()) == []
    assert not list(store.root.rglob(".tmp-*"))
    assert all(float(store.state(init(seed).key)["w"][0, 0]) == seed for seed in range(40))


def filled(store: Store) -> tuple[Init, Path]:
    step = init()
    store.write(step, {"digest": "x"}, state=STATE, snapshots={ONE_EPOCH: STATE})
    return step, store.folder(step.key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(store: Store, data: st.DataObject) -> None:
    step, folder = filled(store)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    good = path.read_bytes()
    position, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(good[:position] + bytes([good[position] ^ (1 << bit)]) + good[position + 1 :])
    try:
        with pytest.raises(CorruptionError):
            store.check(step.key)
        assert [problem.key for problem in store.verify()] == [step.key]
    finally:
        path.write_bytes(good)
    store.check(step.key)


def test_truncated_and_missing_files_are_found(store: Store) -> None:
    step, folder = filled(store)
    for path in folder.iterdir():
        good = path.read_bytes()
        for damage in (lambda p=path, g=good: p.write_bytes(g[:-1]), path.unlink):
            damage()
            with pytest.raises(CorruptionError, match=path.name):
                store.check(step.key)
            assert [problem.key for problem in store.verify()] == [step.key]
            path.write_bytes(good)
    assert list(store.verify()) == []


def test_reading_damage_raises_and_never_returns_it(store: Store) -> None:
    step, folder = filled(store)
    content = bytearray((folder / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "state.safetensors").write_bytes(content)
    with pytest.raises(CorruptionError, match=r"state\.safetensors is not what was written \(checksum\)"):
        store.state(step.key)
    assert torch.equal(store.state(step.key, ONE_EPOCH)["w"], STATE["w"])


def test_a_step_moved_to_another_key_is_found(store: Store) -> None:
    step, folder = filled(store)
    other = store.folder(init(1).key)
    other.parent.mkdir(exist_ok=True)
    folder.rename(other)
    assert [problem.what for problem in store.verify()] == [
        f"store: {init(1).key[:12]}: step.json describes another step"
    ]
    assert not store.has(step.key)


def test_unlisted_files_and_changed_inputs_are_found(store: Store) -> None:
    step, folder = filled(store)
    child = dense(step)
    store.write(child, {"diverged": False}, inputs={f"{step.key}/state.safetensors": "0" * 64})
    (folder / "notes.txt").write_text("mine")
    assert {problem.what.partition(": ")[2] for problem in store.verify()} == {
        f"{step.key[:12]}: notes.txt is not in its list of files",
        f"{child.key[:12]}: its input {step.key}/state.safetensors is another one now",
    }


def test_gc_removes_what_is_abandoned_and_nothing_else(store: Store) -> None:
    step, folder = filled(store)
    store.quarantine(step.key)
    filled(store)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = files.temporary_beside(folder)
    theirs = mine.with_name(mine.name.replace(str(os.getpid()), str(dead.pid)))
    elsewhere = mine.with_name(f".tmp-elsewhere-{dead.pid}-00000000")
    old = mine.with_name(".tmp-elsewhere-1-11111111")
    for path in (mine, theirs, elsewhere, old):
        path.mkdir()
        (path / "state.safetensors").write_bytes(bytes(1000))
    inner = files.temporary_beside(folder / "x").with_name(f".tmp-{mine.name.split('-')[1]}-{dead.pid}-22222222")
    inner.write_bytes(bytes(10))
    yesterday = time.time() - 25 * 3600
    for path in (old / "state.safetensors", old):
        os.utime(path, (yesterday, yesterday))
    put_aside = maintenance.size_of(store.root / "quarantine")
    assert store.gc() == 2010 + put_aside
    assert not theirs.exists()
    assert not old.exists()
    assert not inner.exists()
    assert mine.exists()  # its process lives
    assert elsewhere.exists()  # of another machine's processes nothing is known
    assert list(store.verify()) == []
    assert [entry.key for entry in store.ls()] == [step.key]
    assert store.gc() == 0


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("hello")
    with refused("store", "folder"):
        Store(tmp_path / "store")
    with refused("store", "Not a directory", "write"):
        Store(tmp_path / "store" / "below").prepare()


def test_a_newer_store_is_refused(store: Store) -> None:
    (store.root / "prunetune-store.json").write_text('{"kind": "prunetune store", "schema_version": 99}')
    with refused("store", "99", "2", "knows"):
        Store(store.root)


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"schema_version": "x"}', "\0"])
def test_a_marker_that_makes_no_sense_is_refused(store: Store, marker: str) -> None:
    (store.root / "prunetune-store.json").write_text(marker)
    with refused("store", "folder"):
        Store(store.root)


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with refused("store", "thesis.tex", "things"):
        Store(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_hidden_files_and_the_root_of_a_fresh_disk_are_no_other_things(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / "lost+found").mkdir()
    Store(tmp_path).prepare()
    assert (tmp_path / "prunetune-store.json").exists()


def test_opening_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert not store.has(init().key)
    assert list(store.ls()) == list(store.verify()) == []
    assert store.gc() == 0
    assert not store.root.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("survivors", range(4))
def test_a_disk_that_refuses_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, survivors: int
) -> None:
    step, _ = filled(store)
    written: list[Path] = []
    write_file = files.write_file

    def refuse(path: Path, content: bytes) -> None:
        if len(written) == survivors:
            path.write_bytes(content[: len(content) // 2])  # as a full disk does
            raise OSError(code, os.strerror(code))
        written.append(path)
        write_file(path, content)

    monkeypatch.setattr(files, "write_file", refuse)
    with pytest.raises(ConfigError) as caught:
        store.write(init(1), {}, state=STATE, snapshots={ONE_EPOCH: STATE})
    assert str(caught.value).startswith("store: cannot write to '")
    assert os.strerror(code) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert not store.has(init(1).key)
    assert not list(store.root.rglob(".tmp-*"))
    assert torch.equal(store.state(step.key)["w"], STATE["w"])
    assert list(store.verify()) == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=256k"):
        store = Store(tmp_path)
        store.prepare()
        with refused("store", "No space left on device", "make"):
            fill(store)
        assert 0 < len(list(store.ls())) < 100
        assert list(store.verify()) == []
        assert not list(store.root.rglob(".tmp-*"))


def fill(store: Store) -> None:
    for seed in range(100):
        store.write(init(seed), {}, state={"w": torch.zeros(5000)})
