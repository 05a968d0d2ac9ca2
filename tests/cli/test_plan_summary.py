"""`plan --simulate`: what it reads, what it says, and what it refuses."""

from pathlib import Path

import pytest

from prunetune.api import plan_study
from prunetune.cli.plan_summary import Machines, foresee, outline
from prunetune.errors import ConfigError
from prunetune.execution.cost import Estimate
from tests.support.cli_runs import prunetune

STUDY = ["seeds=2", "learning_rates=[0.1]", "sparsities=[0.3, 0.5]", "pretraining.longer=0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes=64,gpus=8", Machines(64, 8, "cuda")),
        ("gpus=3", Machines(1, 3, "cuda")),
        ("cpus=16, nodes=1", Machines(1, 16, "cpu")),
        ("nodes=2,cpus=2,seconds=1.5", Machines(2, 2, "cpu", 1.5)),
    ],
)
def test_machines_are_read(text: str, expected: Machines) -> None:
    assert Machines.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no NAME=NUMBER", "nodes=64,gpus=8"]),
        ("64x8", ["'64x8'", "nodes=64,gpus=8"]),
        ("nodes=2", ["nodes=2", "one of gpus and cpus"]),
        ("gpus=1,cpus=1", ["one of gpus and cpus"]),
        ("gpus=8,gpus=4", ["gpus is given twice"]),
        ("node=2,gpus=8", ["unknown 'node'", "'nodes'"]),
        ("nodes=0,gpus=8", ["nodes='0'", "at least 1"]),
        ("nodes=2,gpus=-1", ["gpus='-1'"]),
        ("nodes=1e3,gpus=8", ["nodes='1e3'"]),
        ("nodes=²,gpus=8", ["nodes='²'"]),
        ("nodes=99999999999999999999,gpus=8", ["nodes="]),
        ("gpus=8,seconds=0", ["seconds='0'", "above 0"]),
        ("gpus=8,seconds=nan", ["seconds='nan'"]),
        ("gpus=8,seconds=inf", ["seconds='inf'"]),
        ("gpus=8,seconds=soon", ["seconds='soon'"]),
    ],
)
def test_a_wrong_request_is_one_line(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Machines.parse(text)
    assert str(caught.value).startswith("--simulate: ")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_small_study_by_hand(tmp_path: Path) -> None:
    """Two seeds of a dense run and two rounds of four arms: 18 trainings of a minute, three one after the other."""
    text = foresee(plan_study("quick", STUDY, store=tmp_path), Machines(2, 4, "cuda", 60.0))
    assert "nodes × GPUs: 2 × 4 = 8 workers" in text
    assert "cost: Train 60 s for 5 epochs (given)" in text
    assert "no order can beat 3.0 min: work / workers is 2.3 min, the critical path 3.0 min" in text
    assert "answer at sparsity 0.5 after 3.0 min" in text  # dense, first round, and what starts under its mask
    for line in ("dense lr 0.1 seed 0", "ticket iterative 30.0% lr 0.1 seed 0"):
        assert f"    60 s  {line}" in text
    one = foresee(plan_study("quick", STUDY, store=tmp_path), Machines(1, 1, "cpu", 60.0))
    assert "makespan 18.0 min, utilisation 100.0 %" in one
    assert "busy at once: at most 1 of 1 worker" in one


@pytest.mark.parametrize(
    ("expected", "here", "on_gpu"),
    [
        (
            Estimate(60.0, 240.0, 600.0, 10**6),
            "; about 60 s to 4.0 min here with --jobs 3 if the machine gets no busier, 1.0 MB",
            "12 to 60 s",
        ),
        (
            Estimate(6.0, 24.0, 30.0, 10**6),
            "; about 6 to 24 s here with --jobs 3 if the machine gets no busier, 1.0 MB",
            "",
        ),
        (Estimate(None, None, None, 10**6), "; time unknown without data and device, 1.0 MB of store", ""),
    ],
)
def test_an_outline_in_peoples_words(
    expected: Estimate, here: str, on_gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunetune.cli.plan_summary.estimate", lambda *_: expected)
    text = outline(plan_study("quick", STUDY, store=tmp_path), 3)
    lines = text.splitlines()
    size = "18 trainings (90 epochs) and 4 masks for dense, ticket, reinit, rewind, finetune"
    assert lines[0] == f"model small, data fashion-mini: {size}"
    assert lines[1].startswith("without what they share they would be 42 trainings (210 epochs)")
    assert lines[2].startswith("quick: 18 trainings (90 epochs) to run, 0 cached; ")
    assert here in lines[2]
    gpu = [line for line in lines if "GPU" in line]
    assert [line for line in gpu if f": about {on_gpu}; for another speed divide 10.0 min by it" in line] == gpu
    assert bool(gpu) == bool(on_gpu)
    assert "Init" not in text
    assert "\nsteps: 4 Init, " in outline(plan_study("quick", STUDY, store=tmp_path), 3, verbose=True)


def test_the_command_shows_it_or_refuses_before_anything_else(tmp_path: Path) -> None:
    options = [part for change in STUDY for part in ("--set", change)]
    shown = prunetune("plan", "quick", *options, "--simulate", "cpus=4,seconds=60", "--store", "store", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("model small, data fashion-mini")
    assert "simulated with 2 seeds, from an empty store: nodes × cores: 1 × 4 = 4 workers" in shown.stdout
    assert not (tmp_path / "store").exists()
