"""ONNX files in 8 bits: their zeros by onnxruntime itself, their arithmetic by a slow loop, and what is refused."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunetune as pt
from prunetune.deploy.onnx_runtime import OnnxNetwork
from prunetune.deploy.quantised import Quantised, Ranges, _zeros, write_int8
from tests.support.refusals import refused

onnx = pytest.importorskip("onnx", reason="needs the extra prunetune[onnx]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
LINE = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) * 4 - 1
RANGES: tuple[Ranges, ...] = ("static", "dynamic")


def convolutional() -> nn.Sequential:
    """With batch norm, which the exporter folds, a grouped convolution and, once pruned, channels without a weight."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight, 0.5, 2)
    layers = nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(512, 20), nn.ReLU(), nn.Linear(20, 4)).eval()


def attentive() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(144, 4, 32, batch_first=True)).eval()


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3)).eval()


@cache
def source(build: Callable[[], nn.Sequential]) -> tuple[nn.Sequential, dict[str, Tensor], bytes]:
    """A pruned model, its mask, and its ONNX file."""
    model = build()
    mask = dict(pt.compute_mask(model, 0.7 if len(model) > 1 else 0.4))
    if build is convolutional:  # an output channel of nothing but zeros has no range to be scaled by
        mask["3.weight"][2] = False
    with TemporaryDirectory() as folder:
        content = pt.export(model, mask, Path(folder) / "m.onnx", inputs_of(model)[:4]).path.read_bytes()
    pt.apply_mask(model, mask)
    model.state_dict()
    pt.remove_mask(model)
    return model, mask, content


def inputs_of(model: nn.Sequential) -> Tensor:
    return LINE if len(model) == 1 else X


def written(folder: Path, build: Callable[[], nn.Sequential], ranges: Ranges) -> tuple[Quantised, Path]:
    """The file in 8 bits of a pruned model."""
    model, _, content = source(build)
    (folder / "m.onnx").write_bytes(content)
    path, inputs = folder / "m.int8.onnx", inputs_of(model)
    return write_int8(path, folder / "m.onnx", ranges, model, inputs[:4], inputs), path


def dequantised(path: Path, name: str) -> Any:
    """A weight as onnxruntime itself takes it out of 8 bits, by an operator of its own beside the graph."""
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    parts = [stored[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point")]
    channels = onnx.numpy_helper.to_array(parts[1])
    shape = onnx.numpy_helper.to_array(parts[0]).shape
    axis = next(i for i, size in enumerate(shape) if size == channels.size) if channels.ndim else 0
    node = onnx.helper.make_node("DequantizeLinear", [part.name for part in parts], ["out"], axis=axis)
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "g", [], [out], initializer=parts)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})[0]


@pytest.mark.parametrize("ranges", RANGES)
def test_pruned_weights_are_zero_and_others_within_half_a_step(ranges: Ranges, tmp_path: Path) -> None:
    _, mask, _ = source(convolutional)
    found, path = written(tmp_path, convolutional, ranges)
    assert found.zeros_exact
    exact = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    zeros = weights = 0
    for name, kept in mask.items():
        place = name if ranges == "static" or ("6." not in name and "8." not in name) else f"{name}_Transposed"
        weight = dequantised(path, place)
        weight = weight if place == name else weight.T
        assert not weight[~kept.numpy()].any()
        rows = exact[name].reshape(len(exact[name]), -1)
        convolution = rows.shape != exact[name].shape
        steps = np.abs(rows).max(axis=None if ranges == "dynamic" and convolution else 1) / 127
        assert (np.abs(weight.reshape(rows.shape) - rows).max(axis=1) <= 0.51 * steps + 1e-7).all()
        zeros, weights = zeros + int((weight == 0).sum()), weights + weight.size
    first = dequantised(path, "0.weight")  # which is not pruned
    assert (found.zeros, found.weights) == (zeros + int((first == 0).sum()), weights + first.size)
    assert found.zeros >= sum(int((~kept).sum()) for kept in mask.values())


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("build", [convolutional, attentive])
def test_outputs_are_near_the_models_at_any_batch_size(
    build: Callable[[], nn.Sequential], ranges: Ranges, tmp_path: Path
) -> None:
    model, _, _ = source(build)
    found, path = written(tmp_path, build, ranges)
    assert found.zeros_exact
    with torch.no_grad():
        expected = model(X)
        given = OnnxNetwork(path, expected)(X)
        errors = [(model(X[:size]) - OnnxNetwork(path, expected)(X[:size])).abs().max().item() for size in (4, 1)]
    assert (given - expected).abs().max() < 0.1 * expected.abs().max()
    assert found.max_error == pytest.approx(max(errors), rel=1e-5)


def test_a_linear_layer_is_the_integer_sum(tmp_path: Path) -> None:
    _, path = written(tmp_path, linear, "static")
    model, inputs = source(linear)[0], LINE
    layer: Any = model[0]
    low, high = float(min(inputs.min(), 0)), float(inputs.max())
    scale = (high - low) / 255
    zero = round(-low / scale)
    weight = layer.weight.detach().double()
    steps = weight.abs().amax(dim=1) / 127
    out = [[0.0] * 3 for _ in inputs]
    for i, example in enumerate(inputs.double()):
        for j in range(3):
            total = 0
            for k in range(5):
                code = min(255, max(0, round(float(example[k]) / scale) + zero)) - zero
                total += code * round(float(weight[j, k] / steps[j]))
            out[i][j] = total * scale * float(steps[j]) + float(layer.bias.detach()[j])
    with torch.no_grad():
        given = OnnxNetwork(path, model(inputs))(inputs)
    # The result is itself in 8 bits over the range that the examples bring about.
    step = float(max(max(map(max, out)), 0) - min(min(map(min, out)), 0)) / 255
    assert (given.double() - torch.tensor(out, dtype=torch.double)).abs().max() <= 0.51 * step + 2e-3


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for ranges in RANGES:
        files = [written(tmp_path, attentive, ranges)[1].read_bytes() for _ in range(2)]
        assert files[0] == files[1]
        assert str(tmp_path).encode() not in files[0]


WEIGHT = np.array([[0.0, 2.0], [0.0, -1.0]], np.float32)
CODES = np.array([[0, 127], [0, -127]], np.int8)
WRONG = np.array([[1, 127], [0, -127]], np.int8)
SHIFTED = np.array([[128, 255], [128, 1]], np.uint8)
NONE, SOME = np.zeros(2, np.int8), np.array([0, 3], np.int8)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"w_quantized": CODES, "w_zero_point": NONE}, (True, 2, 4)),
        ({"w_Transposed_quantized": CODES.T, "w_Transposed_zero_point": NONE}, (True, 2, 4)),
        ({"w_quantized": WRONG, "w_zero_point": NONE}, (False, 1, 4)),
        ({"w_quantized": SHIFTED, "w_zero_point": np.array(128, np.uint8)}, (True, 2, 4)),
        ({"w_quantized": CODES, "w_zero_point": np.array(5, np.int8)}, (False, 0, 4)),
        ({"w_quantized": CODES, "w_zero_point": SOME}, (False, 0, 0)),  # nothing is known of such
        ({"w": WEIGHT}, (True, 0, 0)),  # left as it is
        ({"w": WEIGHT + 1}, (False, 0, 0)),
        ({}, (False, 0, 0)),
    ],
)
def test_zeros_are_looked_up_under_the_names_that_the_quantiser_gives(
    stored: dict[str, Any], expected: tuple[bool, int, int]
) -> None:
    assert (
        _zeros({"w": WEIGHT, "bias": np.zeros(2, np.float32), "shape": np.zeros((2, 2), np.int64)}, stored) == expected
    )


def test_a_network_that_has_no_8_bit_form_is_refused(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.r(x)[0]

    model, series = Recurrent().eval(), torch.randn(4, 5, 4)
    exported = pt.export(model, None, tmp_path / "m.onnx", series).path
    with refused("model", "8-bit"):
        write_int8(tmp_path / "m.int8.onnx", exported, "static", model, series, series)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with refused("model", "8 bits"):
        write_int8(tmp_path / "m.int8.onnx", tmp_path / "broken.onnx", "dynamic", model, series, series)


def test_the_quantisers_advice_is_kept_from_whoever_prunes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    written(tmp_path, convolutional, "static")
    assert (root.level, root.handlers) == before
    assert capfd.readouterr() == ("", "")


def test_a_file_gives_what_the_model_gives_in_its_form(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 1)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"first": self.a(x), "pair": (self.b(y), None)}

    model, inputs = Named().eval(), {"x": torch.randn(4, 3), "y": torch.randn(4, 3)}
    path = pt.export(model, None, tmp_path / "m.onnx", inputs).path
    with torch.no_grad():
        expected = model(**inputs)
    running = OnnxNetwork(path, expected)
    for found in (running(**inputs), running(*inputs.values())):
        assert (list(found), found["pair"][1]) == (["first", "pair"], None)
        torch.testing.assert_close(found["first"], expected["first"])
        torch.testing.assert_close(found["pair"][0], expected["pair"][0])
    with refused("model", 3, 2):
        OnnxNetwork(path, [torch.zeros(1)] * 3)
