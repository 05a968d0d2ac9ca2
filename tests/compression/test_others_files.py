"""Files of others under the names of a report and of models: refused before anything is trained. Exports that fail."""

import json
from pathlib import Path

import pytest

from tests.support.cli_runs import prunetune

NETS = """
import torch
from torch import nn


def net(input_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


class Pool(nn.Module):  # by an operator that ONNX lacks
    def __init__(self, outputs):
        super().__init__()
        self.c, self.l = nn.Conv2d(1, 4, 3), nn.Linear(16, outputs)

    def forward(self, x):
        return self.l(nn.functional.adaptive_max_pool2d(self.c(x), (4, 1)).flatten(1))


def pool(input_shape, outputs):
    return Pool(outputs)


def data(n=40):
    def images(n):
        return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    return images(n), torch.arange(n) % 2, images(20), torch.arange(20) % 2
"""
STUDY = ("model: nets:net\ndata: nets:data\nrecipe: {epochs: 1, batch_size: 20}\nlearning_rates: [0.1]\n"
         "masks: [one_shot]\nsparsities: [0.5]\narms: [ticket, reinit]\nseeds: 1\n")  # fmt: skip
PRUNE = ("--data", "nets:data", "--epochs", "1", "--sparsity", "0.5", "--out", "out", "--store", "store", "--jobs", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "out").mkdir()
    return tmp_path


AUDIT = ("audit", "study.yaml", "--out", "out", "--store", "store", "--jobs", "1")
MODEL = ("prune", "--model", "nets:net", *PRUNE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "content"),
    [
        (AUDIT, "results.json", '{"accuracy": 1}'),
        (AUDIT, "results.json", '{"schema_version": 1}'),
        (AUDIT, "results.json", "my notes"),
        (AUDIT, "trials.csv", "trial,reward\n1,2\n"),
        (AUDIT, "correlations.csv", ""),
        (AUDIT, "report.html", "<html><title>My thesis</title></html>"),
        (AUDIT, "trainings.log", "epoch 1\n"),
        (MODEL, "tradeoff.json", "[]"),
        (MODEL, "report.html", "<html></html>"),
        (MODEL, "models/nets-net-50.safetensors", "weights"),
        (MODEL, "models/best.safetensors", "weights"),
    ],
)
def test_files_of_others_are_never_replaced(folder: Path, command: tuple[str, ...], name: str, content: str) -> None:
    path = folder / "out" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    done = prunetune(*command, cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        f"prunetune: out: 'out/{name}' is not a file that prunetune wrote, and would be replaced; "
        "move it away, or give another folder by --out"
    )
    assert path.read_text() == content
    assert not (folder / "store").exists()  # nothing was trained


@pytest.mark.slow
def test_files_of_an_earlier_run_are_replaced_and_figures_of_others_kept(folder: Path) -> None:
    (folder / "out" / "figures").mkdir()
    (folder / "out" / "figures" / "accuracy.svg").write_text("<svg/>")
    for command in (AUDIT, MODEL):
        assert [prunetune(*command, cwd=folder).returncode for _ in range(2)] == [0, 0]
    assert (folder / "out" / "figures" / "accuracy.svg").read_text() == "<svg/>"
    (folder / "out" / "models" / "nets-net-50.safetensors").write_bytes(b"of another training")
    assert prunetune(*MODEL, cwd=folder).returncode == 2
    (folder / "out" / "report.html").write_text("mine")
    assert prunetune("report", "out", cwd=folder).returncode == 2
    assert (folder / "out" / "report.html").read_text() == "mine"


@pytest.mark.slow
def test_an_export_that_fails_leaves_report_table_and_other_models(folder: Path) -> None:
    done = prunetune("prune", "--model", "nets:pool", *PRUNE, "--export", "int8-static,bitmask", cwd=folder)
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    made = [(name, network) for network in ("dense", "50 %") for name in ("onnx", "int8-static")]
    assert [line.split(": ")[1] for line in failed] == [f"export {name} of {network}" for name, network in made]
    assert failed[1].endswith("it is made from the onnx file, which there is not")
    assert "Traceback" not in done.stderr
    models = sorted(path.name for path in (folder / "out" / "models").glob("*.*"))
    assert {name.partition(".")[2] for name in models} == {"bitmask.safetensors", "safetensors"}
    assert {"report.html", "tradeoff.json"} <= {path.name for path in (folder / "out").iterdir()}
    assert done.stdout.splitlines()[1].startswith("Network")
    assert "Report: out/report.html" in done.stdout


@pytest.mark.slow
def test_a_layer_without_a_weight_is_said_in_terminal_page_and_notes(folder: Path) -> None:
    done = prunetune(*(part.replace("0.5", "0.999") for part in MODEL), cwd=folder)
    assert "no weight of 3.weight is left" in done.stdout
    assert "no weight of 3.weight is left" in (folder / "out" / "report.html").read_text()
    done = prunetune(*AUDIT[:3], "audited", *AUDIT[4:], "--set", "sparsities=[0.999]", cwd=folder)
    assert "no weight of '3.weight' is left by one_shot @ 0.999" in done.stdout.splitlines()
    notes = json.loads((folder / "audited" / "results.json").read_text())["notes"]
    assert "no weight of '3.weight' is left by one_shot @ 0.999 (in 1 of 1 mask)" in notes
