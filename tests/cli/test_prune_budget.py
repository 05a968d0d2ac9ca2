"""`prunetune prune --max-drop` as somebody types it: to the end, killed in the middle, and asked again."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prunetune.data import identify, load
from prunetune.models import build
from prunetune.models import identify as identify_model
from tests.support.cli_runs import prunetune, started

pytestmark = pytest.mark.slow

DATA = ["--data", "fashion-mini", "--set", "data_args.train_limit=640", "--epochs", "1", "--learning-rate", "0.1"]
ASKED = [
    "--model",
    "small",
    *DATA,
    "--pattern",
    "unstructured",
    "--sparsity",
    "0.5",
    "--seeds",
    "3",
    "--store",
    "store",
]
KEPT = ["prune", *ASKED, "--max-drop", "100", "--params", "0.6", "--export", "int8-static", "--out", "out"]


def trained(store: Path) -> int:
    """How many trainings are stored whole."""
    whole = store.glob("steps/??/[!.]*/step.json")  # a folder that is being written is called .tmp-…
    found = [json.loads(path.read_text()) for path in whole]
    return sum(step["step"] == "Train" for step in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the search was killed once it had trained something."""
    folder = tmp_path_factory.mktemp("budget")
    process = started(*KEPT, "--jobs", "1", cwd=folder)
    while process.poll() is None and not trained(folder / "store"):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "out" / "budget.json").exists()
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> subprocess.CompletedProcess[str]:
    done = prunetune(*KEPT, "--jobs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def found(folder: Path, first: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads((folder / "out" / "budget.json").read_text())


def test_a_search_that_was_killed_goes_on(first: subprocess.CompletedProcess[str]) -> None:
    run = re.search(r"(\d+) trainings? .* to run, (\d+) cached", first.stderr)
    assert run, first.stderr
    assert int(run[1]) + int(run[2]) == 9
    assert int(run[2]) >= 1


def test_it_says_what_is_returned_and_where_it_lies(folder: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert re.search(
        r"^Returned: one_shot-(global|sensitivity) 50 %, .* of the parameters; on 64 held-out", first.stdout, re.M
    )
    assert "looked at once and for this network alone" in first.stdout
    assert "Model: out/models/best.safetensors" in first.stdout
    assert (folder / "out" / "models" / "best.safetensors").is_file()
    assert not (folder / "out" / "trainings.log").exists()  # it would show every network's test score


def test_the_file_scores_on_the_test_images_what_the_report_says(folder: Path, found: dict[str, Any]) -> None:
    best = found["candidates"][found["chosen"]]
    state = load_file(folder / "out" / "models" / "best.safetensors")
    model = build(identify_model("small", {}, (1, 28, 28), 10), (1, 28, 28), 10)
    model.load_state_dict(state)
    data = load(identify("fashion-mini", {"train_limit": 640, "validation": 0.1}))
    pixels = data.train_images.double() / 255
    images = ((data.test_images.double() / 255 - pixels.mean()) / pixels.std(correction=0)).float()
    with torch.no_grad():
        accuracy = 100 * (model.eval()(images).argmax(1) == data.test_labels).double().mean().item()
    assert found["test"]["scores"][0] == pytest.approx(accuracy, abs=0.05)
    nonzeros = sum(int((state[name] != 0).sum()) for name, _ in model.named_parameters())
    parameters = sum(tensor.numel() for tensor in model.parameters())
    assert best["network"]["nonzeros"] == nonzeros
    assert nonzeros <= 0.6 * parameters


def test_the_returned_network_and_the_dense_one_are_run_in_8_bits(
    folder: Path, first: subprocess.CompletedProcess[str], found: dict[str, Any]
) -> None:
    best = found["candidates"][found["chosen"]]["network"]
    assert [file["format"] for file in best["files"]] == ["safetensors", "onnx", "int8-static"]
    assert [file["path"] for file in found["dense"]["files"]] == ["models/dense.onnx", "models/dense.int8-static.onnx"]
    for files, score in (
        (best["files"][1:], found["test"]["scores"][0]),
        (found["dense"]["files"], found["test"]["dense"][0]),
    ):
        assert files[0]["score"] == pytest.approx(score, abs=0.05)
        assert abs(files[1]["score"] - score) < 5
        assert all(file["zeros_exact"] and len(file["timings"]) == 2 for file in files)
    assert re.search(
        r"^In onnxruntime 50 % int8-static against dense onnx: .*; 8 bits change its accuracy by", first.stdout, re.M
    )


def test_another_budget_trains_nothing_new_and_what_cannot_be_kept_is_refused(
    folder: Path, first: subprocess.CompletedProcess[str]
) -> None:
    out = folder / "never"
    done = prunetune("prune", *ASKED, "--max-drop", "0", "--size", "60kB", "--out", "never", cwd=folder)
    assert done.returncode == 1, done.stdout
    assert "0 trainings (0 epochs) to run, 9 cached" in done.stderr
    assert "No network that was tried keeps the budget (at most 0 points worse, --size 60kB)" in done.stdout
    assert "one_shot-global 50 %" in done.stdout
    assert "Model:" not in done.stdout
    assert json.loads((out / "budget.json").read_text())["chosen"] is None
    assert "No network tried keeps the budget" in (out / "report.html").read_text()


def test_report_renders_the_same_bytes_again_and_what_is_no_longer_returned_goes(
    folder: Path, first: subprocess.CompletedProcess[str]
) -> None:
    out = folder / "out"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (out / "report.html").unlink()
    assert prunetune("report", "out", cwd=folder).returncode == 0
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    done = prunetune("prune", *ASKED, "--max-drop", "1", "--params", "0.001", "--out", "out", cwd=folder)
    assert done.returncode == 1
    assert "comes to 0." in done.stderr
    assert [path.name for path in (out / "models").iterdir()] == ["LIST"]


def test_a_wrong_request_is_one_line(tmp_path: Path) -> None:
    """One of those of tests/compression/test_budget_search.py, to the end."""
    done = prunetune(
        "prune", "--model", "small", "--data", "fashion-mini", "--max-drop", "1", "--latency", "5", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("prunetune: --latency: '5'")
    assert done.stderr.count("\n") == 1
