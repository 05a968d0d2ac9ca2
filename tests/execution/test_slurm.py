"""The Slurm executor: real jobs through submitit's local cluster, one of them killed; and what is said to sbatch."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from prunetune.errors import ConfigError
from prunetune.execution.events import Done, Event, Notice, Progress
from prunetune.execution.run_step import execute
from prunetune.store.store import Store
from tests.support.toy_study import Work, init, small_study

pytest.importorskip("submitit", reason="needs the extra prunetune[slurm]")

from prunetune.execution.executors.slurm import SlurmExecutor, SlurmWorkers, read_parameters
from tests.support.refusals import refused

pytestmark = pytest.mark.cluster


def jobs_of(store: Store) -> list[int]:
    """Process ids of the jobs on a store, from their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in words and str(store.root).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the jobs in /proc")
def test_a_killed_job_costs_time_and_no_byte(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws in one job, and a training whose job is killed after its first epoch."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(SlurmWorkers, "poll", 0.05)
    whole = small_study("slow_net", seconds=0.1)
    work = Work(whole.steps[:3], whole.snapshots)
    events: list[Event] = []
    for event in SlurmExecutor(cluster="local", checkpoint_every=0.0).run(work, store):
        if isinstance(event, Progress) and not any(isinstance(earlier, Progress) for earlier in events):
            for process in jobs_of(store):
                os.kill(process, signal.SIGKILL)
        events.append(event)
    training = work.steps[2]
    lost = [event for event in events if isinstance(event, Notice) and "its worker" in event.message]
    assert [event.key for event in lost] == [training.key]
    assert lost[0].message.startswith(f"Train {training.key[:12]} is tried again: its worker ended before it was done")
    assert {event.key for event in events if isinstance(event, Done)} == {step.key for step in work.steps}
    assert Counter(event.kind for event in events)["started"] == 4
    (folder,) = (store.root / "logs").iterdir()  # kept, since a job was lost
    assert sorted(path.name for path in folder.glob("*.jsonl")) == [f"{number}.jsonl" for number in range(1, 4)]
    alone = Store(tmp_path / "alone")
    alone.prepare()
    for step in work.steps:
        execute(step, alone, work.snapshots.get(step.key, ()))
        ours, theirs = (
            {path.name: path.read_bytes() for path in one.folder(step.key).iterdir() if path.name != "manifest.json"}
            for one in (store, alone)
        )
        assert ours == theirs
    assert list(store.verify()) == []


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the PATH with stand-ins for Slurm's commands: `sbatch` keeps the file and refuses it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {
        "sbatch": f'cp "$1" {folder}/submitted; echo "sbatch: error: invalid partition: long" >&2; exit 1',
        "srun": "exit 1",
        "sacct": "exit 1",
        "scancel": "exit 0",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="stands in for Slurm by shell scripts")
def test_parameters_reach_sbatch_and_what_it_says_is_told(store: Store, sbatch: Path) -> None:
    texts = ["partition=long", "time=90", "gpus_per_node=1", "mem=8GB", "setup=module load python"]
    with refused("--executor", "slurm", "partition"):
        list(SlurmExecutor(parameters=read_parameters(texts)).run(Work((init(),)), store))
    asked = (sbatch / "submitted").read_text().splitlines()
    options = ["partition=long", "time=90", "gpus-per-node=1", "mem=8GB", "job-name=prunetune", "cpus-per-task=1"]
    for line in [*(f"#SBATCH --{option}" for option in options), "module load python", "export OMP_NUM_THREADS=1"]:
        assert line in asked
    assert list((store.root / "claims").glob("[!.]*")) == []


def test_without_slurm_nothing_is_run_in_silence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with refused("--executor", "sbatch"):
        list(SlurmExecutor().run(Work((init(),)), store))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("partition", "--slurm: 'partition' is not KEY=VALUE"),
        ("partition=", "--slurm: 'partition=' is not KEY=VALUE"),
        ("partitoin=long", "--slurm: unknown 'partitoin'; did you mean 'partition'?"),
        ("time=2h", "--slurm: time=2h: not a whole number of minutes"),
        ("gpus_per_node=x", "--slurm: gpus_per_node=x: not a whole number"),
    ],
)
def test_wrong_parameters(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_parameters([text])
    assert str(caught.value).startswith(why)
