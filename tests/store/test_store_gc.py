"""`store gc` and `prepare` in folders and at URLs that hold what is not a store's: nothing of that is touched."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from prunetune.core import files as atomic
from prunetune.core.amounts import size as shown
from prunetune.core.files import temporary_beside, this_owner
from prunetune.store import maintenance
from prunetune.store.cache import open_store
from prunetune.store.maintenance import Entry, Leftover
from prunetune.store.store import Store
from tests.support.cli_runs import prunetune
from tests.support.refusals import refused
from tests.support.toy_study import init

KEY = init().key
DAY = 24 * 3600.0
FOREIGN = (
    "logs/server.log", "logs/1-a.log", "partial/thesis-draft.tex", "quarantine/notes.txt", f"quarantine/{KEY}/x",
    "claims/patent.pdf", ".tmp-work/a", "steps/ab/.tmp-mine/b", f"steps/{KEY[:2]}/{KEY}/.tmp-old", "shared/a.txt",
    "docs/.tmp-host-1-00000000/c",
)  # fmt: skip


def filled(root: Path) -> dict[str, bytes]:
    """A user's files, all ten days old, under names that a store's have too."""
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    set_back(root, 10 * DAY)
    return contents(root)


def set_back(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        os.utime(each, (then, then))


def contents(root: Path) -> dict[str, bytes]:
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    ours = {"prunetune-store.json", ".lock", "claims/.clock"}
    return {name: path.read_bytes() for name, path in files.items() if name not in ours}


def gc(where: object, *options: str) -> subprocess.CompletedProcess[str]:
    return prunetune("store", "gc", "--store", str(where), *options, cwd=Path.cwd())


def test_gc_of_a_folder_that_is_no_store_removes_nothing_and_says_so(tmp_path: Path) -> None:
    before = filled(tmp_path)
    done = gc(tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"prunetune: store: '{tmp_path}' is no store, for it has no prunetune-store.json; nothing was changed"
    ]
    assert contents(tmp_path) == before
    assert not (tmp_path / "prunetune-store.json").exists()


def test_gc_of_a_store_leaves_names_of_another_form(store: Store) -> None:
    before = filled(store.root)
    assert store.gc() == 0
    assert contents(store.root) == before


@pytest.mark.parametrize("name", ["logs/a.log", "claims/a", "steps/a", ".git/config", "quarantine/x", "partial/y"])
def test_a_folder_that_holds_anything_is_not_made_a_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    with refused("store", "things"):
        Store(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == [name.partition("/")[0]]


def test_a_place_that_holds_anything_is_not_made_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: MemoryFileSystem
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("claims/patent.pdf", f"claims/{KEY}", f"steps/{KEY[:2]}/{KEY}/state.safetensors"):
        memory.pipe_file(f"{tmp_path}/a/{name}", b"mine")
    before = memory.find(f"{tmp_path}/a")
    place = open_store(f"memory:/{tmp_path}/a")
    with refused("store", "things"):
        place.prepare()
    with refused("store", "store"):
        place.gc()
    assert memory.find(f"{tmp_path}/a") == before


def test_gc_of_a_store_at_a_url_leaves_names_of_another_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: MemoryFileSystem
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = open_store(f"memory:/{tmp_path}/a")
    place.prepare()
    names = ["claims/patent.pdf", f"claims/more/{KEY}", "steps/draft/thesis.tex", f"steps/{KEY[:2]}/{KEY}/thesis.tex"]
    for name in names:
        memory.pipe_file(f"{tmp_path}/a/{name}", b"mine")
    monkeypatch.setattr("prunetune.store.remote.FsspecBackend.age", lambda *_: 10 * DAY)
    assert place.gc() == 0
    assert {path.removeprefix(f"{tmp_path}/a/") for path in memory.find(f"{tmp_path}/a")} >= set(names)


@pytest.fixture
def memory() -> MemoryFileSystem:
    return MemoryFileSystem()


@pytest.mark.slow
def test_no_verb_but_the_first_use_makes_a_store(tmp_path: Path) -> None:
    for verb in ("ls", "verify", "gc"):
        assert prunetune("store", verb, "--store", tmp_path / "none", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "none").exists()


def put_aside(store: Store) -> Path:
    store.write(init(), {"digest": "x"}, state={"w": torch.ones(10)})
    return store.quarantine(KEY)


def test_a_dry_run_lists_what_goes_and_removes_nothing(store: Store) -> None:
    aside, checkpoint = put_aside(store), store.root / "partial" / KEY
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(bytes(7))
    size = maintenance.size_of(aside)
    dry = gc(store.root, "--dry-run").stdout.splitlines()
    assert dry == [
        f"would remove: quarantine/{aside.name}  {shown(size)}  (found damaged)",
        f"would remove: partial/{KEY}  7 B  (checkpoint that nobody is at)",
        f"{shown(size + 7)} would be freed",
    ]
    assert aside.exists()
    assert checkpoint.exists()
    wet = gc(store.root).stdout.splitlines()
    assert wet == [line.replace("would remove", "removing").replace("would be freed", "freed") for line in dry]
    assert not aside.exists()
    assert not checkpoint.exists()


def test_bytes_have_their_unit_wherever_a_store_shows_them() -> None:
    assert "  54.81 MB  " in str(Leftover("partial/x", 54_812_345, "found damaged", lambda: 0))
    assert " 54.81 MB  " in str(Entry("train", KEY, 54_812_345, "2026-01-01", ""))


def test_a_folder_without_a_marker_has_nothing_put_aside(store: Store) -> None:
    store.write(init(), {"digest": "x"}, state={"w": torch.ones(10)})
    (store.root / "prunetune-store.json").unlink()
    with refused("store", "is no store"):
        store.quarantine(KEY)
    assert store.has(KEY)


def in_use(store: Store) -> Callable[[], bool]:
    """What an audit at work has in a store; tells whether all of it is there still."""
    writing, log = temporary_beside(store.folder(KEY)), store.root / "logs" / f"{this_owner()}-{os.getpid()}-0.log"
    (store.root / "partial").mkdir()
    checkpoint = store.root / "partial" / KEY
    writing.mkdir(parents=True)
    for path in (writing / "state.safetensors", log, checkpoint):
        path.write_bytes(bytes(10))
    return lambda: all(path.exists() for path in (writing / "state.safetensors", log, checkpoint))


def test_gc_beside_an_audit_removes_nothing_that_is_in_use(store: Store) -> None:
    there = in_use(store)
    claims = store.leases()
    assert claims.take(KEY)
    [log] = (store.root / "logs").iterdir()
    set_back(log, 10 * DAY)  # a worker that has said nothing since
    assert store.gc() == 0
    assert there()
    claims.close()


def test_gc_on_a_machine_whose_clock_is_ahead_removes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    there = in_use(store)
    claims = store.leases()
    assert claims.take(KEY)
    ahead = time.time() + 365 * DAY
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert store.gc() == 0
    assert there()
    claims.close()


def test_gc_on_another_machine_of_the_same_name_removes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers: a host name and a process number that both have tell nothing."""
    there = in_use(store)
    claims = store.leases()
    assert claims.take(KEY)
    atomic.this_machine.cache_clear()
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[another]"))
    monkeypatch.setattr(maintenance, "is_alive", lambda pid: False)
    monkeypatch.setattr("prunetune.store.leases.is_alive", lambda pid: False)
    assert there()
    atomic.this_machine.cache_clear()
    claims.close()


def test_a_checkpoint_that_is_claimed_while_gc_runs_stays(store: Store) -> None:
    checkpoint = store.root / "partial" / KEY
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(bytes(10))
    other = store.leases()

    def take(_: Leftover) -> None:
        other.take(KEY)

    assert store.gc(tell=take) == 0
    assert checkpoint.exists()
    other.close()


def test_links_are_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (store.root / "quarantine").mkdir()
    (store.root / "quarantine" / f"{KEY}-00000000").symlink_to(tmp_path / "thesis")
    assert store.gc() == 0
    assert (tmp_path / "thesis").exists()
