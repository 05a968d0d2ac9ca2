"""A run keeps its folder: another study's report is neither replaced nor mixed with it, and `runs` lists them all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prunetune.report.run_folders import report_folder, runs_in, runs_table
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec
from tests.support.refusals import refused

STUDIES = Path(__file__).parents[2] / "studies"


def write(folder: Path, spec: Spec, name: str = "results.json", **more: Any) -> Path:
    """A file of a report with as much as tells whose it is."""
    folder.mkdir(parents=True, exist_ok=True)
    study = spec.resolved() | spec.metric.described()
    (folder / name).write_text(json.dumps({"schema_version": 5, "study": study, **more}))
    return folder


def folder_of(runs: Path, spec: Spec, asked: Mapping[str, Any] | None = None) -> Path:
    return report_folder(None, runs / spec.name, spec, asked)


def test_the_first_run_and_an_unchanged_spec_have_the_name(tmp_path: Path) -> None:
    spec = load_spec("quick")
    assert folder_of(tmp_path, spec) == tmp_path / "quick"
    write(tmp_path / "quick", spec)
    assert folder_of(tmp_path, load_spec("quick", ["seeds=5"])) == tmp_path / "quick"


def test_a_changed_spec_has_a_folder_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    write(tmp_path / "quick", load_spec("quick"))
    more, fewer = load_spec("quick", ["seeds=7"]), load_spec("quick", ["seeds=3"])
    second, third = folder_of(tmp_path, more), folder_of(tmp_path, fewer)
    assert len({tmp_path / "quick", second, third}) == 3
    for folder in (second, third):
        assert folder.parent == tmp_path
        assert len(folder.name) == len("quick-01234567")
    write(second, more)
    write(third, fewer)
    assert (folder_of(tmp_path, more), folder_of(tmp_path, fewer)) == (second, third)
    assert folder_of(tmp_path, load_spec("quick")) == tmp_path / "quick"
    (tmp_path / "quick" / "results.json").unlink()
    assert folder_of(tmp_path, more) == second  # where its report is


def test_the_folder_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    """Fields that came later are missing in its report; the study is the same where they are at their defaults."""
    spec = load_spec("quick", ["recipe.label_smoothing=0"])
    old = spec.resolved()
    for name in ("devices", "measure"):
        del old[name]
    del old["recipe"]["label_smoothing"]
    (write(tmp_path / "quick", spec) / "results.json").write_text(json.dumps({"schema_version": 5, "study": old}))
    assert folder_of(tmp_path, spec) == tmp_path / "quick"
    assert folder_of(tmp_path, load_spec("quick", ["recipe.label_smoothing=0.1"])) != tmp_path / "quick"
    assert folder_of(tmp_path, load_spec("quick", ["measure=masks"])) != tmp_path / "quick"


@pytest.mark.parametrize("study", ["fashion-mnist", "cifar10", "reaudit"])
def test_the_committed_studies_are_of_their_specs(study: str) -> None:
    folder = STUDIES / study
    assert report_folder(None, folder, load_spec(folder / "study.yaml")) == folder


def test_an_explicit_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "mine", load_spec("quick"))
    other = load_spec("quick", ["epochs=3", "seeds=2"])
    assert report_folder(tmp_path / "mine", tmp_path / "x", other) == tmp_path / "mine"
    assert report_folder(str(tmp_path / "new"), tmp_path / "x", other) == tmp_path / "new"
    with refused("out", "3", "path"):
        report_folder(3, tmp_path / "x", other)


def test_what_was_asked_besides_the_spec_counts(tmp_path: Path) -> None:
    """Two budgets of one study are two questions."""
    spec, half, whole = load_spec("quick"), {"max_drop": 0.5, "limit": None}, {"max_drop": 1.0, "limit": None}
    write(tmp_path / "quick", spec, "budget.json", **half)
    assert folder_of(tmp_path, spec, half) == tmp_path / "quick"
    other = folder_of(tmp_path, spec, whole)
    assert other != tmp_path / "quick"
    write(other, spec, "budget.json", **whole)
    assert folder_of(tmp_path, spec, whole) == other
    assert report_folder(str(other), other, spec, half) == other  # somebody names it: the study is the same


def test_a_report_that_nobody_can_read_is_left_to_the_check_of_files(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    for content in ("{", "[]", "{}", '{"schema_version": 5, "study": 3}', "[" * 5000):
        (tmp_path / "quick" / "results.json").write_text(content)
        assert folder_of(tmp_path, load_spec("quick")) == tmp_path / "quick"
        assert runs_in(tmp_path) == []


def test_odd_reports_are_listed_or_passed_over(tmp_path: Path) -> None:
    """A pipe is not waited for, a link does not repeat a run, and a start of another type is no start."""
    write(tmp_path / "odd", load_spec("quick"), verdicts=3, choices=[{"as_good": {"x": 1}}])
    os.mkfifo(tmp_path / "odd" / "tradeoff.json")
    (tmp_path / "around").symlink_to(tmp_path)
    assert [(run.folder, run.answer, run.start) for run in runs_in(tmp_path)] == [(tmp_path / "odd", "–", "undecided")]


def test_runs_are_listed_the_latest_first(tmp_path: Path) -> None:
    spec = load_spec("quick")
    cell = {"learning_rate": 0.1, "mask": "iterative"}
    verdicts = [
        {"learning_rate": 0.01, "mask": "iterative", "winning_property": "holds"},
        cell | {"winning_property": "inconclusive"},
    ]
    write(tmp_path / "a", spec, verdicts=verdicts, choices=[cell | {"as_good": ["finetune", "ticket"]}])
    write(tmp_path / "group" / "b", spec, verdicts=verdicts)  # of a version without choices
    write(tmp_path / "c", spec, "tradeoff.json", rows=[{"sparsity": 0}, {"sparsity": 0.5}, {"sparsity": 0.9}])
    write(tmp_path / "d", spec, "budget.json", chosen=None)
    write(tmp_path / "e", spec, "tradeoff.json", rows=[{"sparsity": 0}, {"sparsity": 0.9}], best=0.9)
    write(tmp_path / "f", spec, "tradeoff.json", rows=[{"sparsity": 0}, {"sparsity": 0.9}], best=None)
    candidates = [{"mask": "admm", "sparsity": 0.3}, {"mask": "one_shot", "sparsity": 0.8}]
    write(tmp_path / "g", spec, "budget.json", chosen=1, candidates=candidates)
    write(tmp_path / "h", spec, "budget.json", chosen={}, candidates=3)
    write(tmp_path / "1" / "2" / "3" / "4", spec)  # deeper than a report lies
    new = ("h/budget.json", "g/budget.json", "f/tradeoff.json", "e/tradeoff.json")
    for age, name in enumerate((*new, "d/budget.json", "c/tradeoff.json", "group/b/results.json", "a/results.json")):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    found = runs_in(tmp_path)
    assert [(run.folder.name, run.verb, run.answer, run.start) for run in found] == [
        ("h", "prune", "returned: – –", "finetune"),
        ("g", "prune", "returned: one_shot 80 %", "finetune"),
        ("f", "prune", "best: none within the margin", "finetune"),
        ("e", "prune", "best: 90 % sparse", "finetune"),
        ("d", "prune", "returned: none within the budget", "finetune"),
        ("c", "prune", "2 networks", "finetune"),  # of a version that named no best one
        ("b", "audit", "winning ticket: yes/undecided", "–"),
        ("a", "audit", "winning ticket: undecided", "finetune"),
    ]
    lines = runs_table(found).splitlines()
    assert lines[0].split() == ["study", "verb", "answer", "train", "from", "written", "folder"]
    assert {line.index(str(run.folder)) for line, run in zip(lines[1:], found, strict=True)} == {
        lines[0].index("folder")
    }
    with refused("runs", "nowhere", "folder"):
        runs_in(tmp_path / "nowhere")
