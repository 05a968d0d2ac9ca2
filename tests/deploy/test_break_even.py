"""The break-even table: what is timed against what, where it stops, what it says, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunetune.cli import main as cli
from prunetune.deploy import break_even, other_runtimes
from prunetune.deploy.break_even import BreakEven, Contest, LayerShape, Measured, break_evens, line, to_json
from prunetune.deploy.latency import Latency, Speedup
from prunetune.deploy.other_runtimes import onnxruntime_layer
from prunetune.deploy.sparse_kernels import SparseConv2d, SparseLinear
from tests.support.cli_runs import prunetune
from tests.support.refusals import refused

needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL has no such kernels")
CSR = Contest("torch CSR", "torch")


class Clock:
    """Says that the sparse kernel is `faster[sparsity]` times as fast, by the sparsity nearest to the layer's."""

    def __init__(self, faster: Mapping[float, float]) -> None:
        self.faster = faster
        self.seen: list[tuple[str, str, tuple[int, ...], int, int]] = []

    def __call__(
        self, models: Mapping[str, nn.Module], inputs: Tensor, *, rounds: int, threads: int
    ) -> dict[str, Latency]:
        dense, sparse = models["dense"], models["sparse"]
        self.seen.append((type(dense).__name__, type(sparse).__name__, tuple(inputs.shape), rounds, threads))
        weight = sparse.weight
        assert isinstance(weight, Tensor)
        zeros = float((weight == 0).float().mean())
        ratio = self.faster[min(self.faster, key=lambda sparsity: abs(sparsity - zeros))]
        return {"dense": Latency((0.01,) * rounds, threads), "sparse": Latency((0.01 / ratio,) * rounds, threads)}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other runtime is installed."""
    for name in ("has_onnxruntime", "has_openvino"):
        monkeypatch.setattr(break_even, name, lambda: False)


def rows(clock: Clock, monkeypatch: pytest.MonkeyPatch, *shapes: str, threads: int = 1) -> list[BreakEven]:
    monkeypatch.setattr(break_even, "latencies", clock)
    return list(break_evens([LayerShape.parse(shape) for shape in shapes], [2], [0.5, 0.9, 0.7], threads))


@needs_mkl
@pytest.mark.usefixtures("alone")
def test_from_the_highest_sparsity_down_to_the_first_that_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({0.9: 3.0, 0.7: 1.5, 0.5: 0.8})
    linear, conv = rows(clock, monkeypatch, "64x48", "48x32x3x3@6", threads=2)
    assert [found.sparsity for found in linear.measured] == [0.9, 0.7, 0.5]
    assert [found.speedup.ratio for found in linear.measured] == pytest.approx([3, 1.5, 0.8])
    assert (linear.sparsity, conv.sparsity) == (0.7, 0.7)
    fits = 0.5 / (0.01 + 0.01 / 3)  # rounds in half a second
    assert clock.seen[:2] == [
        ("Linear", "SparseLinear", (2, 48), 2, 2),
        ("Linear", "SparseLinear", (2, 48), int(fits), 2),
    ]
    assert clock.seen[-1][:3] == ("Conv2d", "SparseConv2d", (2, 32, 6, 6))


@needs_mkl
@pytest.mark.usefixtures("alone")
def test_a_sparse_kernel_that_loses_at_the_highest_is_tried_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({0.9: 1.0, 0.7: 9.0, 0.5: 9.0})
    (found,) = rows(clock, monkeypatch, "64x48")
    assert len(found.measured) == 1
    assert found.sparsity is None


def row(*found: tuple[float, float, float]) -> BreakEven:
    def made(sparsity: float, low: float, ratio: float) -> Measured:
        return Measured(
            sparsity, Latency((0.002, 0.002), 1), Latency((0.001, 0.001), 1), Speedup(ratio, low, ratio + 1)
        )

    return BreakEven(LayerShape(64, 48), 2, CSR, tuple(made(*each) for each in found))


def test_the_break_even_is_that_of_the_lower_bound() -> None:
    assert row((0.9, 1.2, 3), (0.8, 1.001, 2), (0.7, 1.0, 1.5)).sparsity == 0.8
    assert row((0.9, 0.9, 3)).sparsity is None
    assert row((0.9, 1.2, 3)).sparsity == 0.9


def test_a_line_and_the_file_say_the_same() -> None:
    found = row((0.9, 1.2, 3), (0.8, 1.1, 2), (0.7, 1.0, 1.5))
    said = "64x48 2 torch CSR torch 2 0.8 2.00x [1.10, 3.00] 3.00x [1.20, 4.00] at 0.9"
    assert " ".join(line(found).split()) == said
    assert line(row((0.9, 0.9, 3))).split()[5:7] == ["2", "never"]
    content = json.loads(to_json([found], 1, [0.9, 0.8, 0.7]))
    assert content["sparsities"] == [0.7, 0.8, 0.9]
    assert content["environment"]["torch"] == torch.__version__
    (stored,) = content["rows"]
    assert (stored["layer"], stored["batch"], stored["faster_from"]) == ("64x48", 2, 0.8)
    assert (stored["sparse_kernel"], stored["dense_kernel"]) == ("torch CSR", "torch")
    assert stored["measured"][1] == {
        "sparsity": 0.8,
        "rounds": 2,
        "dense": {"median": 0.002, "low": 0.002, "high": 0.002},
        "sparse": {"median": 0.001, "low": 0.001, "high": 0.001},
        "speedup": {"ratio": 2, "low": 1.1, "high": 3},
    }


def test_a_layer_has_the_zeros_and_the_shape_that_are_asked_for() -> None:
    shape = LayerShape.parse("40x30x5x5@12")
    layer = shape.layer(0.8)
    weight = layer.get_parameter("weight")
    assert weight.shape == (40, 30, 5, 5)
    assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=0.01)
    assert layer(shape.example(3)).shape == (3, 40, 12, 12)
    assert torch.equal(shape.layer(0.8).get_parameter("weight"), weight)
    assert str(shape) == "40x30x5x5@12"
    assert str(LayerShape.parse("40x30")) == "40x30"


@pytest.mark.parametrize(
    "text", ["", "64", "64x", "64x0", "64x64x3", "64x64x3x3", "64x64@8", "64x64x3x5@8", "64x64x2x2@8", "axb", "9e3x2"]
)
def test_a_shape_of_another_form_is_refused(text: str) -> None:
    with refused("shape"):
        LayerShape.parse(text)


def test_a_layer_too_large_is_refused() -> None:
    with refused("shape", 2**28):
        LayerShape.parse("99999x99999")


@pytest.mark.parametrize("settings", ["64x48", "48x32x1x1@6", "8x6x3x3@5"])
def test_onnxruntime_computes_the_layer(settings: str) -> None:
    pytest.importorskip("onnxruntime")
    shape = LayerShape.parse(settings)
    layer, inputs = shape.layer(0.5), shape.example(3)
    torch.testing.assert_close(onnxruntime_layer(layer, inputs, 1)(inputs), layer(inputs))


OPENVINO = """
import torch
from prunetune.deploy.break_even import LayerShape
from prunetune.deploy.other_runtimes import openvino_layer

shape = LayerShape.parse("128x64")
layer, inputs = shape.layer(0.9), shape.example(3).clamp(-3.9, 3.9)
dense, sparse = (openvino_layer(layer, inputs, 1, sparse=kept)(inputs).clone() for kept in (False, True))
exact = torch.nn.functional.linear(inputs, layer.get_parameter("weight"))
error = float((dense - exact).abs().max()) / float(exact.abs().max())
print(torch.equal(dense, sparse), 0 < error < 0.05)
"""


@pytest.mark.slow
def test_openvino_computes_the_layer_in_int8_and_its_two_forms_agree() -> None:
    """In a process of its own, as every test of OpenVINO: it brings threads that others need not share."""
    if not other_runtimes.has_openvino():
        pytest.skip("needs the extra prunetune[openvino]")
    done = subprocess.run([sys.executable, "-c", OPENVINO], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_openvino_is_asked_for_the_layers_that_it_keeps_sparse() -> None:
    contest = Contest("OpenVINO sparse int8", "OpenVINO int8")
    fits = {
        text: contest.fits(LayerShape.parse(text)) for text in ("128x64", "64x64", "128x96", "96x128", "128x64x1x1@4")
    }
    assert fits == {"128x64": True, "64x64": False, "128x96": False, "96x128": False, "128x64x1x1@4": False}
    assert CSR.fits(LayerShape.parse("96x33x3x3@4"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["prunetune", "bench-kernels", *arguments])
    monkeypatch.setattr("sys.path", list(sys.path))  # main puts the current folder first
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@needs_mkl
@pytest.mark.slow
def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    """For real: every runtime that is here, on small layers."""
    asked = ["--shape", "128x64", "--shape", "8x4x1x1@4", "--batch", "1,3", "--sparsity", "0.9"]
    done = prunetune("bench-kernels", *asked, "--out", "new/kernels.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "new" / "kernels.json").read_text())
    kernels = {row["dense_kernel"] for row in content["rows"]}
    assert {"torch"} <= kernels <= {"torch", "onnxruntime", "OpenVINO int8"}
    assert ("onnxruntime" in kernels) == other_runtimes.has_onnxruntime()
    assert ("OpenVINO int8" in kernels) == other_runtimes.has_openvino()
    assert {(row["layer"], row["batch"]) for row in content["rows"] if row["dense_kernel"] == "torch"} == {
        (shape, batch) for shape in ("128x64", "8x4x1x1@4") for batch in (1, 3)
    }
    assert all(found["rounds"] >= 20 for row in content["rows"] for found in row["measured"])
    printed = done.stdout.splitlines()
    assert "1 thread" in printed[0]
    assert len(printed) == 3 + len(content["rows"])
    assert printed[2].startswith("Layer")


@needs_mkl
def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("has_onnxruntime", "has_openvino"):
        monkeypatch.setattr(break_even, name, lambda: False)
    assert command(monkeypatch, "--shape", "8x4", "--batch", "1", "--sparsity", "0.9") == 0
    assert capsys.readouterr().err == (
        "onnxruntime is not compared: install prunetune[onnx]\nOpenVINO is not compared: install prunetune[openvino]\n"
    )


def test_without_mkl_nothing_is_printed_but_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert command(monkeypatch, "--shape", "8x4") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("prunetune: torch: built without Intel's MKL")


@needs_mkl
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shape", "64x64x3"], "shape: '64x64x3'; must be OUTxIN"),
        (["--sparsity", "0.5,1"], "sparsity: 1 is not a share of a layer's weights; it must lie in (0, 1)"),
        (["--sparsity", "0,5,"], "'0,5,' has an empty entry"),
        (["--batch", "0"], "'0' is not a whole number of at least 1"),
        (["--shape", "64x8x1x1@1024", "--batch", "1,5"], "batch: 5; at most 4 of 64x8x1x1@1024"),
        (["--threads", "999"], "threads: 999; this machine has"),
        (["--out", "other.json"], "out: 'other.json' is not a file that bench-kernels wrote"),
        (["--out", "other.json/kernels.json"], "out: cannot write 'other.json/kernels.json'"),
        (["--out", "."], "out: cannot write '.'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("{}")
    assert command(monkeypatch, *arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("prunetune: ")
    assert line in told.err
    assert told.err.count("\n") == 1
    assert Path("other.json").read_text() == "{}"


def test_layers_of_the_table_are_those_of_the_library() -> None:
    kinds = {
        type(break_even._MAKERS["torch CSR"](LayerShape.parse(s).layer(0.9), torch.ones(1), 1))
        for s in ("8x8", "8x8x3x3@4")
    }
    assert kinds == {SparseLinear, SparseConv2d}
