"""Progress: what is shown of a study that others work at too, and an honest time left."""

import io

import pytest
from rich.console import Console

from prunetune.cli.options import exit_code
from prunetune.execution import progress as module
from prunetune.execution.events import SOURCE_FAILED, Cached, Done, Failed, Notice, Skipped, Started, Waiting
from prunetune.execution.events import Progress as EpochDone
from prunetune.execution.progress import Pace, Progress, duration_range
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from prunetune.steps.quantities import MeasureBarrier
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.support.toy_study import TINY_AUDIT

STUDY = TINY_AUDIT | {"model": "tests.support.toy_study:net", "model_args": {}}  # four trainings of ten epochs


@pytest.fixture
def shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Progress, list[str], list[float]]:
    """The consumer at work on four trainings of ten epochs, their keys, and the clock."""
    planned, now = plan(load_spec(STUDY)), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    consumer = Progress(planned, planned.remaining(store), Console(file=io.StringIO(), width=200))
    return consumer, [step.key for step in planned.steps if isinstance(step, Train)], now


def text(consumer: Progress) -> str:
    assert isinstance(consumer.console.file, io.StringIO)
    return consumer.console.file.getvalue()


def test_time_left_counts_what_was_trained_here(shown: tuple[Progress, list[str], list[float]]) -> None:
    consumer, keys, now = shown
    now[0] = 30.0  # the worker imports torch
    consumer(EpochDone(keys[0], 1, 10, 0.5))
    assert consumer.time_left() == ""
    for epoch in (2, 3):
        now[0] += 2.0
        consumer(EpochDone(keys[0], epoch, 10, 0.5))
    assert consumer.time_left() == "about 74 s left"  # 37 epochs of 2 s
    consumer(Cached(keys[1]))
    assert consumer.time_left() == "about 54 s left"
    assert consumer.finished == 1
    consumer(Done(keys[0], {}, 1.0))
    now[0] += 2.0
    consumer(EpochDone(keys[2], 8, 10, 0.5))  # from a checkpoint after seven epochs, which took no time here
    assert consumer.time_left() == "about 24 s left"


def run(pace: Pace, workers: int, epoch: float, count: int, start: float) -> float:
    """Let each worker train `count` epochs of so many seconds, side by side; returns when the last ends."""
    for number in range(1, count + 1):
        pace.ends.extend([start + number * epoch + 0.01 * worker for worker in range(workers)])
    return start + count * epoch


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_epochs_that_end_together_are_no_faster(workers: int) -> None:
    pace = Pace()
    now = run(pace, workers, 6.0, 2, 100.0)
    for _ in range(30):
        now = run(pace, workers, 6.0, 1, now)
        low, high = pace.seconds(now + 0.01 * workers, workers) or (0.0, 0.0)
        assert low == pytest.approx(6.0 / workers, rel=0.35)
        assert high == pytest.approx(6.0 / workers, rel=0.35)


def test_the_range_follows_the_load() -> None:
    pace = Pace()
    now = run(pace, 2, 2.0, 100, 0.0)
    assert pace.seconds(now, 2) == pytest.approx((1.0, 1.0), rel=0.05)
    now = run(pace, 2, 6.0, 8, now)  # somebody else's program begins
    low, high = pace.seconds(now, 2) or (0.0, 0.0)
    assert (low < 1.5, high > 2.5) == (True, True)
    now = run(pace, 2, 6.0, 60, now)
    assert pace.seconds(now, 2) == pytest.approx((3.0, 3.0), rel=0.05)
    _, high = pace.seconds(now + 600.0, 2) or (0.0, 0.0)  # and nothing ends any more
    assert high > 12


def test_a_chain_takes_as_long_as_its_rounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of iterative pruning wait for one another, whatever the number of workers."""
    study = STUDY | {"masks": ["iterative"], "arms": ["ticket"], "sparsities": [0.2, 0.4, 0.6, 0.8]}
    planned, now = plan(load_spec(study)), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    consumer = Progress(planned, planned.remaining(store), Console(file=io.StringIO(), width=200))
    dense = next(step for step in planned.steps if isinstance(step, Train) and step.mask is None)
    for other in range(7):  # workers that are at something else
        consumer.running.add(f"other {other}")
    for epoch in range(1, 5):
        now[0] += 8.0
        consumer(EpochDone(dense.key, epoch, 10, 0.5))
        for _ in range(7):
            consumer.pace.ends.append(now[0])
    assert consumer.time_left() == "about 6.1 min left"  # 46 epochs of 8 s, and not an eighth of it


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(40, 40.2, "40 s"), (40, 90, "40 to 90 s"), (40, 210, "40 s to 3.5 min"), (3600, 1e6, "60.0 min to 12 days")],
)
def test_a_range_of_durations(low: float, high: float, words: str) -> None:
    assert duration_range(low, high) == words


def test_after_the_last_training_the_other_steps_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, now = plan(load_spec(STUDY | {"measure": ["barriers"]})), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    consumer = Progress(planned, planned.remaining(store), Console(file=io.StringIO(), width=200))
    others = [step for step in planned.steps if not isinstance(step, Train)]
    barrier = next(step for step in others if isinstance(step, MeasureBarrier))
    now[0] = 16.0
    consumer(Started(others[0].key))
    for step in planned.steps:
        if isinstance(step, Train):
            consumer(Cached(step.key))
    now[0] = 32.0
    consumer(Done(barrier.key, {"test_accuracy": [50.0, 40.0, 50.0]}, 1.0))
    assert consumer.finished == 4
    assert text(consumer).splitlines() == ["0 of 4 trainings", f"4 of 4 trainings, 1 of {len(others)} other steps"]


def test_what_one_cause_keeps_from_running_is_one_line(shown: tuple[Progress, list[str], list[float]]) -> None:
    consumer, keys, _ = shown
    for key in keys[:3]:
        consumer(Skipped(key, "diverged source: Train abc at learning rate 0.1"))
    consumer(Skipped(keys[3], "diverged source: Train def at learning rate 0.1"))
    assert text(consumer).splitlines() == [
        "not run: what needs a diverged source: Train abc at learning rate 0.1",
        "not run: what needs a diverged source: Train def at learning rate 0.1",
    ]


def test_a_failure_is_said_once_and_not_again_of_what_needs_the_step(
    shown: tuple[Progress, list[str], list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    consumer, keys, _ = shown
    consumer(Failed(keys[0], "disk is full", "OSError"))
    for key in keys[1:]:
        consumer(Failed(key, "not run: Train abc failed: disk is full", SOURCE_FAILED))
    assert text(consumer).splitlines() == ["failed: dense lr 0.05 seed 0: disk is full"]
    rows = ["dense None seed 0: failed: disk is full", "ticket seed 0: failed: not run: Train abc failed: disk is full"]
    assert exit_code([*rows, "data order: a breach"], consumer.said) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: data order: a breach",
        "failed: 2 results missing, for the reasons said above",
    ]


def test_a_failure_that_was_not_said_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["dense None seed 0: failed: disk is full"]) == 1
    assert capsys.readouterr().err == "failed: dense None seed 0: failed: disk is full\n"
    assert exit_code([]) == 0


def test_waiting_is_said(shown: tuple[Progress, list[str], list[float]]) -> None:
    consumer, keys, _ = shown
    consumer(Waiting(keys[0], "process 7 on there", "after 300 s"))
    consumer(Notice(keys[0], "goes on"))
    assert text(consumer).splitlines() == [
        "waiting for another process (process 7 on there): dense lr 0.05 seed 0; done here after 300 s",
        "notice: dense lr 0.05 seed 0: goes on",
    ]
