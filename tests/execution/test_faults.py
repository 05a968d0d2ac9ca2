"""A small study under one fault after the other, in this process: it ends with the bytes of an undisturbed one."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.cli import main as cli
from prunetune.errors import ConfigError
from prunetune.execution.events import Event
from prunetune.execution.run_step import execute
from prunetune.execution.scheduler import Schedule
from prunetune.steps.steps import Step, Weights
from prunetune.store.store import Store
from tests.support.disks import Disk, mounted
from tests.support.toy_study import IMAGES, ONE_EPOCH, Work, dense, init, prune, recipe, sparse

START, HOW = init(0), replace(recipe(), batch_size=IMAGES)  # two epochs of one step each: it is trained many times
DENSE = dense(START, HOW)
STEPS = (START, DENSE, prune(DENSE), sparse(Weights(START), prune(DENSE), HOW))
STUDY = Work(STEPS, {DENSE.key: frozenset({ONE_EPOCH})})


def study(root: Path, between: Callable[[], None] = lambda: None) -> list[Event]:
    """What an executor and its worker do, with a checkpoint after every epoch; the first failure ends it."""
    store = Store(root)
    store.prepare()
    claims, events = store.leases(), list[Event]()
    try:
        schedule = Schedule(STUDY, store, claims)
        for found in schedule.take():
            if isinstance(found, Step):
                execute(found, store, schedule.points(found), events.append, checkpoint_every=0.0)
                schedule.done(found.key)
                between()
    finally:
        claims.close()
    return events


def contents(root: Path) -> dict[str, bytes]:
    """Every file of every step but the manifests, which hold times."""
    files = (path for path in root.glob("steps/*/*/*") if path.name != "manifest.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def assert_like_undisturbed(root: Path, undisturbed: dict[str, bytes]) -> None:
    assert contents(root) == undisturbed
    assert list(Store(root).verify()) == []
    assert list((root / "partial").glob("*")) == list((root / "claims").glob("[!.]*")) == []
    Store(root).gc()
    assert list(root.rglob(".tmp-*")) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    study(root)
    return contents(root)


def refusal(root: Path) -> str | None:
    """Why the study ended early, if it did."""
    try:
        study(root)
    except ConfigError as error:
        return str(error)
    return None


def assert_full(why: str) -> None:
    assert why.startswith("store: cannot write to '")
    assert why.endswith(": No space left on device; make room and run the same command again, what is stored is kept")
    assert "\n" not in why


def test_a_disk_that_is_full_at_any_one_write(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Every folder, file, content and name in turn; room is made, and the same command goes on."""
    refusals, number = [], 0
    while True:
        number += 1
        root = tmp_path / str(number)
        disk = Disk(root, number)
        with disk.at_work():
            why = refusal(root)
        if disk.calls < number:
            break
        if why is not None:
            assert_full(why)
            refusals.append(number)
        study(root)
        assert_like_undisturbed(root, undisturbed)
    assert len(refusals) > 2 * len(undisturbed)  # each file is created and written, and there is more
    assert len(refusals) < number - 1  # claims and checkpoints stop nothing


@pytest.mark.parametrize("limit", ["nr_blocks", "nr_inodes"])
def test_a_disk_that_is_really_full(tmp_path: Path, undisturbed: dict[str, bytes], limit: str) -> None:
    """A file system of so many pages, or of so many names, which later grows."""
    most = 1
    while most < 200:
        most += 1
        with mounted(tmp_path, f"{limit}={most}"):
            if (why := refusal(tmp_path)) is None:
                break
            assert_full(why)
            subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=9999", str(tmp_path)], check=True)
            study(tmp_path)
            assert_like_undisturbed(tmp_path, undisturbed)
    assert 15 < most < 200


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Between any two steps, by thirty years."""
    real, jumps = time.time, 0

    def leap() -> None:
        nonlocal jumps
        jumps += 1
        monkeypatch.setattr(time, "time", lambda: real() + jump * (jumps % 2))
        Store(tmp_path / "store").gc()

    study(tmp_path / "store", leap)
    assert jumps == len(STUDY.steps)
    assert_like_undisturbed(tmp_path / "store", undisturbed)


def test_a_read_only_store_is_refused_in_one_line_and_can_be_read(
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["prunetune", *arguments, "--store", "disk/store"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "size=64m"):
        study(tmp_path / "disk" / "store")
        subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
        line = f"prunetune: store: cannot write to '{tmp_path / 'disk' / 'store'}': Read-only file system\n"
        assert call("audit", "quick") == (2, "", line)
        assert call("store", "gc") == (2, "", line)
        assert call("store", "verify") == (0, "4 steps read, 0 damaged\n", "")
        assert call("plan", "quick")[0] == 0
        assert contents(tmp_path / "disk" / "store") == undisturbed
