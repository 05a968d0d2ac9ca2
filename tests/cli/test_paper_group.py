"""Groups of the paper's presets through the command line."""

import json
from pathlib import Path

import pytest

from tests.support.cli_runs import prunetune
from tests.support.data_makers import write_cifar10, write_cifar100

TINY = [
    *("--set", "epochs=1", "--set", "batch_size=4", "--set", "rewind=1/2", "--set", "sparsities=[0.5]", "--seeds", "2"),
    *("--set", "model=resnet", "--set", "model_args={depth: 8, width: 2}", "--set", "data_args.root=data"),
    *("--set", "data_args.validation=0.2"),
]


def test_a_group_is_planned_as_a_whole(tmp_path: Path) -> None:
    done = prunetune("plan", "paper/a3", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "paper-a3-mobilenetv2-cifar10: 240 trainings (36000 epochs) to run, 0 cached",
        "paper-a3-mobilenetv2-cifar100: 240 trainings (36000 epochs) to run, 0 cached",
        "paper/a3: 2 studies",
        "distinct trainings: 480 (72000 epochs), of which 480 (72000 epochs) to run",
        "without sharing between studies they would be 480 (72000 epochs), "
        "and as separate experiments 1820 (273000 epochs)",
    ]


@pytest.mark.slow
def test_audit_of_a_group_is_an_audit_of_each_into_its_folder(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data", rows=2)
    refused = prunetune("audit", "paper/a3", *TINY, "--store", "store", cwd=tmp_path)
    assert refused.returncode == 2  # CIFAR-100 is not there, and that is said before anything is trained
    assert "cifar100" in refused.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("results.json"))
    write_cifar100(tmp_path / "data", train=10, test=100, fine=2)
    done = prunetune("audit", "paper/a3", *TINY, "--store", "store", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, data in (("a3-mobilenetv2-cifar10", "cifar10"), ("a3-mobilenetv2-cifar100", "cifar100")):
        folder = tmp_path / "runs" / "paper-a3" / name
        found = json.loads((folder / "results.json").read_text())
        assert (found["study"]["data"], len(found["trials"])) == (data, 2 * 2 * 2)
        assert {row["kind"] for row in found["paper"]} == {"winning", "overlap", "ordering"}
        assert 'id="paper"' in (folder / "report.html").read_text()
    again = prunetune("plan", "paper/a3", *TINY, "--store", "store", cwd=tmp_path)
    assert "distinct trainings: 16 (16 epochs), of which 0 (0 epochs) to run" in again.stdout


def test_the_presets_are_listed_with_the_groups(tmp_path: Path) -> None:
    listed = prunetune("presets", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in (listed[0], listed[1], *listed[-2:])] == [
        "quick",
        "paper/fig2-resnet20-cifar10",
        "paper/all",
        "thesis/all",
    ]
    assert "paper/table-a1-vgg11-cifar10         VGG-11, CIFAR-10: R_.2 of sparse and dense at 50 %" in listed
