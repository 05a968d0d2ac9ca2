"""The main job through the command line, on real images at a size that takes seconds."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import prunetune as pt
from prunetune.rows import Correlation, Trial
from tests.support.cli_runs import prunetune

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--epochs", "1", "--set", "rewind=1/2", "--set", "sparsities=0.5,0.75", "--seeds", "2"),
    *("--set", "data_args.train_limit=640", "--set", "arms=[ticket, reinit, rewind, finetune, shuffle]"),
]
FILES = ["correlations.csv", "report.html", "results.json", "trainings.log", "trials.csv"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small audit has run: 2 rates x 2 seeds x (1 dense + 1 for longer + 2 sparsities x 5 arms)."""
    folder = tmp_path_factory.mktemp("audit")
    done = prunetune("audit", "quick", *SMALL, "--store", "store", "--out", "out", "--jobs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "48 trainings (52 epochs) to run, 0 cached" in done.stderr
    assert str(Path("out") / "report.html") in done.stdout
    return folder


def results(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / out / "results.json").read_text())


def rows_without(path: Path, *columns: str) -> list[Mapping[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in columns} for row in csv.DictReader(file)]


def test_files_have_the_fields_of_the_contract(audited: Path) -> None:
    assert sorted(p.name for p in (audited / "out").iterdir() if p.is_file()) == FILES
    assert len(list((audited / "out" / "figures").glob("*.svg"))) >= 3
    found = results(audited)
    contract = "schema_version study environment trials correlations verdicts recommendation budget"
    assert set(contract.split()) <= set(found)
    assert list(found["trials"][0]) == [f.name for f in fields(Trial)]
    assert len(found["trials"]) == 48
    assert list(found["correlations"][0]) == [f.name for f in fields(Correlation)]
    verdict = "learning_rate mask winning_property sparsity pretraining reasons seeds_needed"
    assert set(verdict.split()) <= set(found["verdicts"][0])
    advice = "sparsity learning_rate arm mask accuracy runner_up difference low high tie"
    assert set(advice.split()) <= set(found["recommendation"][0])
    assert [row["sparsity"] for row in found["recommendation"]] == [0.5, 0.75]


def test_the_log_has_a_line_for_every_training(audited: Path) -> None:
    rows = [line.split("\t") for line in (audited / "out" / "trainings.log").read_text().splitlines()]
    trials = {trial["key"]: trial for trial in results(audited)["trials"]}
    assert sorted(key for *_, key in rows) == sorted(trials)
    for _, name, accuracy, seconds, key in rows:
        trial = trials[key]
        assert name.startswith(f"{trial['arm']} ")
        assert name.endswith(f"lr {trial['learning_rate']:g} seed {trial['seed']}")
        assert accuracy == f"{trial['test_accuracy']:.2f} %"
        assert seconds == f"{trial['seconds']:.1f} s"
    times = [datetime.fromisoformat(time) for time, *_ in rows]
    assert times == sorted(times)


def test_every_invariant_was_checked_and_held(audited: Path) -> None:
    invariants = results(audited)["invariants"]
    assert {row["name"]: row["breaches"] for row in invariants if row["breaches"]} == {}
    of_mixed = {"mixed as asked", "mixed starts as its alpha says"}
    not_in_it = of_mixed | {"signs kept", "arms share layer counts"}  # of controls that are not in this study
    not_in_it |= {"finetune chain starts where its mask was found", "scratch long spends the whole budget"}
    not_in_it |= {"ends are twins", "zeros on the line", "ranks agree"}  # nor connectivity, nor several devices
    assert {row["name"] for row in invariants if not row["checked"]} == not_in_it


def test_a_second_audit_trains_nothing_and_ends_the_same(audited: Path) -> None:
    before = {name: (audited / "out" / name).read_bytes() for name in FILES}
    again = prunetune("audit", "quick", *SMALL, "--store", "store", "--out", "again", cwd=audited)
    assert again.returncode == 0, again.stderr
    assert "0 trainings (0 epochs) to run, 48 cached" in again.stderr
    first, second = (rows_without(audited / out / "trials.csv", "cached") for out in ("out", "again"))
    assert first == second
    assert {row["cached"] for row in results(audited, "again")["trials"]} == {True}
    assert not (audited / "again" / "trainings.log").exists()  # nothing was trained
    assert {row["cached"] for row in results(audited)["trials"]} == {False}
    assert before == {name: (audited / "out" / name).read_bytes() for name in FILES}


def test_another_study_does_not_replace_the_report_and_runs_lists_both(audited: Path) -> None:
    first = audited / "runs" / "quick"
    shutil.copytree(audited / "out", first)
    before = (first / "results.json").read_bytes()
    for _ in range(2):
        done = prunetune("audit", "quick", *SMALL, "--seeds", "1", "--store", "store", cwd=audited)
        assert done.returncode == 0, done.stderr
    assert (first / "results.json").read_bytes() == before
    (beside,) = set((audited / "runs").iterdir()) - {first}
    assert re.fullmatch("quick-[0-9a-f]{8}", beside.name)
    listed = prunetune("runs", cwd=audited)
    assert (listed.returncode, listed.stderr) == (0, "")
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    assert {row[-1] for row in rows} == {"runs/quick", f"runs/{beside.name}"}
    assert all(row[:4] == ["quick", "audit", "winning", "ticket:"] for row in rows)
    assert {row[4] for row in rows} <= {"yes", "no", "undecided"}


def test_another_empty_store_gives_the_same_trials(audited: Path) -> None:
    done = prunetune("audit", "quick", *SMALL, "--store", "other", "--out", "elsewhere", "--jobs", "1", cwd=audited)
    assert done.returncode == 0, done.stderr
    first, second = (rows_without(audited / out / "trials.csv", "seconds") for out in ("out", "elsewhere"))
    assert first == second
    assert (audited / "out" / "correlations.csv").read_bytes() == (
        audited / "elsewhere" / "correlations.csv"
    ).read_bytes()


def test_recompute_every_mask_correlation_and_accuracy_from_the_stored_weights(audited: Path) -> None:
    data = ROOT / "src" / "prunetune" / "data" / "fashion_mini.npz"
    script = [sys.executable, "-I", str(ROOT / "scripts" / "recompute.py"), "out", "store", str(data)]
    done = subprocess.run(script, cwd=audited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for figure in ("48 starts", "8 masks", "40 mask digests", "48 accuracies"):
        assert figure in done.stdout
    assert "not recomputed" not in done.stdout


def test_recompute_sees_a_wrong_figure(audited: Path, tmp_path: Path) -> None:
    wrong = results(audited)
    wrong["correlations"][-1]["value"] += 1e-9
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    data = ROOT / "src" / "prunetune" / "data" / "fashion_mini.npz"
    script = [sys.executable, "-I", str(ROOT / "scripts" / "recompute.py"), str(tmp_path), "store", str(data)]
    done = subprocess.run(script, cwd=audited, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "correlations: recomputed" in done.stderr


def test_report_renders_the_same_bytes_again(audited: Path) -> None:
    out = audited / "out"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (out / "report.html").unlink()
    done = prunetune("report", "out", cwd=audited)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_plan_knows_what_is_stored_and_trains_nothing(audited: Path) -> None:
    stored = sorted((audited / "store" / "steps").rglob("*"))
    done = prunetune("plan", "quick", *SMALL, "--set", "sparsities=[0.5, 0.75, 0.9]", "--store", "store", cwd=audited)
    assert done.returncode == 0, done.stderr
    assert "20 trainings (20 epochs) to run, 48 cached" in done.stdout
    assert "fashion-mini: 68 trainings (72 epochs) and 12 masks for dense, dense_longer, ticket" in done.stdout
    assert sorted((audited / "store" / "steps").rglob("*")) == stored


def test_store_verbs(audited: Path) -> None:
    listed = prunetune("store", "ls", "--store", "store", cwd=audited)
    assert listed.returncode == 0
    assert sum(line.startswith("Train") for line in listed.stdout.splitlines()) == 48
    assert "  quick: ticket iterative 75.0% lr 0.1 seed 1  test accuracy " in listed.stdout
    assert "  –  " not in listed.stdout  # every step is named
    kept = prunetune("store", "gc", "--study", "quick", "--dry-run", "--store", "store", cwd=audited).stdout
    assert "would remove: studies/quick-" in kept
    assert prunetune("store", "verify", "--store", "store", cwd=audited).returncode == 0
    key = results(audited)["trials"][0]["key"]
    victim = audited / "store" / "steps" / key[:2] / key / "state.safetensors"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        found = prunetune("store", "verify", "--store", "store", cwd=audited)
        assert found.returncode == 1
        assert key[:12] in found.stdout
    finally:
        victim.write_bytes(content)
    assert prunetune("store", "gc", "--store", "store", cwd=audited).stdout == "0 B freed\n"
    assert prunetune("store", "verify", "--store", "store", cwd=audited).returncode == 0


def test_correlate_agrees_with_the_study(audited: Path) -> None:
    found = results(audited)
    row = next(r for r in found["correlations"] if r["pair"] == "theta_0/theta_T" and r["p"] == 0.2)
    dense = next(t for t in found["trials"] if t["arm"] == "dense" and t["learning_rate"] == row["learning_rate"])
    folder = audited / "store" / "steps"
    start = json.loads((folder / dense["key"][:2] / dense["key"] / "step.json").read_text())["start"]["step"]
    states = [folder / key[:2] / key / "state.safetensors" for key in (start, dense["key"])]
    done = prunetune("correlate", *states, "-p", "0.2,0.3", "--exclude", "0.weight", "--json", cwd=audited)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["correlations"][0]["value"] == row["value"]  # the first convolution is not prunable


def test_audit_from_python_gives_the_verdicts_of_the_command(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(audited)
    overrides = ["epochs=1", *(text for text in SMALL if "=" in text)]
    verdict = pt.audit("quick", overrides, seeds=2, store="store", out="python")
    assert [v.winning_property for v in verdict.verdicts] == [
        v["winning_property"] for v in results(audited)["verdicts"]
    ]
    assert str(verdict) == verdict.report.text
