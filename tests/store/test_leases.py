"""Claims: one process at a step, the dead make room, and nothing that a process does about a lost claim hurts."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunetune.core.files import this_machine
from prunetune.store.leases import Process
from prunetune.store.store import Store
from tests.support.toy_study import init

KEY = init().key


def age(store: Store, seconds: float, key: str = KEY) -> None:
    path = store.root / "claims" / key
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def of_another_machine(store: Store, key: str = KEY) -> Path:
    """A claim as a process of another machine leaves it: of that nothing is known but its age."""
    path = store.root / "claims" / key
    path.write_text(json.dumps(Process("elsewhere", "another boot", os.getpid(), "1")._asdict() | {"token": "x"}))
    return path


def test_one_at_a_time(store: Store) -> None:
    one, two = store.leases(), store.leases()
    assert one.take(KEY)
    assert one.take(KEY)  # for a second attempt
    assert not two.take(KEY)
    assert two.take(init(1).key)  # another step is free
    assert two.holder(KEY) == Process.this()
    assert str(two.holder(KEY)).startswith(f"process {os.getpid()} on ")
    one.release(KEY)
    assert two.take(KEY)
    two.close()
    assert two.holder(KEY) is None
    assert list((store.root / "claims").glob("[!.]*")) == []


def test_a_dead_process_of_this_machine_makes_room_at_once(store: Store) -> None:
    script = "import sys, os, signal; from prunetune.store.store import Store\n"
    script += "assert Store(sys.argv[1]).leases().take(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([sys.executable, "-c", script, str(store.root), KEY]) as dead:
        deadline = time.monotonic() + 60
        while not store.leases().dead() and time.monotonic() < deadline:  # a zombie, as nobody has waited for it
            time.sleep(0.05)
        assert dead.returncode is None
        assert store.leases().take(KEY)


def test_a_process_id_that_was_given_again_is_no_sign_of_life(store: Store) -> None:
    process = Process.this()
    if not process.started:
        pytest.skip("this system does not tell when a process started")
    assert not process.is_gone()
    assert process._replace(started="1").is_gone()
    assert not process._replace(started="1", machine="another boot").is_gone()


def test_a_silent_process_elsewhere_expires_and_a_live_one_does_not(store: Store) -> None:
    of_another_machine(store)
    claims = store.leases(expiry=100)
    assert not claims.take(KEY)
    age(store, 50)
    assert not claims.take(KEY)
    assert claims.is_alive(KEY)
    age(store, 100)
    assert not claims.is_alive(KEY)
    assert claims.take(KEY)


def test_age_is_by_the_clock_of_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is a year ahead of the file system's: claims must not look a year old."""
    of_another_machine(store)
    ahead = time.time() + 365 * 86400
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert not store.leases(expiry=100).take(KEY)


def test_a_live_claim_is_kept_alive(store: Store) -> None:
    claims = store.leases(expiry=0.5)
    assert claims.take(KEY)
    age(store, 1000)
    deadline = time.monotonic() + 30
    while claims.dead() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not store.leases(expiry=100).take(KEY)
    claims.close()


def test_a_process_that_wakes_leaves_the_new_owner_alone(store: Store) -> None:
    sleeper, other = store.leases(), store.leases()
    assert sleeper.take(KEY)
    age(store, 1000)
    assert other.take(KEY)
    before = (store.root / "claims" / KEY).read_bytes()
    sleeper.release(KEY)
    assert (store.root / "claims" / KEY).read_bytes() == before
    assert not sleeper.take(KEY)


@pytest.mark.cluster
def test_of_many_that_find_a_dead_claim_one_gets_it(store: Store) -> None:
    """Processes and not threads: each waits for the starting shot, then takes every step that a dead one had."""
    keys = [init(seed).key for seed in range(40)]
    for key in keys:
        of_another_machine(store, key)
        age(store, 1000, key)
    script = "import sys, time; from prunetune.store.store import Store\n"
    script += (
        "root, *keys = sys.argv[1:]; claims = Store(root).leases(); print('here', flush=True); sys.stdin.readline()\n"
    )
    script += "print(*[key for key in keys if claims.take(key)], flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", script, str(store.root), *keys]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken: list[list[str]] = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        taken.append(process.stdout.readline().split())
    for process in processes:
        process.communicate("end\n")
    assert sorted(key for one in taken for key in one) == sorted(keys)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"host": 1}', b'{"host":"","machine":"","pid":"x","started":""}']
)
def test_a_claim_that_makes_no_sense_counts_until_it_is_old(store: Store, content: bytes) -> None:
    """It may be one that is being written."""
    (store.root / "claims" / KEY).write_bytes(content)
    claims = store.leases()
    assert claims.holder(KEY) is None
    assert not claims.take(KEY)
    age(store, 1000)
    assert claims.take(KEY)


def test_a_full_disk_does_not_stop_what_needs_no_claim(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **named: object):
        if "x" in mode:
            path.touch()
            raise OSError(28, "No space left on device")
        return real(path, mode, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    claims = store.leases()
    assert claims.take(KEY)
    assert not (store.root / "claims" / KEY).exists()
    claims.close()


def test_gc_removes_dead_claims_only(store: Store) -> None:
    living = store.leases()
    assert living.take(init(1).key)
    size = of_another_machine(store).stat().st_size
    assert store.gc() == 0
    age(store, 1000)
    assert store.gc() == size
    assert [path.name for path in (store.root / "claims").glob("[!.]*")] == [init(1).key]
    living.close()


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_living_keep_their_claims_and_the_silent_lose_them(store: Store) -> None:
    living, other = store.leases(), store.leases()
    of_another_machine(store)
    assert living.take(init(1).key)
    assert not other.take(init(1).key)
    assert not other.take(KEY)
    age(store, 1000)
    assert other.dead() == [KEY]
    assert other.take(KEY)
    living.release(init(1).key)
    assert other.take(init(1).key)
    of_another_machine(store, init(2).key)
    age(store, 1000, init(2).key)
    assert store.gc() > 0
    other.close()
    assert list((store.root / "claims").glob("[!.]*")) == []


def test_for_whom_a_step_waits(store: Store) -> None:
    claims = store.leases()
    assert claims.take(KEY)
    age(store, 40)
    who = re.escape(str(Process.this()))
    when = r"2\d{3}-\d\d-\d\d [0-9:]{8}\+00:00"
    assert re.fullmatch(rf"{who}, since {when}, last sign of life 4\d s ago", claims.story(KEY))
    assert claims.way_out(KEY) == f"after 300 s without such a sign, or as soon as {store.root}/claims/{KEY} is removed"
    (store.root / "claims" / KEY).unlink()
    assert claims.story(KEY) == "another process"
    assert store.leases().take(KEY)
    claims.close()  # which is not its own any more
    assert claims.holder(KEY) is not None


def test_containers_with_one_host_name_and_the_same_process_ids(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither says which it is: what one knows of its own processes says nothing of the other's."""
    real = Path.readlink
    monkeypatch.setattr(Path, "readlink", lambda path: real(path / "none" if path.is_relative_to("/proc") else path))
    this_machine.cache_clear()
    one = store.leases()
    assert one.take(KEY)
    this_machine.cache_clear()
    two = store.leases()
    holder = two.holder(KEY)
    assert holder is not None
    assert holder._replace(machine="") == Process.this()._replace(machine="")
    assert holder != Process.this()
    monkeypatch.setattr("prunetune.store.leases.is_alive", lambda pid: False)  # no such process in the other one
    assert not two.take(KEY)
    assert two.dead() == []
    one.close()
    this_machine.cache_clear()


@pytest.mark.cluster
def test_containers_of_one_machine(store: Store) -> None:
    """The same host name and the same process id in another namespace of processes, and both live."""
    script = "import sys, os; from prunetune.store.store import Store\n"
    script += "claims = Store(sys.argv[1]).leases()\n"
    script += "print(os.getpid(), claims.take(sys.argv[2]), claims.dead(), flush=True); sys.stdin.readline()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script, str(store.root), KEY]
    if shutil.which("unshare") is None or subprocess.run([*command[:4], "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of processes to be had")
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as one,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as two,
    ):
        told = []
        for process in (one, two):
            assert process.stdout is not None
            told.append(process.stdout.readline())
        assert sorted(told) == ["1 False []\n", "1 True []\n"]
        assert not store.leases().take(KEY)
        for process in (one, two):
            process.communicate("end\n")
