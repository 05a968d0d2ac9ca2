"""A store at a URL, shared by machines that have no disk in common: each of them a cache folder of its own here."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from prunetune.errors import CorruptionError, InvariantError
from prunetune.execution.events import Cached, Done, Event, Failed, Notice
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.run_step import execute
from prunetune.store import remote
from prunetune.store.cache import CachedStore
from prunetune.store.layout import manifest_bytes
from prunetune.store.leases import Process
from prunetune.store.remote import FsspecBackend
from prunetune.store.store import Store, StoreWriter
from tests.support.refusals import refused
from tests.support.toy_study import ONE_EPOCH, Work, dense, init, small_study

STATE = {"w": torch.arange(6.0).reshape(2, 3)}
OTHER = {"w": torch.ones(2, 3)}
START = init()
MANIFEST = f"steps/{START.key[:2]}/{START.key}/manifest.json"
WEIGHTS = MANIFEST.replace("manifest.json", "state.safetensors")
KEY = START.key

Machine = Callable[[str], CachedStore]


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/some/where"
    return f"memory:/{tmp_path}/elsewhere" if request.param == "memory" else f"file://{tmp_path}/elsewhere"


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The store as the machine of that name sees it, when a command starts there."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))

    def seen_from(name: str) -> CachedStore:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        store = CachedStore(url)
        store.prepare()
        return store

    return seen_from


def run(store: StoreWriter, work: Work) -> list[Event]:
    return list(LocalExecutor(1).run(work, store))


def done_alone(store: StoreWriter, work: Work) -> None:
    """The study without workers, which take their time to start."""
    for step in work.steps:
        execute(step, store, work.snapshots.get(step.key, ()))


def of(events: list[Event], *kinds: type) -> list[Event]:
    return [event for event in events if isinstance(event, kinds)]


def place(store: CachedStore) -> FsspecBackend:
    """Where the store lies."""
    assert isinstance(store.remote.backend, FsspecBackend)
    return store.remote.backend


def contents(store: CachedStore) -> dict[str, bytes]:
    """All that is there but manifests, which hold times."""
    paths = [path for path in place(store).paths("steps") if not path.endswith("manifest.json")]
    return {path: place(store).get(path) for path in paths}


def test_what_one_machine_has_done_another_one_has(machine: Machine) -> None:
    step = dense(init())
    machine("one").write(step, {"diverged": False}, state=STATE, snapshots={ONE_EPOCH: OTHER})
    two = machine("two")
    assert two.has(step.key, [ONE_EPOCH])
    assert not two.exists(step.key)  # to know that costs nothing but the listing
    two.check(step.key)
    assert torch.equal(two.state(step.key)["w"], STATE["w"])
    assert torch.equal(two.state(step.key, ONE_EPOCH)["w"], OTHER["w"])
    assert list(two.verify()) == []
    assert [entry.key for entry in two.ls()] == [step.key] == list(two.stored())


def test_the_files_there_are_those_of_a_store_in_a_folder(tmp_path: Path, machine: Machine) -> None:
    one = machine("one")
    one.write(START, {"digest": "x"}, state=STATE)
    copied = tmp_path / "copied"
    for path in place(one).paths(""):
        (copied / path).parent.mkdir(parents=True, exist_ok=True)
        (copied / path).write_bytes(place(one).get(path))
    folder = Store(copied)
    folder.prepare()
    assert list(folder.verify()) == []
    assert torch.equal(folder.state(KEY)["w"], STATE["w"])


def test_planning_lists_once_and_reads_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")
    for seed in range(5):
        one.write(init(seed), {}, state=STATE)
    two = machine("two")
    asked: Counter[str] = Counter()
    ask = remote.FsspecBackend._ask

    def counted(self: remote.FsspecBackend, what: Callable[[], Any]) -> Any:
        asked["times"] += 1
        return ask(self, what)

    place(two)._known = None
    monkeypatch.setattr(remote.FsspecBackend, "_ask", counted)
    assert [two.has(init(seed).key) for seed in range(50)] == [True] * 5 + [False] * 45
    assert asked["times"] == 2  # the marker, and the listing


def test_the_first_write_wins(machine: Machine) -> None:
    one, two = machine("one"), machine("two")
    assert not two.has(KEY)
    one.write(START, {"digest": "x"}, state=STATE)
    before = contents(two)
    with pytest.raises(
        InvariantError, match=rf"Init {KEY[:12]}: not reproducible here: .* than it is stored at '.*://"
    ):
        two.write(START, {"digest": "x"}, state=OTHER)
    assert contents(two) == before
    assert torch.equal(two.state(KEY)["w"], STATE["w"])  # of the two results, the one that others have
    two.write(START, {"digest": "x"}, state=STATE)
    assert list(two.verify()) == []


def test_a_snapshot_that_another_machine_adds_arrives(machine: Machine) -> None:
    step = dense(init())
    one, two = machine("one"), machine("two")
    one.write(step, {"diverged": False}, state=STATE)
    machine("two").check(step.key)
    assert not machine("two").has(step.key, [ONE_EPOCH])
    one.write(step, {"diverged": False}, state=STATE, snapshots={ONE_EPOCH: OTHER})
    two = machine("two")
    assert two.has(step.key, [ONE_EPOCH])
    two.check(step.key)
    assert torch.equal(two.state(step.key, ONE_EPOCH)["w"], OTHER["w"])


def test_a_write_that_ended_before_the_manifest_counts_for_nothing(machine: Machine) -> None:
    one = machine("one")
    place(one).put(WEIGHTS, b"only the first bytes of anoth")
    two = machine("two")
    assert not two.has(KEY)
    assert list(two.verify()) == list(two.ls()) == []
    two.write(START, {"digest": "x"}, state=STATE)
    assert list(two.verify()) == []
    assert torch.equal(machine("three").state(KEY)["w"], STATE["w"])


def test_every_kind_of_damage_there_is_found_and_never_read(machine: Machine) -> None:
    one = machine("one")
    one.write(START, {"digest": "x"}, state=STATE)
    for name in ("manifest.json", "metrics.json", "state.safetensors", "step.json"):
        path = MANIFEST.replace("manifest.json", name)
        good = place(one).get(path)
        flipped = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
        for bad in (good[:-1], b"", flipped, None):
            if bad is None:
                place(one).remove(path)
            else:
                place(one).put(path, bad)
            found = machine(f"{name} {bad}"[:40])
            if bad is None and name == "manifest.json":
                assert not found.has(KEY)  # as if it had never been written
            else:
                with pytest.raises(CorruptionError):
                    found.check(KEY)
                assert not found.exists(KEY)
                assert [problem.key for problem in found.verify()] == [KEY]
            place(one).put(path, good)
    machine("last").check(KEY)


@pytest.mark.parametrize("url", ["file"], indirect=True)
def test_damage_there_is_put_aside_and_done_again(machine: Machine) -> None:
    work = small_study()
    one = machine("one")
    done_alone(one, work)
    before = contents(one)
    victim = work.steps[2]
    path = MANIFEST.replace(KEY, victim.key).replace(f"/{KEY[:2]}/", f"/{victim.key[:2]}/")
    path = path.replace("manifest.json", "state.safetensors")
    place(one).put(path, place(one).get(path)[:-1])
    two = machine("two")
    events = run(two, work)
    assert [event.key for event in of(events, Done, Notice)] == [victim.key] * 2
    assert len(of(events, Cached)) == len(work.steps) - 1
    assert list(two.verify()) == []
    assert contents(two) == before
    assert len(list((two.root / "quarantine").glob(f"{victim.key}-*/state.safetensors"))) == 1


def test_a_damaged_copy_here_is_fetched_again(machine: Machine) -> None:
    one = machine("one")
    one.write(START, {"digest": "x"}, state=STATE)
    (one.folder(KEY) / "state.safetensors").write_bytes(b"")
    one.check(KEY)
    assert torch.equal(one.state(KEY)["w"], STATE["w"])


def test_a_manifest_cannot_make_files_elsewhere(machine: Machine, tmp_path: Path) -> None:
    one = machine("one")
    one.write(START, {"digest": "x"}, state=STATE)
    listed = json.loads(place(one).get(MANIFEST))
    del listed["sha256"]
    listed["files"]["../../../../evil"] = listed["files"].pop("metrics.json")
    place(one).put(MANIFEST, manifest_bytes(listed, listed["files"]))
    with pytest.raises(CorruptionError, match="names files of other folders"):
        machine("two").check(KEY)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_deleting_the_folder_here_loses_nothing(machine: Machine) -> None:
    work = small_study()
    done_alone(machine("one"), work)
    assert run(machine("two"), work) == [Cached(step.key) for step in work.steps]


def test_deleting_it_there_is_mended_from_here(machine: Machine) -> None:
    one = machine("one")
    one.write(START, {"digest": "x"}, state=STATE)
    for path in place(one).paths("steps"):
        place(one).remove(path)
    machine("one")
    machine("two").check(KEY)


class Failing:
    """Makes the file system fail a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        ask = remote.FsspecBackend._ask

        def asked(this: remote.FsspecBackend, what: Callable[[], Any]) -> Any:
            def tried() -> Any:
                if self.times > 0:
                    self.times -= 1
                    raise ConnectionResetError(104, "Connection reset by peer")
                return what()

            return ask(this, tried)

        monkeypatch.setattr(remote.FsspecBackend, "_ask", asked)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(monkeypatch)


def test_a_request_that_fails_is_tried_again(machine: Machine, failing: Failing) -> None:
    one = machine("one")
    failing.times = len(remote.PAUSES)
    one.write(START, {"digest": "x"}, state=STATE)
    assert failing.times == 0
    machine("two").check(KEY)


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_what_cannot_be_brought_there_is_kept_and_brought_later(machine: Machine, failing: Failing) -> None:
    """The line is dead from the moment on in which the dense run has been done."""
    whole = small_study()
    work = Work(whole.steps[:3], whole.snapshots)
    one = machine("one")
    told: list[Event] = []
    for event in LocalExecutor(1).run(work, one):
        told.append(event)
        if event.kind == "progress" and event.epoch == 2:
            failing.times = 10**6
    assert [event.key for event in of(told, Done)] == [step.key for step in work.steps[:2]]
    (failed,) = of(told, Failed)
    assert isinstance(failed, Failed)
    assert (failed.key, failed.error) == (work.steps[2].key, "ConfigError")
    assert failed.message.startswith("store: '")
    assert "cannot be used: Connection reset by peer; what was made is kept here" in failed.message
    assert "\n" not in failed.message
    failing.times = 0
    assert run(machine("one"), work) == [Cached(step.key) for step in work.steps]
    assert run(machine("two"), work) == [Cached(step.key) for step in work.steps]


def test_a_line_that_is_dead_when_a_step_is_looked_at_fails_that_step(machine: Machine, failing: Failing) -> None:
    whole = small_study()
    work = Work(whole.steps[:3], whole.snapshots)
    done_alone(machine("one"), work)
    two = machine("two")
    told: list[Event] = []
    for event in LocalExecutor(1).run(work, two):
        told.append(event)
        failing.times = 10**6  # after the first step
    first, second, third = (step.key for step in work.steps)
    assert [(event.kind, event.key) for event in told] == [("found", first), ("failed", second), ("failed", third)]
    assert [two.has(key) for key in (first, second, third)] == [True, False, False]  # a report of the rest is written
    failing.times = 0
    assert run(two, work) == [Cached(key) for key in (first, second, third)]


def test_of_two_results_that_were_kept_the_one_that_came_later_is_told_and_put_aside(
    machine: Machine, failing: Failing
) -> None:
    two = machine("two")
    failing.times = 10**6
    with refused("store", "made"):
        two.write(START, {"digest": "x"}, state=OTHER)
    failing.times = 0
    machine("one").write(START, {"digest": "x"}, state=STATE)
    with pytest.raises(CorruptionError, match=r"not reproducible here: .*; what was made here is put aside"):
        machine("two")
    assert torch.equal(machine("two").state(KEY)["w"], STATE["w"])


def test_a_place_that_cannot_be_reached_is_one_line_and_no_wait(
    machine: Machine, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES", (60.0,))
    failing.times = 10**6
    with refused("store", "Connection reset by peer", "used"):
        machine("one")


def test_claims_of_two_machines(machine: Machine) -> None:
    one, two = machine("one").leases(), machine("two").leases()
    assert one.take(KEY)
    assert one.take(KEY)
    assert not two.take(KEY)
    assert two.take(init(1).key)
    assert two.holder(KEY) == Process.this()
    assert two.is_alive(KEY)
    one.release(KEY)
    two._not_before.clear()  # as if the pause were over
    assert two.take(KEY)
    one.close()
    two.close()
    assert two._leased() == set()


def test_a_claim_that_is_given_up_is_had_after_a_while(machine: Machine) -> None:
    one, two = machine("one").leases(), machine("two").leases(expiry=20.0)
    assert one.take(KEY)
    assert not two.take(KEY)
    one.release(KEY)
    deadline = time.monotonic() + 30
    while not two.take(KEY) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert two.holder(KEY) is not None
    two.close()


def set_back(store: CachedStore, path: str, seconds: float) -> None:
    """As if a file had been written that long ago, by the clock of the place."""
    full = f"{place(store)._top}/{path}"
    files: object = place(store)._files
    if isinstance(files, MemoryFileSystem):
        files.store[full].modified -= timedelta(seconds=seconds)
    elif isinstance(files, LocalFileSystem):
        then = os.stat(full).st_mtime - seconds
        os.utime(full, (then, then))
    else:
        from moto.s3.models import s3_backends

        bucket, _, name = full.partition("/")
        s3_backends["123456789012"]["aws"].buckets[bucket].keys[name].last_modified -= timedelta(seconds=seconds)


def claim_of_another_machine(store: CachedStore) -> None:
    process = Process("elsewhere", "another boot", os.getpid(), "1")
    place(store).put(f"claims/{KEY}", json.dumps(process._asdict() | {"token": "x"}).encode())


def test_the_claim_of_a_dead_machine_expires_by_the_clock_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("two")
    claim_of_another_machine(store)
    ahead = time.time() + 365 * 86400
    monkeypatch.setattr(time, "time", lambda: ahead)  # of no importance
    assert not store.leases(expiry=100).take(KEY)
    set_back(store, f"claims/{KEY}", 50)
    assert not store.leases(expiry=100).take(KEY)
    set_back(store, f"claims/{KEY}", 100)
    claims = store.leases(expiry=100)
    assert not claims.is_alive(KEY)
    assert claims.take(KEY)
    claims.close()


def test_a_live_claim_is_kept_alive(machine: Machine) -> None:
    store = machine("one")
    claims = store.leases(expiry=3.0)
    assert claims.take(KEY)
    set_back(store, f"claims/{KEY}", 1000)
    deadline = time.monotonic() + 30
    while claims.dead() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not machine("two").leases(expiry=100).take(KEY)
    claims.close()


def test_a_machine_that_wakes_leaves_the_new_owner_alone(machine: Machine) -> None:
    store = machine("one")
    sleeper = store.leases()
    assert sleeper.take(KEY)
    claim_of_another_machine(store)
    sleeper.release(KEY)
    holder = sleeper.holder(KEY)
    assert holder is not None
    assert holder.host == "elsewhere"
    sleeper.close()


def test_a_step_that_was_done_since_the_listing_is_not_done_again(machine: Machine) -> None:
    two = machine("two")
    assert not two.has(KEY)
    machine("one").write(START, {"digest": "x"}, state=STATE)
    assert run(two, Work((START,))) == [Cached(KEY)]


def test_claims_that_cannot_be_written_stop_nothing(machine: Machine, failing: Failing) -> None:
    claims = machine("one").leases()
    failing.times = 10**6
    assert claims.take(KEY)
    claims.close()


def test_gc_clears_what_dead_machines_left_and_nothing_else(machine: Machine) -> None:
    one = machine("one")
    one.write(init(1), {}, state=STATE)
    place(one).put(WEIGHTS, bytes(1000))
    claim_of_another_machine(one)
    claim = len(place(one).get(f"claims/{KEY}"))
    assert machine("two").gc() == 0
    set_back(one, WEIGHTS, 25 * 3600)
    set_back(one, f"claims/{KEY}", 1000)
    training = machine("two")
    checkpoint = training.root / "partial" / init(7).key
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(bytes(10))
    living = training.leases()
    assert living.take(init(7).key)
    assert training.gc() == 1000 + claim
    assert checkpoint.exists()
    living.close()
    assert training.gc() == 10
    assert list(training.stored()) == [init(1).key]
    assert list(training.verify()) == []


def test_a_newer_store_and_foreign_things_are_refused(machine: Machine, url: str) -> None:
    one = machine("one")
    place(one).put("prunetune-store.json", b'{"kind": "prunetune store", "schema_version": 99}')
    with refused("store", "99", "2", "knows"):
        machine("two")
    with refused("store", "99", "schema"):
        one.has(KEY)
    place(one).remove("prunetune-store.json")
    place(one).put("thesis/chapter.tex", b"x")
    with refused("store", url, "thesis"):
        machine("two")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    with refused("store", "prunetune[s3]"):
        CachedStore("s3://bucket/a")


def test_a_protocol_that_does_not_exist_is_refused() -> None:
    with refused("store", "s4://bucket/a", "s4", "URL", "Protocol"):
        CachedStore("s4://bucket/a")


ALONE = """
import sys
from tests.support.toy_study import small_study
from prunetune.execution.run_step import execute
from prunetune.store.cache import open_store
store, work = open_store(sys.argv[1]), small_study()
store.prepare()
for step in work.steps:
    execute(step, store, work.snapshots.get(step.key, ()))
"""


@pytest.mark.cluster
@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_what_one_process_has_brought_to_s3_another_one_finds(url: str, tmp_path: Path, machine: Machine) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "one")}
    subprocess.run([sys.executable, "-c", ALONE, url], env=environment, check=True)
    here, work = machine("two"), small_study()
    assert run(here, work) == [Cached(step.key) for step in work.steps]
    assert list(here.verify()) == []
