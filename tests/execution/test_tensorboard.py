"""TensorBoard: the curves that it reads are what the store holds, whatever happened on the way."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.cli import main as cli
from prunetune.execution.events import Cached, Done, Event, Progress, Started
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, labels, plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.cli.test_progress import STUDY

pytest.importorskip("tensorboard", reason="the optional extra tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunetune.execution.training_log import Curves, TrainingLog

Curve = list[tuple[int, float]]


def read(folder: Path) -> dict[str, Curve]:
    """Tag -> (step, value), as TensorBoard shows them."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(metrics: dict[str, Any]) -> dict[str, Curve]:
    """The curves by the metrics alone; TensorBoard keeps float32."""
    last = metrics["epochs"]
    ends = {"loss/test": metrics["test_loss"], "accuracy/test": metrics["test_accuracy"]}
    return {
        "loss/train": list(enumerate(metrics["train_loss"], 1)),
        **{tag: [(last, end)] for tag, end in ends.items()},
    }


def assert_drawn(folder: Path, metrics: dict[str, Any]) -> None:
    found, wanted = read(folder), expected(metrics)
    assert found.keys() == wanted.keys()
    for tag, curve in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in curve]
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in curve], rel=1e-6)


@pytest.fixture
def planned() -> Plan:
    recipe = STUDY["recipe"] | {"epochs": 3}
    return plan(load_spec(STUDY | {"recipe": recipe, "arms": ["ticket"], "measure": ["movement"]}))


@pytest.fixture
def done(planned: Plan, store: Store) -> list[Event]:
    """The study's events, in order."""
    events: list[Event] = []
    for step in planned.steps:
        events.append(Started(step.key))
        finished = execute(step, store, planned.snapshots.get(step.key, ()), events.append)
        events.append(Done(step.key, *finished))
    return events


def draw(events: list[Event], planned: Plan, store: Store, folder: Path) -> None:
    """The seeds are added in the course of the study."""
    curves = Curves(replace(planned, steps=(), trials=(), connections=()), store, folder)
    curves.more(planned, planned.remaining(store))
    for event in events:
        curves(event)
    curves.close()


def test_curves_are_the_metrics(planned: Plan, store: Store, done: list[Event], tmp_path: Path) -> None:
    draw(done, planned, store, tmp_path / "live")
    draw([Cached(step.key) for step in planned.steps], planned, store, tmp_path / "later")
    trainings = {step.key: labels(planned)[step.key] for step in planned.steps if isinstance(step, Train)}
    assert len(trainings) == 2
    for folder in (tmp_path / "live", tmp_path / "later"):
        assert {path.name for path in folder.iterdir()} == set(trainings.values())
        for key, name in trainings.items():
            assert_drawn(folder / name, store.metrics(key))


def test_the_log_has_a_line_for_each_training_and_none_for_a_measurement(
    planned: Plan, store: Store, done: list[Event], tmp_path: Path
) -> None:
    assert planned.quantities
    log = TrainingLog(planned, tmp_path)
    for event in done:
        log(event)
    lines = [line.split("\t") for line in (tmp_path / "trainings.log").read_text().splitlines()]
    trainings = [step.key for step in planned.steps if isinstance(step, Train)]
    assert [line[-1] for line in lines] == trainings
    assert [line[2] for line in lines] == [f"{store.metrics(key)['test_accuracy']:.2f} %" for key in trainings]


def test_what_was_interrupted_is_one_curve(planned: Plan, store: Store, done: list[Event], tmp_path: Path) -> None:
    """A worker is killed after the second epoch, and then the study; what was found later changes nothing."""
    key = next(step.key for step in planned.steps if isinstance(step, Train))
    first, second = [e for e in done if isinstance(e, Progress) and e.key == key][:2]
    wrong = [Progress(key, event.epoch, 3, event.train_loss + 1) for event in (first, second)]
    draw([Started(key), *wrong, Started(key), first, wrong[1]], planned, store, tmp_path)
    draw([event for event in done if event != first], planned, store, tmp_path)
    draw([Cached(step.key) for step in planned.steps], planned, store, tmp_path)
    assert_drawn(tmp_path / labels(planned)[key], store.metrics(key))


def test_a_loss_that_is_no_number_is_drawn_as_such(planned: Plan, store: Store, tmp_path: Path) -> None:
    key = next(step.key for step in planned.steps if isinstance(step, Train))
    metrics = {"test_loss": None, "test_accuracy": 10.0, "validation_accuracy": 20.0, "epochs": 1}
    draw([Progress(key, 1, 3, math.inf), Done(key, metrics, 1.0)], planned, store, tmp_path)
    found = read(tmp_path / labels(planned)[key])
    assert found["loss/train"] == [(1, math.inf)]
    assert math.isnan(found["loss/test"][0][1])
    assert found["accuracy/validation"] == [(1, 20.0)]


@pytest.mark.slow
def test_the_command_writes_them(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY | {"arms": ["ticket"]}))
    script = f"import sys; sys.path[:] = {sys.path}; from prunetune.cli.main import main; main()"
    arguments = ["audit", "study.yaml", "--store", "store", "--out", "out", "--jobs", "1", "--tensorboard", "curves"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials = json.loads((tmp_path / "out" / "results.json").read_text())["trials"]
    assert len(trials) == len(list((tmp_path / "curves").iterdir())) == 2
    for trial in trials:
        folder = next((tmp_path / "curves").glob(f"{trial['arm']} *"))
        assert_drawn(folder, Store(tmp_path / "store").metrics(trial["key"]))


@pytest.mark.parametrize("trouble", ["missing", "no folder"])
def test_what_is_wrong_is_said_first(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments = ["audit", "quick", "--store", "store", "--tensorboard", "file"]
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["prunetune", *arguments])
    if trouble == "missing":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    extra = "prunetune: --tensorboard needs the extra prunetune[tensorboard]: pip install 'prunetune[tensorboard]'\n"
    assert said == (
        extra if trouble == "missing" else "prunetune: --tensorboard: cannot write to 'file': File exists\n"
    )
    assert list(Store(tmp_path / "store").ls()) == []
