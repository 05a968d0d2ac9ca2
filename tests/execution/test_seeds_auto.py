"""A study that adds seeds where a verdict is undecided, whole: real trainings of milliseconds, planted accuracies."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunetune import api
from prunetune.api import Audit, plan_study, preflight, run_study
from prunetune.cli import main as cli
from prunetune.execution.events import Cached, Event
from prunetune.execution.progress import Progress
from prunetune.report.write_report import render_again
from prunetune.results.collect import collect
from prunetune.rows import Results, Trial
from prunetune.steps.steps import Train

STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 1, "batch_size": 32, "schedule": {"kind": "constant"}},
    "learning_rates": [0.01, 0.05],
    "masks": ["one_shot"],
    "sparsities": [0.5],
    "arms": ["ticket", "reinit"],
    "rewind": "1it",
    "seeds": {"min": 2, "max": 4},
}
CLEAR, OPEN = 0.01, 0.05  # learning rates


def planted(trial: Trial) -> Trial:
    """At one rate the ticket plainly holds; at the other it is now above and now below the margin."""
    dense = 80.0 + 0.3 * trial.seed
    ticket = dense + 0.01 * trial.seed if trial.learning_rate == CLEAR else dense - 0.5 + 0.4 * (-1) ** trial.seed
    accuracy = {"dense": dense, "ticket": ticket, "reinit": ticket - 5.0 + 0.01 * trial.seed}[trial.arm]
    return dataclasses.replace(trial, test_accuracy=accuracy)


def collect_planted(*asked: Any) -> Results:
    found = collect(*asked)
    return dataclasses.replace(found, trials=tuple(map(planted, found.trials)))


@pytest.fixture(scope="module", autouse=True)
def _planted_results() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "collect", collect_planted)
        yield


def ran(folder: Path, **more: Any) -> Audit:
    prepared = plan_study(STUDY, store=folder / "store", device="cpu")
    return run_study(prepared, preflight(prepared, folder / "out"), jobs=1, **more)


def lasting(folder: Path) -> dict[str, Any]:
    """results.json without what may differ between two runs of one study."""
    found = json.loads((folder / "out" / "results.json").read_text())
    for trial in found["trials"]:
        del trial["cached"], trial["seconds"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit, list[str]]:
    """A study that has run, and what was said of the looks."""
    folder, said = tmp_path_factory.mktemp("whole"), []
    audit = ran(folder, on_more=lambda plan, left: said.append(f"{len(plan.trials)} {left.trainings_left}"))
    return folder, audit, said


@pytest.mark.slow
def test_seeds_are_added_to_the_open_verdict_alone(whole: tuple[Path, Audit, list[str]]) -> None:
    _, audit, said = whole
    counts = {(v.learning_rate, v.winning_property): [look.seeds for look in v.looks] for v in audit.verdicts}
    assert counts == {(CLEAR, "holds"): [2], (OPEN, "inconclusive"): [2, 4]}
    seeds = {rate: {t.seed for t in audit.results.trials if t.learning_rate == rate} for rate in (CLEAR, OPEN)}
    assert seeds == {CLEAR: {0, 1}, OPEN: {0, 1, 2, 3}}
    assert said == ["18 6"]  # trials of the larger plan: 2 + 4 seeds of 3; and trainings left of it
    assert audit.failures == ()
    assert not any(trial.cached for trial in audit.results.trials)


@pytest.mark.slow
def test_again_it_trains_nothing_and_gives_the_same_bytes(whole: tuple[Path, Audit, list[str]], tmp_path: Path) -> None:
    folder, _, _ = whole
    events: list[Event] = []
    outs = [tmp_path / "second", tmp_path / "third"]
    for out in outs:
        prepared = plan_study(STUDY, store=folder / "store", device="cpu")
        run_study(prepared, preflight(prepared, out), jobs=1, on_event=events.append)
    assert {event.kind for event in events} == {"found"}
    second, third = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")} for out in outs)
    assert second == third
    found = json.loads((outs[0] / "results.json").read_text())
    assert {trial.pop("cached") for trial in found["trials"]} == {True}
    assert [{k: v for k, v in t.items() if k != "seconds"} for t in found["trials"]] == lasting(folder)["trials"]
    render_again(outs[1])
    assert {p.relative_to(outs[1]): p.read_bytes() for p in outs[1].rglob("*.*")} == third


@pytest.mark.slow
def test_interrupted_at_the_second_look_it_goes_on_to_the_same_end(
    whole: tuple[Path, Audit, list[str]], tmp_path: Path
) -> None:
    looks: list[int] = []

    def stop(event: Event) -> None:
        if looks and event.kind == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, on_event=stop, on_more=lambda plan, left: looks.append(left.trainings_left))
    assert not (tmp_path / "out" / "results.json").exists()
    ran(tmp_path, on_more=lambda plan, left: looks.append(left.trainings_left))
    assert looks[0] == 6
    assert 0 < looks[1] <= 6
    assert lasting(tmp_path) == lasting(whole[0])


@pytest.mark.slow
def test_plan_says_the_least_and_the_most(
    whole: tuple[Path, Audit, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(STUDY))
    cli.plan(str(study), store=str(tmp_path / "empty"), device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the least, where 2 seeds decide every verdict:"
    assert ": 12 trainings (12 epochs) and " in lines[1]
    assert lines[3].startswith("toy: 12 trainings (12 epochs) to run, 0 cached; about ")
    assert lines[4] == "the most, where no verdict is decided before 4 seeds:"
    assert lines[7].startswith("toy: 24 trainings (24 epochs) to run, 0 cached; about ")
    cli.plan(str(study), ["seeds=3"], store=str(tmp_path / "empty"), device="cpu")
    assert "seeds decide" not in capsys.readouterr().out
    cli.plan(str(study), store=str(whole[0] / "store"), device="cpu")
    assert "toy: 6 trainings (6 epochs) to run, 18 cached" in capsys.readouterr().out


def test_progress_counts_no_training_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = plan_study(STUDY, store=tmp_path, device="cpu")
    progress = Progress(prepared.plan, prepared.remaining)
    first = [step.key for step in prepared.plan.steps if isinstance(step, Train)]
    for key in first:
        progress(Cached(key))
    assert progress.finished == 12
    progress.more(prepared.max_plan, prepared.max_plan.remaining(prepared.store))
    for key in first:
        progress(Cached(key))
    assert (progress.finished, len(progress.epochs)) == (12, 24)
    assert "look 2 of 2: 4 seeds for one_shot masks at learning rate 0.01" in capsys.readouterr().err
