"""Trainings that two processes share, under torchrun: their results, a rank that is killed, and a study that is."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunetune.execution.events import Done, Event, Failed, Notice, Progress
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.run_step import execute
from prunetune.steps.steps import Step, Train, Weights
from prunetune.store.store import Store
from tests.support.processes import workers_of
from tests.support.refusals import refused
from tests.support.toy_study import ONE_EPOCH, Work, dense, init, prune, recipe, sparse

pytestmark = pytest.mark.cluster

SECONDS = 0.03  # a forward pass
START = init(0, "normless_net", seconds=SECONDS)


def study(devices: int | None) -> Work:
    """A dense run, a mask, and a sparse training, on so many devices; batches of 15 and one of 4."""
    how = replace(recipe(epochs=3), batch_size=15, augment=("crop", "flip"))
    theta_t = replace(dense(START, how), devices=devices)
    mask = prune(theta_t)
    ticket = replace(sparse(Weights(START), mask, how), devices=devices)
    return Work((START, theta_t, mask, ticket), {theta_t.key: frozenset({ONE_EPOCH})})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads processes and sockets from /proc")
def test_a_study_on_two_devices_whose_rank_is_killed(store: Store) -> None:
    work, alone = study(2), study(None)
    first, broken = work.steps[1], replace(dense(START), devices=2, device="nonsense")
    told: list[Event] = []
    for event in LocalExecutor(1, checkpoint_every=0.0).run(replace(work, steps=(*work.steps, broken)), store):
        told.append(event)
        if isinstance(event, Progress) and [e.kind for e in told].count("progress") == 2:
            workers = workers_of(store.root)
            assert len(workers) == 3  # torchrun and two ranks
            addresses = [address.partition(":")[0] for pid in workers for address in listening(pid)]
            assert set(addresses) == {"0100007F"}  # 127.0.0.1
            os.kill(second_rank(workers), signal.SIGKILL)
    done = [event.key for event in told if isinstance(event, Done)]
    failed = [event for event in told if isinstance(event, Failed)]
    notices = [event.message for event in told if isinstance(event, Notice)]
    assert workers_of(store.root) == []
    assert done == [step.key for step in work.steps]
    assert [(event.key, event.error) for event in failed] == [(broken.key, "RuntimeError")]  # all ranks': told once
    assert failed[0].message.startswith(f"Train {broken.key[:12]}: RuntimeError: ")
    what = f"Train {first.key[:12]}"
    assert notices[0].startswith(f"{what} is tried again: its worker ended with status 1; see ")
    assert notices[1:] in ([f"{what} goes on after epoch {epoch} of 3, from its checkpoint"] for epoch in (1, 2))
    assert not any("\n" in notice for notice in notices)
    beside = Store(store.root.parent / "alone")
    beside.prepare()
    for together, single in zip(work.steps, alone.steps, strict=True):
        execute(single, beside, alone.snapshots.get(single.key, ()))
        if isinstance(single, Train):
            compare(store, together, beside, single)
    zeros = store.mask(work.steps[2].key)
    state = store.state(work.steps[3].key)
    assert not any(state[name][~kept].any() for name, kept in zeros.items())
    assert list(store.verify()) == []


def compare(store: Store, together: Step, beside: Store, single: Step) -> None:
    """The same numbers within rounding, of the same images in the same order."""
    for name, tensor in beside.state(single.key).items():
        torch.testing.assert_close(store.state(together.key)[name], tensor, rtol=2e-4, atol=2e-5)
    ours, theirs = store.metrics(together.key), beside.metrics(single.key)
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    assert set(ours["invariants"]) - set(theirs["invariants"]) == {"ranks agree"}
    assert (ours["data_order_digest"], ours["density"]) == (theirs["data_order_digest"], theirs["density"])


def second_rank(workers: list[int]) -> int:
    """The process with `RANK=1` in its environment."""
    return next(pid for pid in workers if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def listening(pid: int) -> list[str]:
    """The addresses, as the system writes them, of the sockets on which a process listens."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists() or link.is_symlink()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.append(fields[1])
    return found


PARENT = """
import sys
from tests.execution.test_several_devices import study
from prunetune.execution.executors.local import LocalExecutor
from prunetune.store.store import Store
for event in LocalExecutor(1).run(study(2), Store(sys.argv[1])):
    print(event.kind, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads the process table from /proc")
def test_kill_9_of_the_study_leaves_no_rank(store: Store) -> None:
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TMPDIR": str(store.root.parent)}
    command = [sys.executable, "-c", PARENT, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | own) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != "progress":
            assert parent.poll() is None
        assert len(workers_of(store.root)) == 3
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while workers_of(store.root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(store.root) == []


def test_only_the_local_executor_brings_ranks_together(store: Store) -> None:
    execute(START, store)
    with refused("devices", "2", "local"):
        execute(study(2).steps[1], store)
    assert not store.has(study(2).steps[1].key)
