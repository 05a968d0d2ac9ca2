"""The local executor with real processes: order, failures, killed workers, a killed parent, damage."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.core.files import this_owner
from prunetune.core.references import Ref
from prunetune.execution import runner as drive
from prunetune.execution.events import Cached, Done, Event, Failed, Notice, Progress, Skipped, Started
from prunetune.execution.executors import local
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.run_step import execute
from prunetune.steps.steps import Step, Train, Weights
from prunetune.store.store import Store
from tests.support.disks import mounted
from tests.support.processes import workers_of
from tests.support.refusals import refused
from tests.support.toy_study import ONE_EPOCH, Work, dense, init, prune, recipe, small_study, sparse

START = init(0)
DENSE = dense(START)


def run(work: Work, store: Store, jobs: int = 1) -> list[Event]:
    return list(LocalExecutor(jobs).run(work, store))


def files(store: Store, work: Work) -> dict[str, bytes]:
    """All that must not depend on when and how a study was run: everything but manifests, which hold times."""
    return {
        f"{step.key}/{path.name}": path.read_bytes()
        for step in work.steps
        for path in store.folder(step.key).iterdir()
        if path.name != "manifest.json"
    }


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2"])
def test_a_number_of_jobs_that_begins_nothing_is_refused(jobs: Any) -> None:
    with refused("jobs", "whole number of at least 1"):
        LocalExecutor(jobs)


def test_a_whole_study_and_nothing_the_second_time(store: Store, finished: Store) -> None:
    work = small_study()
    events = run(work, store, jobs=2)
    assert [event for event in events if isinstance(event, Skipped | Failed | Notice)] == []
    done = [event.key for event in events if isinstance(event, Done)]
    assert sorted(done) == sorted(step.key for step in work.steps)
    assert [event.key for event in events if isinstance(event, Started)][:2] == [step.key for step in work.steps[:2]]
    trainings = [step for step in work.steps if isinstance(step, Train)]
    for step in trainings:
        assert [event.epoch for event in events if isinstance(event, Progress) and event.key == step.key] == [1, 2]
        assert all(done.index(parent.key) < done.index(step.key) for parent in step.parents)
    assert files(store, work) == files(finished, work)  # in this process and in workers: the same bytes
    assert {store.manifest(step.key)["environment"]["threads"] for step in work.steps} == {1}
    assert list((store.root / "logs").iterdir()) == []
    began = time.perf_counter()
    assert run(work, store) == [Cached(step.key) for step in work.steps]
    assert time.perf_counter() - began < 1.0  # no worker was started


@pytest.mark.cluster
def test_damage_is_put_aside_and_done_again(finished: Store) -> None:
    work = small_study()
    before = files(finished, work)
    damaged = [work.steps[2], work.steps[3], work.steps[5], work.steps[6]]
    paths = [
        finished.folder(step.key) / name
        for step, name in zip(
            damaged, ["state@1ep.safetensors", "mask.safetensors", "metrics.json", "step.json"], strict=True
        )
    ]
    for path in paths[:2]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    paths[2].write_bytes(paths[2].read_bytes()[:-7])
    paths[3].unlink()
    events = run(work, finished, jobs=2)
    notices = {event.key: event.message for event in events if isinstance(event, Notice)}
    assert notices.keys() == {step.key for step in damaged}
    whats = ["is not what was written", "is not what was written", "were written", "cannot be read: No such file"]
    for step, path, what in zip(damaged, paths, whats, strict=True):
        assert f"{path.name} " in notices[step.key]
        assert what in notices[step.key]
    assert {event.key for event in events if isinstance(event, Done)} == notices.keys()
    assert files(finished, work) == before
    assert len(list((finished.root / "quarantine").iterdir())) == len(damaged)
    assert list(finished.verify()) == []


@pytest.mark.cluster
def test_results_of_an_input_that_changed_are_done_again(finished: Store) -> None:
    """As when a lost dense run is done again on another type of CPU."""
    work = small_study()
    theta_t, ticket = work.steps[2], work.steps[4]
    assert isinstance(theta_t, Train)
    state, snapshot = finished.state(theta_t.key), finished.state(theta_t.key, ONE_EPOCH)
    state["0.bias"] += 1e-6
    metrics = finished.metrics(theta_t.key)
    finished.quarantine(theta_t.key)
    finished.write(theta_t, metrics, state=state, snapshots={ONE_EPOCH: snapshot})
    events = run(work, finished)
    redone = {event.key for event in events if isinstance(event, Notice)}
    assert redone == {step.key for step in work.steps if theta_t in step.parents and Weights(theta_t) in _reads(step)}
    assert len(redone) == 3  # the mask, finetune and the correlation; not the arms that read other files
    assert ticket.key not in redone
    assert list(finished.verify()) == []


def _reads(step: Step) -> list[Weights | None]:
    return [getattr(step, name, None) for name in ("start", "source", "first", "second")]


BAD = dense(START, recipe(loss=Ref.of("tests.support.toy_study:loss_per_image")))
GONE = dense(START, recipe(rate=1e20))
NAN = dense(START, recipe(loss=Ref.of("tests.support.toy_study:loss_not_a_number"), epochs=9))
HUNGRY = dense(init(0, "hungry_net"))
UNSEEDED, MISCALLED = init(0, "constant_net"), init(0, "net", no_such_argument=1)
SURPRISE = replace(DENSE, device="nonsense")
TROUBLES = Work(
    (
        UNSEEDED,
        MISCALLED,
        START,
        BAD,
        prune(BAD),
        sparse(Weights(START), prune(BAD)),
        GONE,
        prune(GONE),
        sparse(Weights(START), prune(GONE)),
        NAN,
        prune(NAN),
        HUNGRY.start.step,
        HUNGRY,
        SURPRISE,
        DENSE,
    ),
    {GONE.key: frozenset({ONE_EPOCH})},
)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Event]]:
    """One run in which much goes wrong."""
    store = Store(tmp_path_factory.mktemp("troubled") / "store")
    return store, run(TROUBLES, store)


@pytest.mark.cluster
def test_a_failure_stops_only_what_needs_it(troubled: tuple[Store, list[Event]]) -> None:
    store, events = troubled
    needs = [prune(BAD), sparse(Weights(START), prune(BAD))]
    failed = {event.key: event for event in events if isinstance(event, Failed)}
    assert failed.keys() == {step.key for step in (BAD, *needs, UNSEEDED, MISCALLED, HUNGRY, SURPRISE)}
    assert failed[BAD.key].error == "ConfigError"
    assert failed[BAD.key].message.startswith("recipe.loss: 'tests.support.toy_study:loss_per_image' returned shape")
    for step in needs:
        assert failed[step.key].error == "SourceFailed"
        assert failed[step.key].message.startswith(f"not run: Train {BAD.key[:12]} failed: recipe.loss")
    assert store.has(DENSE.key)


@pytest.mark.cluster
def test_every_kind_of_failure_is_one_line(troubled: tuple[Store, list[Event]]) -> None:
    store, events = troubled
    failed = {event.key: event for event in events if isinstance(event, Failed)}
    assert not any("\n" in event.message for event in failed.values())
    assert failed[UNSEEDED.key].error == "InvariantError"
    assert "initialiser seeded" in failed[UNSEEDED.key].message
    assert failed[MISCALLED.key].error == "ConfigError"
    assert failed[MISCALLED.key].message.startswith("model_args: unknown 'no_such_argument'")
    assert failed[HUNGRY.key].error == "ConfigError"
    assert failed[HUNGRY.key].message == (
        "recipe.batch_size: 16 images at a time take more memory than there is (1125899906842624 bytes at once); "
        "set a smaller one, such as recipe.batch_size=8, or run fewer trainings at once with --jobs"
    )
    assert failed[SURPRISE.key].error == "RuntimeError"
    assert failed[SURPRISE.key].message.startswith(f"Train {SURPRISE.key[:12]}: RuntimeError: ")
    logs = [path.read_text() for path in (store.root / "logs").iterdir()]
    assert len(logs) == 1
    assert "Traceback" in logs[0]  # of the surprise, for whoever must find out


@pytest.mark.cluster
def test_what_needs_a_diverged_training_is_blocked(troubled: tuple[Store, list[Event]]) -> None:
    store, events = troubled
    needs = {prune(GONE): GONE, sparse(Weights(START), prune(GONE)): GONE, prune(NAN): NAN}
    blocked = [
        Skipped(step.key, f"diverged source: Train {lost.key[:12]} at learning rate {lost.recipe.learning_rate:g}")
        for step, lost in needs.items()
    ]
    assert [event for event in events if isinstance(event, Skipped)] == blocked
    assert store.has(GONE.key, [ONE_EPOCH])
    again = Work(tuple(step for step in TROUBLES.steps if store.has(step.key) or _ancestors(step) & {GONE, NAN}))
    assert [
        event for event in run(again, store) if not isinstance(event, Cached)
    ] == blocked  # told again, and nothing is run again


@pytest.mark.cluster
def test_a_loss_that_explodes_or_is_none_leaves_a_sound_store_and_always_the_same(
    troubled: tuple[Store, list[Event]], tmp_path: Path
) -> None:
    store, _ = troubled
    other = Store(tmp_path / "store")
    other.prepare()
    for step in (START, GONE, NAN):
        execute(step, other, TROUBLES.snapshots.get(step.key, ()))
    losses = other.metrics(NAN.key)["train_loss"]
    assert losses[0] is not None  # it began well
    assert losses[-1] is None
    assert other.metrics(GONE.key)["diverged"]
    assert files(store, Work((START, GONE, NAN))) == files(other, Work((START, GONE, NAN)))
    assert list(store.verify()) == []


def _ancestors(step: Step) -> set[Step]:
    return {step, *(older for parent in step.parents for older in _ancestors(parent))}


@pytest.mark.cluster
def test_a_killed_worker_is_replaced_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    log = store.root / "logs" / f"{this_owner()}-{os.getpid()}-1.log"
    log.symlink_to(tmp_path / "none" / "log")  # no log: that stops nothing
    step = init(0, "deadly_net", marks=str(tmp_path / "marks"), deaths=1)
    events = run(Work((step,)), store)
    assert Counter(event.kind for event in events) == Counter(started=2, notice=1, done=1)
    assert "is tried again: its worker was killed by signal 9 (out of memory?)" in str(events)
    assert store.has(step.key)


@pytest.mark.cluster
def test_a_step_that_kills_twice_fails(store: Store, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    step = init(0, "deadly_net", marks=str(tmp_path / "marks"), deaths=9)
    events = run(Work((step, START)), store)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.key, event.error) for event in failed] == [(step.key, "WorkerDied")]
    assert failed[0].message.startswith(f"Init {step.key[:12]}: its worker was killed by signal 9")
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert store.has(START.key)


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds workers in /proc")
@pytest.mark.usefixtures("started_workers")
def test_a_worker_that_hangs_is_replaced_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training hangs once, the second one again and again: stopped in the middle of an epoch."""
    start = init(0, "slow_net")
    once, always = (dense(start, recipe(epochs=epochs)) for epochs in (2, 3))
    hangs = Counter({once.key: 1, always.key: 2})
    events: list[Event] = []
    for event in LocalExecutor(1).run(Work((start, once, always)), store):
        events.append(event)
        monkeypatch.setattr(local, "SILENCE", 3600.0)  # a new worker takes its time to start
        if isinstance(event, Progress) and hangs[event.key]:
            hangs[event.key] -= 1
            for pid in workers_of(store.root):
                os.kill(pid, signal.SIGSTOP)
            monkeypatch.setattr(local, "SILENCE", 0.6)
    silent = "its worker gave no sign of life for 0 min"
    assert [event.message for event in events if isinstance(event, Notice)] == [
        f"Train {step.key[:12]} is tried again: {silent}" for step in (once, always)
    ]
    assert [event for event in events if isinstance(event, Failed)] == [
        Failed(always.key, f"Train {always.key[:12]}: {silent}, 2 times", "WorkerDied")
    ]
    assert workers_of(store.root) == []
    undisturbed = Store(tmp_path / "undisturbed")
    undisturbed.prepare()
    for step in (start, once):
        execute(step, undisturbed)
    assert files(store, Work((start, once))) == files(undisturbed, Work((start, once)))
    assert list(store.verify()) == []


def test_a_sign_of_life_ends_a_silence_and_sleep_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should everything have been stopped (Ctrl-Z, a lid that was closed), nobody has been silent meanwhile."""
    run = local.LocalWorkers(store, 2)
    talking, silent = (local.Worker.__new__(local.Worker) for _ in range(2))
    talking.silent = silent.silent = 5.0
    talking.step = silent.step = START
    run._workers += [talking, silent]
    run._inbox.put((talking, b""))
    now = iter([0.0, 86400.0])
    monkeypatch.setattr(local.time, "monotonic", lambda: next(now))
    assert list(run.wait(0.5)) == []
    assert (talking.silent, silent.silent) == (0.0, 5.5)
    run._workers.remove(silent)
    run._inbox.put((silent, b"what it had to say when it was given up"))
    monkeypatch.undo()
    assert list(run.wait(0.5)) == []


@pytest.fixture
def listening() -> Iterator[None]:
    """What is started in a shell's background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(work: Work, store: Store, when: Callable[[Event], bool]) -> None:
    """Do the work, with a Ctrl-C at every event that is such."""
    with closing(LocalExecutor(1).run(work, store)) as events:
        for event in events:
            if when(event):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.cluster
@pytest.mark.usefixtures("listening")
def test_ctrl_c_lets_trainings_end_with_their_epoch(store: Store, tmp_path: Path) -> None:
    start = init(0, "slow_net")
    step = dense(start, recipe(epochs=12))
    events: list[Event] = []

    def second_epoch(event: Event) -> bool:
        events.append(event)
        return isinstance(event, Progress) and event.epoch == 2

    with pytest.raises(KeyboardInterrupt):
        interrupt(Work((start, step)), store, second_epoch)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == [f"Train {step.key[:12]} ends with its epoch, or after 10 s; Ctrl-C again ends it now"]
    done = max(event.epoch for event in events if isinstance(event, Progress))
    assert 2 <= done < 12
    assert list((store.root / "claims").glob("[!.]*")) == []
    later: list[Event] = []
    execute(step, store, tell=later.append)
    assert f"Train {step.key[:12]} goes on after epoch {done} of 12, from its checkpoint" in str(later)
    undisturbed = Store(tmp_path / "undisturbed")
    undisturbed.prepare()
    for one in (start, step):
        execute(one, undisturbed)
    assert files(store, Work((start, step))) == files(undisturbed, Work((start, step)))
    assert list(store.verify()) == []


@pytest.mark.cluster
@pytest.mark.usefixtures("listening", "started_workers")
@pytest.mark.parametrize("grace", [0.0, 1e6])
def test_an_epoch_without_end_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch, grace: float) -> None:
    """Either the time is up, or a second Ctrl-C comes."""
    monkeypatch.setattr(drive, "GRACE", grace)
    start = init(0, "slow_net", seconds=1e6)
    step = dense(start)

    def worth_it(event: Event) -> bool:
        return event == Started(step.key) or (isinstance(event, Notice) and grace > 0)

    with pytest.raises(KeyboardInterrupt):
        interrupt(Work((start, step)), store, worth_it)
    assert workers_of(store.root) == []
    assert not store.has(step.key)
    assert not (store.root / "partial" / step.key).exists()


def test_a_store_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused("store", "write"):
        run(Work((START,)), Store(tmp_path / "file" / "store"))


@pytest.mark.cluster
def test_a_disk_that_fills_in_the_middle_fails_in_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=256k"):
        store = Store(tmp_path)
        steps = tuple(init(seed) for seed in range(40))
        events = run(Work(steps), store)
        failed = [event for event in events if isinstance(event, Failed)]
        assert failed
        assert {event.error for event in failed} == {"ConfigError"}
        assert all("No space left on device; make room" in event.message for event in failed)
        done = {event.key for event in events if isinstance(event, Done)}
        assert done == {step.key for step in steps if store.has(step.key)} != set()
        assert list(store.verify()) == []


PARENT = """
import sys
from tests.support.toy_study import small_study
from prunetune.execution.executors.local import LocalExecutor
from prunetune.store.store import Store
store, jobs, seconds = sys.argv[1:]
for event in LocalExecutor(int(jobs)).run(small_study("slow_net", seconds=float(seconds)), Store(store)):
    print(event.kind, getattr(event, "message", ""), flush=True)
"""


def start_study(store: Path, jobs: int, seconds: float) -> subprocess.Popen[str]:
    """A user's script, without a main guard, in a process of its own."""
    script = store.parent / "script.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(store), str(jobs), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads the process table from /proc")
def test_kill_9_of_the_parent_leaves_no_orphan_and_loses_nothing(tmp_path: Path) -> None:
    work = small_study("slow_net", seconds=0.06)
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    whole.prepare()
    for step in work.steps:
        execute(step, whole, work.snapshots.get(step.key, ()))
    with start_study(killed.root, jobs=2, seconds=0.06) as parent:
        assert parent.stdout is not None
        kinds: Counter[str] = Counter()
        while kinds["done"] < 4 or kinds["progress"] < 3:  # in the middle of the arms
            kinds[parent.stdout.readline().split()[0]] += 1
        assert workers_of(killed.root)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while workers_of(killed.root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(killed.root) == []
    left = [step for step in work.steps if not killed.has(step.key)]
    assert 0 < len(left) < len(work.steps)
    assert list(killed.verify()) == []
    events = run(work, killed, jobs=2)
    assert {event.key for event in events if isinstance(event, Done)} == {step.key for step in left}
    assert files(killed, work) == files(whole, work)
    assert list(killed.verify()) == []
    killed.gc()
    assert not list(killed.root.rglob(".tmp-*"))


@pytest.mark.cluster
@pytest.mark.usefixtures("started_workers")
def test_closing_the_iterator_ends_the_workers(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    events = LocalExecutor(1).run(Work((init(0, "slow_net"), dense(init(0, "slow_net"), recipe(epochs=50)))), store)
    for event in events:
        if isinstance(event, Progress):
            break
    events.close()  # type: ignore[attr-defined]
    assert workers_of(store.root) == []


@pytest.mark.cluster
@pytest.mark.usefixtures("started_workers")
def test_workers_see_the_parents_modules_and_none_of_its_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user's module on a path added at run time, which prints; a file in the current folder that shadows nothing."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_networks.py").write_text(
        "import sys\nfrom tests.support import toy_study\n"
        "def talkative(input_shape, outputs):\n"
        "    print('hello'); print('trouble', file=sys.stderr); sys.stdin.read()\n"
        "    return toy_study.net(input_shape, outputs)\n"
    )
    (tmp_path / "random.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    store = Store(tmp_path / "store")
    events = run(Work((replace(START, model=Ref.of("my_networks:talkative")),)), store)
    assert [event.kind for event in events] == ["started", "done"]
    assert capfd.readouterr() == ("", "")
    logs = [path.read_text() for path in (store.root / "logs").iterdir()]
    assert len(logs) == 1
    assert "hello" in logs[0]
    assert "trouble" in logs[0]
