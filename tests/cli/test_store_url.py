"""`--store URL` as somebody types it: two audits from machines without a common disk, and the other verbs."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prunetune.cli import main as cli
from tests.support.cli_runs import PRUNETUNE

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

STUDY = [
    *("quick", "--set", "epochs=1", "--set", "learning_rates=[0.1]", "--set", "sparsities=[0.5]", "--seeds", "1"),
    *("--set", "data_args.train_limit=640", "--set", "arms=[ticket, reinit, finetune]"),
]
TRAININGS = 5  # dense, dense for twice as long, ticket, reinit, finetune


def audit(folder: Path, store: str) -> subprocess.Popen[str]:
    """An audit on a machine of its own: with a folder and a cache that nobody else has."""
    folder.mkdir()
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PRUNETUNE_STORE": store}
    pipe = subprocess.PIPE
    command = [*PRUNETUNE, "audit", *STUDY, "--jobs", "1", "--out", "out"]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=subprocess.STDOUT)


def results(folder: Path) -> dict[str, Any]:
    """All of them but what tells when and by whom a training was done."""
    found = json.loads((folder / "out" / "results.json").read_text())
    for trial in found["trials"]:
        del trial["cached"], trial["seconds"]
    return found


def trained(folder: Path) -> list[str]:
    log = folder / "out" / "trainings.log"
    return [line.split("\t")[-1] for line in log.read_text().splitlines()] if log.exists() else []


def test_two_audits_at_once_and_what_the_other_verbs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"file://{tmp_path}/elsewhere"
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [audit(folder, store) for folder in folders]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert results(folders[0]) == results(folders[1])
    counts = Counter(key for folder in folders for key in trained(folder))
    assert len(counts) == TRAININGS
    assert set(counts.values()) == {1}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", list(sys.path))

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["prunetune", *arguments, "--store", store])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    code, told = call("plan", *STUDY)
    assert code == 0
    assert f"0 trainings (0 epochs) to run, {TRAININGS} cached" in told
    code, told = call("store", "ls")
    assert code == 0
    assert sum(line.startswith("Train ") for line in told.splitlines()) == TRAININGS
    assert call("store", "verify")[0] == 0
    assert not (tmp_path / "cache" / "prunetune").exists()  # to plan and to look at it brings nothing here
    weights = next((tmp_path / "elsewhere" / "steps").rglob("state.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    code, told = call("store", "verify")
    assert code == 1
    assert f"damaged: store: {weights.parent.name[:12]}: state.safetensors has " in told
    assert call("store", "gc") == (0, "0 B freed\n")
