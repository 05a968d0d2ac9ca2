"""`prunetune prune` as somebody types it, on real images at a size that takes seconds."""

import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from prunetune.data import identify, load
from tests.support import user_net
from tests.support.cli_runs import prunetune

pytestmark = pytest.mark.slow

DATA = ["--data", "fashion-mini", "--set", "data_args.train_limit=1280", "--epochs", "1"]
USER = ["--model", "user_net:build", "--weights", "trained.pt", *DATA]
LISTED = [*USER, "--sparsity", "0.5,0.9", "--learning-rate", "0.05", "--export", "bitmask", "--store", "store"]
MACS = {"0.weight": 56_448, "3.weight": 28_800, "6.weight": 4_000}
PARAMETERS = 8 * 9 + 8 + 16 * 72 + 16 + 4_000 + 10


def trained_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return user_net.build((1, 28, 28), 10).state_dict()


def user_folder(folder: Path) -> Path:
    """A folder with the user's module and trained weights."""
    shutil.copy(user_net.__file__, folder)
    torch.save({"state_dict": trained_weights(), "epoch": 3}, folder / "trained.pt")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_folder(tmp_path_factory.mktemp("prune"))


@pytest.fixture(scope="module")
def first(folder: Path) -> subprocess.CompletedProcess[str]:
    done = prunetune("prune", *LISTED, "--out", "out", "--jobs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def found(folder: Path, first: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads((folder / "out" / "tradeoff.json").read_text(), parse_constant=refuse)


def test_it_says_what_it_did_and_where_it_all_lies(folder: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert "2 trainings (2 epochs) to run, 0 cached" in first.stderr
    lines = first.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["Network", "dense", "50", "90"]
    assert "Unstructured zeros do not make this network faster here" in first.stdout or "Faster here" in first.stdout
    assert "  first convolution (72 weights): 0.weight" in lines
    assert "  bias (34 weights): 0.bias, 3.bias, 6.bias" in lines
    named = [re.split(": | [(]", line)[1] for line in lines if line.startswith(("Model: ", "Report: "))]
    stems = [f"out/models/user_net-build-{s}.{x}" for s in (50, 90) for x in ("safetensors", "bitmask.safetensors")]
    assert named == [*stems, "out/report.html"]
    assert all((folder / path).is_file() for path in named)
    files = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.*")}
    drawn = ("tradeoff", "cost-size", "cost-time-1", "cost-time-64", "layers-50", "layers-90")
    copies = {f"models/best.{suffix}" for suffix in ("safetensors", "bitmask.safetensors")}
    assert copies <= files
    assert files - copies == {path.removeprefix("out/") for path in named} | {f"figures/{n}.svg" for n in drawn} | {
        "tradeoff.json",
        "trainings.log",
    }


def test_the_best_network_leads_and_is_written_once_more(folder: Path, found: dict[str, Any]) -> None:
    dense, *pruned = found["rows"]
    near = [row for row in pruned if dense["accuracies"][0] - row["accuracies"][0] <= 0.5]
    (line,) = [line for line in (folder / "out" / "report.html").read_text().splitlines() if line.startswith("<h1>")]
    best = next(row for row in pruned if row["sparsity"] == found["best"])
    assert best in near
    assert line.startswith(f"<h1>Best within 0.5 points of dense: {100 * found['best']:g} % sparse")
    listed = json.loads((folder / "out" / "models" / "LIST").read_text())["files"]
    for file, copy in zip(best["files"], found["best_files"], strict=True):
        assert (folder / "out" / copy).read_bytes() == (folder / "out" / file["path"]).read_bytes()
        assert listed[Path(copy).name] == listed[Path(file["path"]).name]


def test_the_counts_are_those_of_the_exported_files(folder: Path, found: dict[str, Any]) -> None:
    dense, *pruned = found["rows"]
    assert (dense["parameters"], dense["macs"], dense["effective_macs"]) == (PARAMETERS, 89_248, 89_248)
    assert dense["nonzeros"] == sum(int((tensor != 0).sum()) for tensor in trained_weights().values())
    assert (dense["files"], [row["sparsity"] for row in pruned]) == ([], [0.5, 0.9])
    for row in pruned:
        assert [file["zeros_exact"] for file in row["files"]] == [True, True]
        state = load_file(folder / "out" / row["files"][0]["path"])
        nonzero = {name: sum(value != 0 for value in tensor.flatten().tolist()) for name, tensor in state.items()}
        assert row["nonzeros"] == sum(nonzero.values())
        assert nonzero["3.weight"] == round((1 - row["sparsity"]) * 1152)
        assert {layer["name"]: layer["nonzero"] for layer in row["layers"]} == nonzero
        effective = sum(macs * nonzero[name] / state[name].numel() for name, macs in MACS.items())
        assert (row["macs"], row["effective_macs"]) == (89_248, round(effective))
        content = save(state)
        assert (row["raw_bytes"], row["compressed_bytes"]) == (len(content), len(zlib.compress(content, 9)))
        sizes = [(folder / "out" / file["path"]).stat().st_size for file in row["files"]]
        assert [file["bytes"] for file in row["files"]] == sizes
        packed = [len(zlib.compress((folder / "out" / file["path"]).read_bytes(), 9)) for file in row["files"]]
        assert [file["compressed_bytes"] for file in row["files"]] == packed


def test_the_accuracies_are_those_of_the_exported_files(folder: Path, found: dict[str, Any]) -> None:
    states = [trained_weights()]
    states += [load_file(folder / "out" / row["files"][0]["path"]) for row in found["rows"][1:]]
    for row, state in zip(found["rows"], states, strict=True):
        assert row["accuracies"] == pytest.approx([accuracy(state)], abs=0.05)


def accuracy(state: dict[str, Tensor]) -> float:
    """Percent of the test images that the user's network, by itself, gets right."""
    model: nn.Module = user_net.build((1, 28, 28), 10)
    model.load_state_dict(state)
    images, labels = examples_of_the_test()
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).double().mean().item()


def examples_of_the_test() -> tuple[Tensor, Tensor]:
    """Normalised by the training images, as the study has them, and their labels."""
    data = load(identify("fashion-mini", {"train_limit": 1280}))
    pixels = data.train_images.double() / 255
    return ((data.test_images.double() / 255 - pixels.mean()) / pixels.std(correction=0)).float(), data.test_labels


def test_a_second_run_trains_nothing_and_finds_the_same(folder: Path, found: dict[str, Any]) -> None:
    again = prunetune("prune", *LISTED, "--out", "again", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "0 trainings (0 epochs) to run, 2 cached" in again.stderr
    other = json.loads((folder / "again" / "tradeoff.json").read_text())
    for one, two in zip(found["rows"], other["rows"], strict=True):
        assert {**one, "timings": None} == {**two, "timings": None}
    for path in (folder / "out" / "models").glob("*.safetensors"):
        state, repeated = load_file(path), load_file(folder / "again" / "models" / path.name)
        assert state.keys() == repeated.keys()
        assert all(torch.equal(tensor, repeated[name]) for name, tensor in state.items())


def test_an_audit_of_the_same_study_has_the_trainings_already(folder: Path, found: dict[str, Any]) -> None:
    (folder / "study.yaml").write_text(json.dumps(found["study"]))
    planned = prunetune("plan", "study.yaml", "--store", "store", cwd=folder)
    assert "0 trainings (0 epochs) to run, 2 cached" in planned.stdout, planned.stderr
    more = ["--set", "arms=[finetune, reinit]", "--store", "store"]
    assert "2 trainings (2 epochs) to run, 2 cached" in prunetune("plan", "study.yaml", *more, cwd=folder).stdout


def test_report_renders_the_same_bytes_again(folder: Path, first: subprocess.CompletedProcess[str]) -> None:
    out = folder / "out"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (out / "report.html").unlink()
    done = prunetune("report", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_without_weights_a_dense_network_is_trained_and_seeds_are_averaged(tmp_path: Path) -> None:
    asked = ["--model", "small", *DATA, "--sparsity", "0.8", "--seeds", "2", "--store", "store", "--out", "out"]
    done = prunetune("prune", *asked, "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 trainings (4 epochs) to run, 0 cached" in done.stderr
    rows = json.loads((tmp_path / "out" / "tradeoff.json").read_text())["rows"]
    assert [(row["sparsity"], len(row["accuracies"]), row["seed"]) for row in rows] == [(0, 2, 0), (0.8, 2, 0)]
    assert "one seed" not in done.stdout


def test_a_dense_network_that_diverges_is_an_answer(tmp_path: Path) -> None:
    asked = ["--model", "small", *DATA, "--sparsity", "0.8", "--learning-rate", "1e12", "--store", "store"]
    done = prunetune("prune", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "missing: dense, seed 0: diverged" in done.stdout
    assert "missing: 80 %, seed 0: diverged source" in done.stdout
    assert "No pruned network" in (tmp_path / "runs" / "small-fashion-mini-pruned" / "report.html").read_text()


def test_channels_are_taken_out_of_what_is_measured_and_exported(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    user_folder(tmp_path)
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
    asked = [*USER, "--sparsity", "0.5", "--pattern", "channel", "--export", "pt2,onnx", "--export", "int8-static"]
    done = prunetune("prune", *asked, "--store", "store", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    graphs = (
        r"^Model: out/models/user_net-build-50\.(pt2|onnx) "
        r"\([\d.]+ kB \([\d.]+ kB compressed\), outputs within \S+ of torch's, zeros exact\)$"
    )
    assert len(re.findall(graphs, done.stdout, re.M)) == 2
    going = f"{1 - (4 * 9 * 784 + 8 * 36 * 25 + 2000) / (56_448 + 28_800 + 4_000):.1%}"
    told = f"Channels: at sparsity 0.5, {going} of the multiply-accumulates can go"
    assert done.stdout.splitlines().count(told) == 1
    dense, row = json.loads((tmp_path / "out" / "tradeoff.json").read_text())["rows"]
    assert (dense["shrunk"], row["shrunk"]) == (False, True)
    left = 4 * 9 + 4 + 8 * 36 + 8 + 200 * 10 + 10  # 4 of 8 channels, then 8 of 16
    assert (row["parameters"], row["macs"]) == (left, 4 * 9 * 784 + 8 * 36 * 25 + 2000)
    assert row["raw_bytes"] < dense["raw_bytes"]
    whole = user_net.build((1, 28, 28), 10)  # the weights still fit the user's own model
    whole.load_state_dict(load_file(tmp_path / "out" / row["files"][0]["path"]))
    program = torch.export.load(tmp_path / "out" / row["files"][1]["path"])
    assert sum(tensor.numel() for tensor in program.state_dict.values()) == left
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), whole(images), atol=1e-4, rtol=1e-4)
    images, labels = examples_of_the_test()
    for files in (dense["files"], row["files"][2:]):
        assert [file["format"] for file in files] == ["onnx", "int8-static"]
        for file in files:
            session = onnxruntime.InferenceSession(tmp_path / "out" / file["path"])
            (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            right = torch.from_numpy(scores).argmax(1) == labels
            assert file["score"] == pytest.approx(100 * right.double().mean().item(), abs=0.05)
            assert [(timing["batch"], timing["rounds"]) for timing in file["timings"]] == [(1, 30), (64, 30)]
            assert file["zeros_exact"]
    assert dense["files"][1]["bytes"] < 0.6 * dense["files"][0]["bytes"]
    assert [timing["speedup"] for timing in dense["files"][0]["timings"]] == [1, 1]
    assert dense["files"][0]["score"] == pytest.approx(accuracy(trained_weights()), abs=0.05)
    assert f"50 % int8-static  {row['files'][3]['score']:.2f}".split() == line_of("50 % int8-static", done.stdout)[:4]


def line_of(network: str, stdout: str) -> list[str]:
    return next(line for line in stdout.splitlines() if line.startswith(network)).split()
