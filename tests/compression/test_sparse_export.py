"""`sparse-layers`: the file that names the layers which run sparse, and the searches whose target in time it meets.

Which kernels are faster is planted here, since it hangs on the machine.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.api import Prepared
from prunetune.compression import budget_plan, measured_networks
from prunetune.compression.budget_plan import Search, plan_search, preflight_search
from prunetune.compression.budget_search import Found, run_search
from prunetune.compression.compress_models import plan_compression, preflight_compression, run_compression
from prunetune.compression.measured_networks import inputs_of
from prunetune.data import load_examples
from prunetune.deploy import load_bitmask, load_sparse, with_sparse_layers
from prunetune.deploy.latency import Latency
from prunetune.deploy.sparse_kernels import sparse_names
from prunetune.deploy.sparse_layers import SparseLayers
from prunetune.execution.events import Event
from prunetune.models import build
from prunetune.report.tradeoff.tradeoff_rows import ModelFile
from prunetune.spec.compression import CompressionRequest
from prunetune.spec.compression_budget import Budget, Target
from tests.support.refusals import refused

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL has no such kernels")

ASKED: dict[str, Any] = {"model": "small", "data": "fashion-mini", "epochs": 1, "learning_rate": 0.1}
FEW = ["data_args.train_limit=640"]
LAYERS = ("3", "6")  # the second and third convolution of `small`


def sparse_in(names: tuple[str, ...]) -> Callable[..., SparseLayers]:
    """Stands for `to_sparse_layers` where these layers are found to be faster."""

    def planted(model: nn.Module, mask: object, inputs: object) -> SparseLayers:
        return SparseLayers(with_sparse_layers(model, names), names, {}, {}, None, 1e-6)

    return planted


def clock(models: Mapping[str, nn.Module], inputs: Any, **_: object) -> dict[str, Latency]:
    """Twice as fast with a sparse layer."""
    return {name: Latency((0.5 if sparse_names(model) else 1.0,) * 6, 1) for name, model in models.items()}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_networks, "to_sparse_layers", sparse_in(LAYERS))
    for module in (measured_networks, budget_plan):
        monkeypatch.setattr(module, "latencies", clock)


def exported(folder: Path, formats: list[str]) -> tuple[Prepared, dict[float, dict[str, ModelFile]]]:
    prepared = plan_compression(None, FEW, CompressionRequest(**ASKED, sparsities=(0.9,)), store=folder / "store")
    out = preflight_compression(prepared, formats, folder / "out")
    shipped = run_compression(prepared, out, formats)
    assert not shipped.failures
    return prepared, {row.sparsity: {file.format: file for file in row.files} for row in shipped.rows}


@pytest.mark.slow
def test_the_file_names_the_layers_and_is_scored_and_timed_as_it_runs(tmp_path: Path, planted: None) -> None:
    prepared, files = exported(tmp_path, ["sparse-layers"])
    assert {sparsity: [*found] for sparsity, found in files.items()} == {0.0: [], 0.9: ["safetensors", "sparse-layers"]}
    file = files[0.9]["sparse-layers"]
    assert (file.path, file.sparse_layers, file.zeros_exact) == (
        "models/small-90.sparse.bitmask.safetensors",
        LAYERS,
        True,
    )
    assert [(timing.batch, timing.speedup) for timing in file.timings] == [(1, 2.0), (64, 2.0)]

    target, plan = tmp_path / "out" / file.path, prepared.plan
    fresh = build(plan.model, plan.input_shape, plan.outputs)
    sparse = load_sparse(fresh, target)
    assert tuple(sparse_names(sparse)) == LAYERS
    fresh.load_state_dict(load_bitmask(target))
    images, data = inputs_of(load_examples(plan.data)), load_examples(plan.data)
    with torch.no_grad():
        assert torch.allclose(sparse(images), fresh.eval()(images), atol=1e-5)
        test = data.test.gather(torch.arange(len(data.test)))
        logits = fresh(data.preparation(torch.device("cpu"))(test.inputs))
    accuracy = 100 * (logits.argmax(1) == test.targets).double().mean().item()
    assert file.score == pytest.approx(accuracy, abs=0.05)
    text = (tmp_path / "out" / "report.html").read_text().replace("\xa0", " ")
    assert "90 % sparse-layers" in text
    assert "With 2 layers run sparse" in text


@pytest.mark.slow
def test_where_nothing_is_faster_the_file_runs_dense_and_says_so(
    tmp_path: Path, planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_networks, "to_sparse_layers", sparse_in(()))
    _, files = exported(tmp_path, ["sparse-layers"])
    file = files[0.9]["sparse-layers"]
    assert (file.sparse_layers, file.timings) == ((), ())
    assert file.score is not None
    assert "90 % sparse-layers" not in (tmp_path / "out" / "report.html").read_text().replace("\xa0", " ")
    assert "its file has none" in (tmp_path / "out" / "report.html").read_text()


def test_what_has_no_sparse_layers_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    asked = CompressionRequest(**ASKED, sparsities=(0.5,), pattern="channel")
    prepared = plan_compression(None, FEW, asked, store=tmp_path / "store")
    with refused("--export", "sparse-layers", "channel"):
        preflight_compression(prepared, ["sparse-layers"], tmp_path / "out")
    prepared = plan_compression(None, FEW, CompressionRequest(**ASKED, sparsities=(0.5,)), store=tmp_path / "store")
    assert preflight_compression(prepared, ["sparse-layers"], tmp_path / "out") == tmp_path / "out"
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with refused("torch", "MKL"):
        preflight_compression(prepared, ["sparse-layers"], tmp_path / "out")


def planned(folder: Path, target: Target) -> Search:
    asked = CompressionRequest(**ASKED, sparsities=(0.9,), pattern="unstructured", mask="one_shot", seeds=2)
    return plan_search(None, FEW, asked, Budget(100.0, target), store=folder / "store")


CHAINS = ["one_shot-global", "one_shot-sensitivity"]


@pytest.mark.parametrize(
    ("target", "layers", "competing"),
    [
        (Target("speedup", 1.5), LAYERS, CHAINS),
        (Target("speedup", 2.5), LAYERS, []),
        (Target("speedup", 1.5), (), []),
        (Target("latency", 0.6), LAYERS, CHAINS),
        (Target("macs", 0.5), LAYERS, []),
    ],
    ids=str,
)
def test_zeros_compete_for_a_time_where_layers_that_skip_them_reach_it(
    tmp_path: Path,
    planted: None,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    layers: tuple[str, ...],
    competing: list[str],
) -> None:
    monkeypatch.setattr(measured_networks, "to_sparse_layers", sparse_in(layers))
    search = planned(tmp_path, target)
    assert [chain.spec.masks[0].label for chain in search.chains] == competing


def test_without_the_kernels_no_layer_is_tried_sparse(
    tmp_path: Path, planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert planned(tmp_path, Target("speedup", 1.5)).chains == ()


@contextmanager
def silent(part: Prepared) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


def searched(folder: Path, target: Target) -> Found:
    search = planned(folder, target)
    return run_search(search, preflight_search(search, [], folder / "out"), follow=silent)


@pytest.mark.slow
def test_a_target_in_time_is_met_with_sparse_layers_and_the_file_is_written(tmp_path: Path, planted: None) -> None:
    found = searched(tmp_path, Target("speedup", 1.5))
    best = found.report.found.best
    assert best is not None
    assert best.network is not None
    assert (best.network.sparse_layers, best.network.timings[0].speedup) == (LAYERS, 2.0)
    assert [file.format for file in best.network.files] == ["safetensors", "sparse-layers"]
    assert best.network.files[1].path == "models/best.sparse.bitmask.safetensors"
    assert "with 2 layers run sparse" in found.report.text
    assert "sparse layers where these are faster" in found.report.page.read_text()


@pytest.mark.slow
def test_another_target_is_measured_dense(tmp_path: Path, planted: None) -> None:
    best = searched(tmp_path, Target("params", 0.5)).report.found.best
    assert best is not None
    assert best.network is not None
    assert (best.network.sparse_layers, best.network.timings[0].speedup) == ((), 1.0)
    assert [file.format for file in best.network.files] == ["safetensors"]


@pytest.mark.slow
def test_a_network_that_cannot_be_tried_sparse_is_measured_dense_with_a_reason(
    tmp_path: Path, planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = planned(tmp_path, Target("speedup", 1.5))

    def broken(*_: object) -> SparseLayers:
        raise RuntimeError("no call of it works")

    monkeypatch.setattr(measured_networks, "to_sparse_layers", broken)
    found = run_search(search, preflight_search(search, [], tmp_path / "out"), follow=silent)
    assert found.report.found.best is None
    assert any(
        "its layers stay dense: RuntimeError: no call of it works" in line for line in found.report.found.missing
    )
