"""Models as people have them at export: wrapped, with odd signatures and outputs, for two examples at least."""

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

import prunetune as pt
from prunetune.deploy.graph_comparison import Batch, largest_error
from prunetune.deploy.graph_export import _of_tensors, _why_not_onnx, plain
from tests.support.refusals import refused

X = torch.randn(4, 8)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Star(nn.Sequential):
    def forward(self, *args: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(*args)


class By(nn.Module):
    """A linear layer with what `change` makes of its output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))


class Recurrent(nn.Module):
    """Over series with the batch in the second dimension, as torch's recurrent layers have it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.reshape(5, -1, 8))[-1]


Pair = namedtuple("Pair", "logits features")


def program(model: nn.Module, path: Path, inputs: Any = X, **options: Any) -> Any:
    assert pt.export(model, None, path, inputs, **options).zeros_exact
    return torch.export.load(path).module()


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, AveragedModel, lambda m: torch.compile(m, backend="eager"), lambda m: Star(*m)],
    ids=["DataParallel", "AveragedModel", "compiled", "*args"],
)
def test_a_wrapped_model_is_exported_as_the_network_within(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = mlp()
    with torch.no_grad():
        model.get_parameter("0.weight")[:8] = 0
    run = program(wrap(model), tmp_path / "m.pt2")
    assert torch.allclose(run(X[:3]), model(X[:3]))


@pytest.mark.parametrize(
    "change",
    [lambda y: Pair(y, (y, y)), lambda y: y.max(1), lambda y: {"a": [y.max(1)]}],
    ids=["namedtuple", "torch.return_types", "nested"],
)
def test_named_tuples_are_tuples_in_a_program(change: Callable[[Tensor], Any], tmp_path: Path) -> None:
    model = By(change)
    found = program(model, tmp_path / "m.pt2")(X)
    assert type(found) in (tuple, dict)
    wanted = tree_leaves(plain(model(X)))
    assert all(torch.allclose(a, b) for a, b in zip(tree_leaves(found), wanted, strict=True))


def test_a_model_that_needs_two_examples_is_compared_with_others(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 4))
    run = program(model, tmp_path / "m.pt2")
    assert torch.allclose(run(X[:2]), model.eval()(X[:2]), atol=1e-6)


def test_the_batch_may_be_another_dimension(tmp_path: Path) -> None:
    model, series = Recurrent(), torch.randn(5, 4, 8)
    with refused("model", "batch_dim"):
        pt.export(model, None, tmp_path / "m.pt2", series)
    run = program(model, tmp_path / "m.pt2", series, batch_dim=1)
    assert torch.allclose(run(series[:, :2]), model(series[:, :2]), atol=1e-6)
    with refused("example_inputs", "2", "dimension"):
        Batch.of(X, 2)


def test_a_file_that_does_not_run_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> list[Tensor]:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code\nat line 5")

    with refused("model", "4", "status"):
        largest_error(mlp(), broken, Batch.of(X), 1e-4)


def test_onnx_has_no_complex_numbers_and_no_texts() -> None:
    with refused("model", "complex"):
        _of_tensors({"a": torch.zeros(2, dtype=torch.complex64)})
    assert _of_tensors((X, "cat", 3)) == (X,)
    assert _of_tensors({"a": X, "b": None}) == {"a": X, "b": None}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda y: {"logits": y, "features": 2 * y}, ["logits", "features"]),
        (lambda y: {"twice": y, "once": y}, ["twice", "once"]),
        (lambda y: {"x": y}, None),  # the input's
        (lambda y: {"layer.weight": y}, None),
        (lambda y: {0: y, 1: 2 * y}, None),
        (lambda y: {"logits": y, "pair": (y, 2 * y)}, None),
    ],
    ids=["two", "one tensor", "an input", "a weight", "numbers", "nested"],
)
def test_outputs_have_the_names_of_a_mapping(
    change: Callable[[Tensor], Any], names: list[str] | None, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
    model = By(change)
    pt.export(model, None, tmp_path / "m.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    if names is None:  # the exporter's own
        assert not {output.name for output in session.get_outputs()} & {"logits", "x", "layer.weight", "0"}
        return
    assert [output.name for output in session.get_outputs()] == names
    for name in names:
        (found,) = session.run([name], {"x": X.numpy()})
        assert torch.allclose(torch.from_numpy(found), model(X)[name], atol=1e-6)


def test_a_list_for_each_example_fixes_the_batch_size(tmp_path: Path) -> None:
    with refused("model", "list", "each example", "part"):
        pt.export(By(lambda y: [{"boxes": one} for one in y]), None, tmp_path / "m.pt2", X)


def test_the_operator_that_onnx_lacks_is_named() -> None:
    error = RuntimeError("Failed to convert.\nNext steps:")
    error.__cause__ = ValueError("Error when translating node")
    lacking = "No ONNX function found for <OpOverload(op='aten.adaptive_max_pool2d', overload='default')>. Failure"
    error.__cause__.__cause__ = KeyError(lacking)
    assert _why_not_onnx(error) == "it has no operator for aten.adaptive_max_pool2d"
    assert _why_not_onnx(RuntimeError("first\nsecond")) == "first"
    error.__cause__ = ValueError("why\nmore")
    assert _why_not_onnx(error) == "ValueError: why"


def test_a_state_of_sparse_tensors_is_refused(tmp_path: Path) -> None:
    model = mlp()
    model.register_buffer("adjacency", torch.eye(4).to_sparse())
    for name in ("m.safetensors", "m.bitmask.safetensors", "m.pt2"):
        with refused("model", "adjacency", "sparse_coo", "state"):
            pt.export(model, None, tmp_path / name, torch.randn(4, 8))
    pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
    assert pt.export(model, None, tmp_path / "m.onnx", torch.randn(4, 8)).zeros_exact  # a graph without it


def test_a_decoders_cache_is_no_output_of_an_onnx_file_and_named_elsewhere(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1, attn_implementation="eager"
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    given = {"input_ids": torch.tensor([[3, 1, 4], [9, 2, 6]])}
    assert pt.export(model, None, tmp_path / "m.onnx", given).max_error < 1e-5
    with refused("model", "model.config.use_cache", "False"):
        pt.export(model, None, tmp_path / "m.pt2", given)
    model.config.use_cache = False
    run = program(model, tmp_path / "m.pt2", given)
    assert torch.allclose(run(**given)["logits"], model(**given).logits, atol=1e-5)
