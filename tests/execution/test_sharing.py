"""Several processes on one store: nothing is trained twice while its process lives, and what a dead one had is done."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from prunetune.execution.events import Cached, Done, Waiting
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.run_step import execute
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.support.toy_study import Work, small_study

pytestmark = pytest.mark.cluster

SECONDS = 0.03  # of a pass: a training takes about a third of a second
STUDY = small_study("slow_net", seconds=SECONDS)

PARTNER = """
import sys
from tests.support.toy_study import small_study
from prunetune.execution.executors.local import LocalExecutor
from prunetune.store.store import Store
store, seconds = sys.argv[1:]
for event in LocalExecutor(1).run(small_study("slow_net", seconds=float(seconds)), Store(store)):
    print(event.kind, event.key, flush=True)
"""


def partner(store: Path) -> subprocess.Popen[str]:
    """A process that does the study with one worker and tells its events, a line each."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PARTNER, str(store), str(SECONDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def told(output: str) -> set[tuple[str, str]]:
    return {(kind, key) for kind, key in map(str.split, output.splitlines())}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What one undisturbed process leaves."""
    store = Store(tmp_path_factory.mktemp("alone") / "store")
    store.prepare()
    for step in STUDY.steps:
        execute(step, store, STUDY.snapshots.get(step.key, ()))
    return store


def contents(store: Store) -> dict[str, bytes]:
    return {
        f"{step.key}/{path.name}": path.read_bytes()
        for step in STUDY.steps
        for path in store.folder(step.key).glob("*")
        if path.name != "manifest.json"
    }


def claimed(store: Store) -> list[Path]:
    return list((store.root / "claims").glob("[!.]*"))


def test_three_processes_do_every_step_once(tmp_path: Path, alone: Store) -> None:
    store = Store(tmp_path / "shared")
    processes = [partner(store.root) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    for kind in ("started", "done"):
        counts = Counter(key for output in outputs for what, key in told(output) if what == kind)
        assert counts == {step.key: 1 for step in STUDY.steps}
    for output in outputs:
        ended = [key for kind, key in told(output) if kind in ("done", "found")]
        assert sorted(ended) == sorted(step.key for step in STUDY.steps)
    assert sum("waiting" in output for output in outputs) >= 2  # for the dense run there is nothing to do beside it
    assert contents(store) == contents(alone)
    assert list(store.verify()) == []
    assert claimed(store) == []


def test_what_a_killed_process_was_at_is_done_by_the_others(tmp_path: Path, alone: Store) -> None:
    store = Store(tmp_path / "shared")
    with partner(store.root) as victim:
        assert victim.stdout is not None
        events = map(str.split, iter(victim.stdout.readline, ""))
        lost = next(key for kind, key in events if kind == "progress")  # the dense run, one of two epochs done
        os.killpg(victim.pid, signal.SIGSTOP)
        others = [partner(store.root) for _ in range(2)]
        for other in others:
            assert other.stdout is not None
            assert ["waiting", lost] in map(str.split, iter(other.stdout.readline, ""))
        os.killpg(victim.pid, signal.SIGKILL)
    outputs = [other.communicate()[0] for other in others]
    assert [other.returncode for other in others] == [0, 0]
    assert contents(store) == contents(alone)
    assert list(store.verify()) == []
    assert claimed(store) == []
    dones = Counter(key for output in outputs for kind, key in told(output) if kind == "done")
    assert dones[lost] == 1
    assert set(dones.values()) == {1}


def test_an_expired_claim_is_taken_over_after_a_wait(tmp_path: Path, alone: Store) -> None:
    """As if a machine had gone: its claim is there, fresh, and never renewed."""
    store = Store(tmp_path / "store")
    store.prepare()
    start, other, dense = STUDY.steps[:3]
    for step in (start, other):
        execute(step, store)  # so that no worker must be started before the wait
    content = '{"host": "elsewhere", "machine": "another boot", "pid": 1, "started": "", "since": "noon"}'
    (store.root / "claims" / dense.key).write_text(content)
    events = list(LocalExecutor(1, expiry=2.0).run(STUDY, store))
    [waiting] = [event for event in events if isinstance(event, Waiting)]
    assert waiting.key == dense.key
    assert re.fullmatch(r"process 1 on elsewhere, since noon, last sign of life \d s ago", waiting.holder)
    claim = store.root / "claims" / dense.key
    assert waiting.way_out == f"after 2 s without such a sign, or as soon as {claim} is removed"
    assert {event.key for event in events if isinstance(event, Done)} == {step.key for step in STUDY.steps[2:]}
    assert contents(store) == contents(alone)
    assert list(store.verify()) == []


def test_a_process_that_wakes_after_its_claim_expired_is_harmless(tmp_path: Path, alone: Store) -> None:
    """Its claim is taken over in the middle of the dense run; both finish it, and the second has the same bytes."""
    store = Store(tmp_path / "store")
    dense = STUDY.steps[2]
    run = LocalExecutor(1).run(Work(STUDY.steps[:3], STUDY.snapshots), store)
    for event in run:
        if event.kind == "started" and event.key == dense.key:
            break
    path = store.root / "claims" / dense.key
    os.utime(path, (0, 0))  # it has slept through
    other = store.leases(expiry=30)
    assert other.take(dense.key)
    execute(dense, store, STUDY.snapshots[dense.key])
    other.close()
    rest = list(run)
    assert [event.kind for event in rest if event.kind in ("done", "failed")] == ["done"]
    assert contents(store).items() <= contents(alone).items()
    assert list(store.verify()) == []


def test_damage_that_two_processes_find_is_mended_once(tmp_path: Path, alone: Store) -> None:
    store = Store(shutil.copytree(alone.root, tmp_path / "store"))
    victims = [step for step in STUDY.steps if isinstance(step, Train)][-2:]
    for step in victims:
        path = store.folder(step.key) / "state.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    processes = [partner(store.root) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    dones = Counter(key for output in outputs for kind, key in told(output) if kind == "done")
    assert dones == {step.key: 1 for step in victims}
    assert contents(store) == contents(alone)
    assert list(store.verify()) == []
    assert len(list((store.root / "quarantine").iterdir())) == len(victims)


def test_everything_stored_by_others_counts_as_found(finished: Store) -> None:
    from tests.support.toy_study import small_study as quick

    events = list(LocalExecutor(1).run(quick(), finished))
    assert events == [Cached(step.key) for step in quick().steps]
    assert claimed(finished) == []
