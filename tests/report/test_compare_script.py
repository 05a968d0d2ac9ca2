"""The script that compares any two cells of a study, against scipy's paired test on numbers written here."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from verdict_trials import trial

from prunetune.study.results import Residuals

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"
FIRST, SECOND, DENSE = [84.0, 85.0, 84.5], [83.5, 84.1, 84.4], [80.0, 80.5, 81.5]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    cells = [("finetune", "admm", FIRST), ("finetune", "one_shot", SECOND), ("dense", None, DENSE)]
    rows = [
        replace(trial(arm, seed, accuracy, 0.8 if mask else 0.0, 0.1, mask), validation_accuracy=accuracy - 1)
        for arm, mask, accuracies in cells
        for seed, accuracy in enumerate(accuracies)
    ]
    lost = replace(trial("finetune", 3, 10.0, 0.8, 0.1, "admm"), diverged=True)  # enters no mean
    path = tmp_path / "results.json"
    ends = [(0.8, 0.5, 0.02), (0.6, 0.4, 0.01)]
    residuals = [asdict(Residuals(0.1, "admm", 0.8, seed, values)) for seed, values in enumerate(ends)]
    path.write_text(json.dumps({"trials": [asdict(row) for row in [*rows, lost]], "residuals": residuals}))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("second", "below"), [("finetune one_shot", SECOND), ("dense", DENSE)])
def test_paired_differences_are_scipys(results: Path, second: str, below: list[float]) -> None:
    [line] = run(results, "finetune admm", second).stdout.splitlines()[1:]
    interval = stats.ttest_rel(FIRST, below).confidence_interval(0.95)
    found = [float(number) for number in re.findall(r"[-+]\d+\.\d+", line)]
    assert found == pytest.approx([np.mean(FIRST) - np.mean(below), interval.low, interval.high], abs=0.005)
    assert line.startswith("0.1    0.8 ")
    assert line.endswith("n = 3")


def test_two_studies_are_paired_by_cell_and_seed(results: Path, tmp_path: Path) -> None:
    """The other lacks a cell and a seed, and has a row that the first has not."""
    rows = [trial("finetune", seed, accuracy, 0.8, 0.1, "admm") for seed, accuracy in enumerate(SECOND[:2])]
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps({"trials": [asdict(row) for row in [*rows, trial("ticket", 0, 9.0, 0.8, 0.1, "admm")]]})
    )
    [line] = run(results, "--against", other).stdout.splitlines()[1:]
    interval = stats.ttest_rel(FIRST[:2], SECOND[:2]).confidence_interval(0.95)
    assert [float(number) for number in re.findall(r"[-+]\d+\.\d+", line)] == pytest.approx(
        [np.mean(FIRST[:2]) - np.mean(SECOND[:2]), interval.low, interval.high], abs=0.005
    )
    assert line.split()[:4] == ["0.1", "0.8", "finetune", "admm"]
    assert line.endswith("n = 2")


def test_held_out_means(results: Path) -> None:
    lines = run(results, "--held-out").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0.1", "0", "dense", "79.67", "(79.00", "to", "80.50,", "n", "=", "3)"],
        ["0.1", "0.8", "finetune", "admm", "83.50", "(83.00", "to", "84.00,", "n", "=", "3)"],
        ["0.1", "0.8", "finetune", "one_shot", "83.00", "(82.50", "to", "83.40,", "n", "=", "3)"],
    ]


def test_residuals_at_the_start_and_the_end(results: Path) -> None:
    [line] = run(results, "--residuals").stdout.splitlines()[1:]
    assert line.split() == ["0.1", "0.8", "admm", "0.700", "to", "0.0150"]


@pytest.mark.parametrize("wrong", [[], ["dense"], ["dense", "dense", "--held-out"], ["--held-out", "--residuals"]])
def test_one_form_at_a_time(results: Path, wrong: list[str]) -> None:
    assert run(results, *wrong).returncode == 2


def test_a_cell_that_is_not_there_is_named_with_those_that_are(results: Path) -> None:
    done = run(results, "finetune admm", "ticket admm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'ticket admm' is not in the study; there are: dense, finetune admm, finetune one_shot" in done.stderr
