"""Several `prunetune audit` at once on one store, one of them killed; and Ctrl-C."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_runs import prunetune, started

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

STUDY = [
    *("--set", "epochs=2", "--set", "learning_rates=[0.1]", "--set", "sparsities=[0.5, 0.75]", "--seeds", "1"),
    *("--set", "data_args.train_limit=1280", "--set", "arms=[ticket, reinit, finetune]", "--jobs", "1"),
]
TRAININGS = 8  # one of them the longer dense training


def audit(folder: Path, out: str) -> subprocess.Popen[str]:
    return started("audit", "quick", *STUDY, "--store", "store", "--out", out, cwd=folder)


def results(folder: Path, out: str) -> dict[str, Any]:
    """All of them but what tells when and by whom a training was done."""
    found = json.loads((folder / out / "results.json").read_text())
    for trial in found["trials"]:
        del trial["cached"], trial["seconds"]
    del found["environment"]["command"]
    return found


def logged(folder: Path, *outs: str) -> Counter[str]:
    """How often each training was done, over all logs."""
    logs = [folder / out / "trainings.log" for out in outs]
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    return Counter(line.split("\t")[-1] for line in lines)


def wait_for(sign: Path, pattern: str) -> None:
    deadline = time.monotonic() + 300
    while not any(sign.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def claimants(claims: Path) -> set[int]:
    """The processes that are at a step just now."""
    found = set()
    for path in claims.glob("[0-9a-f]*"):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found.add(json.loads(path.read_text())["pid"])
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    with audit(folder, "out") as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return results(folder, "out")


def test_three_audits_train_everything_once_and_end_the_same(tmp_path: Path, alone: dict[str, Any]) -> None:
    outs = ["one", "two", "three"]
    processes = [audit(tmp_path, out) for out in outs]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert [results(tmp_path, out) for out in outs] == [alone] * 3
    counts = logged(tmp_path, *outs)
    assert len(counts) == TRAININGS
    assert set(counts.values()) == {1}
    assert "waiting for another process (process " in "".join(errors)
    assert prunetune("store", "verify", "--store", "store", cwd=tmp_path).returncode == 0


def test_one_of_three_killed_in_mid_training(tmp_path: Path, alone: dict[str, Any]) -> None:
    outs = ["one", "two", "three"]
    processes = [audit(tmp_path, out) for out in outs]
    wait_for(tmp_path / "store" / "claims", "[0-9a-f]*")
    victim = None
    while victim is None:  # a claim of a short step is gone before it is read
        holders = claimants(tmp_path / "store" / "claims")
        victim = next((process for process in processes if process.pid in holders), None)
        assert any(process.poll() is None for process in processes)
    os.killpg(victim.pid, signal.SIGKILL)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [-9 if p is victim else 0 for p in processes], errors
    survivors = [out for out, process in zip(outs, processes, strict=True) if process is not victim]
    assert [results(tmp_path, out) for out in survivors] == [alone] * 2
    assert max(logged(tmp_path, *outs).values()) == 1
    assert prunetune("store", "verify", "--store", "store", cwd=tmp_path).returncode == 0


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path, alone: dict[str, Any]) -> None:
    with audit(tmp_path, "out") as process:
        wait_for(tmp_path / "out", "trainings.log")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
        output, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("prunetune: interrupted; every finished training is stored")
    assert "the same command goes on from here" in errors
    assert "Traceback" not in output + errors
    assert list((tmp_path / "store" / "claims").glob("[0-9a-f]*")) == []
    kept = len(logged(tmp_path, "out"))
    assert 0 < kept < TRAININGS
    with audit(tmp_path, "out") as process:
        _, errors = process.communicate()
    assert process.returncode == 0
    assert f"{kept} cached" in errors
    assert set(logged(tmp_path, "out").values()) == {1}
    assert results(tmp_path, "out") == alone
