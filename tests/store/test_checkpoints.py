"""Checkpoints of trainings under way: killed for real, damaged, of another origin, on a full disk, cleared away."""

import hashlib
import io
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from prunetune.execution import run_step as module
from prunetune.execution.events import Event, Notice, Progress
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.run_step import execute
from prunetune.steps.steps import Train, Weights
from prunetune.store import checkpoints as partial
from prunetune.store.store import Store
from prunetune.training.admm import Penalty
from tests.support.forked import run_forked
from tests.support.toy_study import ONE_EPOCH, Work, dense, init, prune, recipe, sparse

START = init()
MASK = prune(dense(START))
EPOCHS = 6
LONG = recipe(epochs=EPOCHS)
KINDS = {
    "plain": dense(START, LONG),
    "masked": sparse(Weights(START), MASK, LONG),
    "admm": Train(
        Weights(START), None, LONG, dense(START).data, order_seed=1, augment_seed=2, penalty=Penalty(0.5, rho=1.0)
    ),
    "bf16": dense(START, recipe(epochs=EPOCHS, precision="bf16", augment=("crop",))),
}
FILES = ("metrics.json", "state.safetensors", "state@1ep.safetensors", "step.json")


def train_and_be_killed(store: Path, kind: str, epoch: int) -> None:
    def tell(event: Event) -> None:
        if isinstance(event, Progress) and event.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    execute(KINDS[kind], Store(store), [ONE_EPOCH], tell, checkpoint_every=0.0)


@pytest.fixture
def ground(store: Store) -> Store:
    """A store with what the trainings of this page start from."""
    for step in (START, dense(START), MASK):
        execute(step, store)
    return store


def kill(store: Store, kind: str, epoch: int) -> None:
    """Train in a process that is killed before the checkpoint of that epoch is written."""
    assert run_forked(train_and_be_killed, store.root, kind, epoch) == -signal.SIGKILL
    assert not store.has(KINDS[kind].key)


def go_on(store: Store, kind: str) -> tuple[list[int], list[str]]:
    """Train to the end; the epochs that were trained, and what was noticed."""
    events: list[Event] = []
    execute(KINDS[kind], store, [ONE_EPOCH], events.append, checkpoint_every=0.0)
    assert not checkpoint(store, kind).exists()
    return [e.epoch for e in events if isinstance(e, Progress)], [e.message for e in events if isinstance(e, Notice)]


def checkpoint(store: Store, kind: str) -> Path:
    return store.root / "partial" / KINDS[kind].key


def contents(store: Store, kind: str) -> dict[str, bytes]:
    return {name: store.read(KINDS[kind].key, name) for name in FILES}


@pytest.fixture
def undisturbed(ground: Store, tmp_path: Path) -> Store:
    other = Store(tmp_path / "undisturbed")
    other.prepare()
    for step in (START, dense(START), MASK):
        execute(step, other)
    return other


@pytest.mark.cluster
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_has_the_same_bytes(ground: Store, undisturbed: Store, kind: str) -> None:
    kill(ground, kind, 3)
    kill(ground, kind, 5)
    epochs, notices = go_on(ground, kind)
    assert epochs == [5, 6]
    assert notices == [f"Train {KINDS[kind].key[:12]} goes on after epoch 4 of 6, from its checkpoint"]
    execute(KINDS[kind], undisturbed, [ONE_EPOCH])
    assert contents(ground, kind) == contents(undisturbed, kind)
    assert list(ground.verify()) == []


@pytest.mark.cluster
@pytest.mark.parametrize("how", ["flipped", "torn", "empty", "no pickle", "of another type"])
def test_a_damaged_checkpoint_is_not_gone_on_from(ground: Store, how: str) -> None:
    kill(ground, "plain", 4)
    path = checkpoint(ground, "plain")
    content = path.read_bytes()
    damaged = {
        "flipped": content[:999] + bytes([content[999] ^ 1]) + content[1000:],
        "torn": content[: len(content) // 2],
        "empty": b"",
        "no pickle": signed(b"hello"),
        "of another type": signed(hostile()),
    }
    path.write_bytes(damaged[how])
    epochs, notices = go_on(ground, "plain")
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert len(notices) == 1
    assert "starts over: its checkpoint " in notices[0]
    assert "\n" not in notices[0]
    assert not HOSTILE.exists()


HOSTILE = Path(tempfile.gettempdir()) / f"prunetune-was-here-{os.getpid()}"


def signed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def hostile() -> bytes:
    """A checkpoint with a right checksum that would run a command if it were unpickled freely."""

    class Command:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {HOSTILE}",)

    buffer = io.BytesIO()
    torch.save({"about": Command()}, buffer)
    return buffer.getvalue()


@pytest.mark.cluster
@pytest.mark.parametrize("what", ["environment", "inputs"])
def test_one_of_another_origin_is_not_gone_on_from(ground: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Half of a training on one machine and half on another could be repeated on neither."""
    kill(ground, "plain", 4)
    if what == "environment":
        real = module.fingerprint
        monkeypatch.setattr(module, "fingerprint", lambda *args: {**real(*args), "cpu": "another"})
    else:
        state = ground.state(START.key)
        metrics = ground.metrics(START.key)
        ground.quarantine(START.key)
        ground.write(START, metrics, state={name: tensor * 2 for name, tensor in state.items()})
    epochs, notices = go_on(ground, "plain")
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert "starts over: its checkpoint was made in another environment or from other inputs" in notices[0]


def test_short_trainings_leave_none(ground: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(partial, "replace_file", lambda path, content: written.append(path))
    execute(KINDS["plain"], ground)
    assert written == []
    assert partial.EVERY == 60.0


def test_a_minute_must_pass_between_two(ground: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    now = [0.0]
    monkeypatch.setattr(partial.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(partial, "replace_file", lambda path, content: written.append(now[0]))

    def tell(event: Event) -> None:
        now[0] += 25.0  # an epoch

    execute(KINDS["plain"], ground, (), tell)
    assert written == [75.0]  # the next would be at 150, the end of the training


def test_a_full_disk_costs_the_checkpoint_only(ground: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial, "replace_file", full)
    epochs, notices = go_on(ground, "plain")
    assert epochs == [1, 2, 3, 4, 5, 6]
    key = KINDS["plain"].key[:12]
    assert set(notices) == {f"Train {key} no checkpoint could be written: No space left on device"}
    assert not list(ground.root.rglob(".tmp-*"))


@pytest.mark.cluster
def test_gc_clears_what_nobody_is_at(ground: Store) -> None:
    kill(ground, "plain", 3)
    size = checkpoint(ground, "plain").stat().st_size
    claims = ground.leases()
    assert claims.take(KINDS["plain"].key)
    assert ground.gc() == 0
    claims.close()
    assert ground.gc() == size
    assert go_on(ground, "plain")[0] == [1, 2, 3, 4, 5, 6]


@pytest.mark.cluster
def test_what_a_kill_leaves_right_after_the_result_is_cleared(ground: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is stored, and is only found by what goes on; the checkpoint of one under way is left alone."""
    monkeypatch.setattr(module, "discard", lambda root, key: None)  # the process is gone by then
    execute(KINDS["plain"], ground, checkpoint_every=0.0)
    kill(ground, "bf16", 3)
    assert checkpoint(ground, "plain").exists()
    work = Work((START, KINDS["plain"]))
    assert [event.kind for event in LocalExecutor(1).run(work, ground)] == ["found", "found"]
    assert not checkpoint(ground, "plain").exists()
    assert checkpoint(ground, "bf16").exists()
