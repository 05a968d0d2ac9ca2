"""`make soak` at a count for every day, and that it sees what it is there to see."""

import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.cli_runs import prunetune

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_five_kills_leave_no_trace() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "5", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n5 kills (" in done.stdout
    assert "differing, damaged or left behind: 0" in done.stdout


@pytest.mark.slow
def test_a_trace_is_seen(tmp_path: Path) -> None:
    names = runpy.run_path(str(SCRIPT))
    faults: Callable[[Path, dict[str, bytes]], Iterator[str]] = names["_faults"]
    small = ["epochs=1", "rewind=1/2", "learning_rates=[0.1]", "sparsities=[0.5]", "data_args.train_limit=128"]
    options = [word for text in small for word in ("--set", text)]
    done = prunetune("audit", "quick", *options, "--seeds", "1", "--store", "store", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = tmp_path / "store"
    expected = names["_contents"](store)
    assert list(faults(store, expected)) == []
    victim = next(store.glob("steps/*/*/state.safetensors"))
    name, state = str(victim.relative_to(store)), load_file(victim)
    first = min(state)
    save_file(state | {first: state[first] + torch.ones(())}, victim)
    (store / "partial").mkdir()
    (store / "partial" / "x").touch()
    found = list(faults(store, expected))
    assert found[0] == f"differs: {name}"
    assert found[1].startswith("verify: store: ")
    assert found[2:] == ["left behind: x"]
