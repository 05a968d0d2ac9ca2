"""Layers run sparse where the clock says so, and the network is dense where the whole is not faster."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunetune as pt
from prunetune.deploy import sparse_layers
from prunetune.deploy.bitmask import load_bitmask, save_bitmask
from prunetune.deploy.latency import Latency, latencies
from prunetune.deploy.sparse_kernels import SparseConv2d, SparseLinear, sparse_names
from prunetune.deploy.sparse_layers import load_sparse, to_sparse_layers, with_sparse_layers
from prunetune.sparsity.enforce import is_held
from prunetune.sparsity.model_files import BITMASK
from tests.support.refusals import refused

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL has no such kernels")


class Net(nn.Module):
    """Several layers, one of which is called twice, and one whose weight alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.twice = nn.Linear(8, 8)
        self.read = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.point(self.stem(images).relu()).relu().mean((2, 3))
        again = self.twice(self.twice(pooled).relu())
        return self.head(again @ self.read.weight.t())


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Clock = Callable[[Mapping[str, float]], list[tuple[int, int]]]


def pruned(sparsity: float = 0.8) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    pt.apply_mask(model, pt.compute_mask(model, sparsity, allocation="uniform"))
    pt.remove_mask(model)
    stem = model.get_parameter("stem.weight").data  # the first layer is out of the default scope
    stem *= torch.rand(stem.shape) > sparsity
    return model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Says how many times as fast the sparse form of a layer is, and of the "whole" network; notes each comparison."""

    def set_clock(faster: Mapping[str, float]) -> list[tuple[int, int]]:
        asked: list[tuple[int, int]] = []

        def timed(models: Mapping[str, nn.Module], inputs: Any, *, rounds: int) -> dict[str, Latency]:
            latencies(models, inputs, rounds=2)  # every model can be called
            sparse = models["sparse"]
            kinds = [m for m in sparse.modules() if isinstance(m, SparseLinear | SparseConv2d)]
            asked.append((len(kinds), rounds))
            alone = not isinstance(sparse, Net)
            ratio = faster.get(str(tuple(kinds[0].weight.shape)), 1.0) if alone else faster["whole"]
            return {"dense": Latency((1.0,) * rounds, 1), "sparse": Latency((1 / ratio,) * rounds, 1)}

        monkeypatch.setattr(sparse_layers, "latencies", timed)
        return asked

    return set_clock


STEM, POINT, TWICE, HEAD = "(8, 3, 3, 3)", "(8, 8, 1, 1)", "(8, 8)", "(4, 8)"


def test_only_layers_that_are_faster_are_changed(clock: Clock) -> None:
    asked = clock({STEM: 2.0, POINT: 0.5, TWICE: 1.5, HEAD: 1.0, "whole": 1.2})
    model = pruned()
    before = deepcopy(model.state_dict())
    found = to_sparse_layers(model, None, IMAGES, rounds=9)
    assert asked == [(1, 9)] * 4 + [(2, 9)]
    assert found.converted == ("stem", "twice")
    assert found.left == {
        "point": "not faster: 0.50x [0.50, 0.50]",
        "head": "not faster: 1.00x [1.00, 1.00]",
        "read": "never called by itself: what it is a part of reads its weight",
    }
    kinds = {name: type(module) for name, module in found.model.named_children()}
    assert kinds == {
        "stem": SparseConv2d,
        "point": nn.Conv2d,
        "twice": SparseLinear,
        "read": nn.Linear,
        "head": nn.Linear,
    }
    assert found.whole is not None
    assert found.whole.ratio == pytest.approx(1.2)
    assert found.measured["stem"].ratio == pytest.approx(2)
    assert found.measured.keys() == {"stem", "point", "twice", "head"}
    # what was given is as it was, and what comes back gives the same
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(model.get_submodule("stem")) is nn.Conv2d
    assert model.training
    assert not any(module.training for module in found.model.modules())
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    difference = float((found.model(IMAGES) - model(IMAGES).detach()).abs().max())
    assert difference == found.max_error < 1e-5
    assert list(found.model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.model.state_dict().items())


def test_a_network_that_is_not_faster_as_a_whole_is_dense(clock: Clock) -> None:
    clock({STEM: 2.0, "whole": 1.0})
    found = to_sparse_layers(pruned(), None, IMAGES)
    assert found.converted == ()
    assert found.left["stem"] == "faster alone, 2.00x [2.00, 2.00]; the network is not: 1.00x [1.00, 1.00]"
    assert {type(module) for module in found.model.children()} == {nn.Conv2d, nn.Linear}
    assert found.max_error == 0


def test_slow_kernels_are_not_chosen(clock: Clock) -> None:
    asked = clock({STEM: 0.9, POINT: 0.9, TWICE: 0.9, HEAD: 0.9, "whole": 9.0})
    found = to_sparse_layers(pruned(), None, IMAGES)
    assert (found.converted, found.whole) == ((), None)
    assert len(asked) == 4


def test_a_median_above_one_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow round in four lets the lower bound fall below 1."""
    dense = tuple(0.5 if i % 3 == 0 else 2.0 for i in range(30))
    answer = {"dense": Latency(dense, 1), "sparse": Latency((1.0,) * 30, 1)}
    monkeypatch.setattr(sparse_layers, "latencies", lambda *_, **__: answer)
    found = to_sparse_layers(pruned(), None, IMAGES)
    assert found.whole is None
    assert found.left["stem"] == "not faster: 2.00x [0.50, 2.00]"


def test_a_mask_is_applied_and_dense_layers_are_not_timed(clock: Clock) -> None:
    asked = clock({"whole": 1.5, POINT: 3.0, TWICE: 0.5})
    model = Net()
    mask = pt.compute_mask(model, 0.9, allocation="uniform")
    found = to_sparse_layers(model, mask, IMAGES)
    assert found.left["stem"] == "0% zeros: fewer than half"
    assert found.converted == ("point",)
    assert len(asked) == 4  # point, twice, head and the whole
    kept = found.model.state_dict()["point.weight"] != 0
    assert torch.equal(kept, mask["point.weight"])
    pt.apply_mask(model, mask)
    torch.testing.assert_close(found.model(IMAGES), model.eval()(IMAGES))


def test_named_inputs_and_a_model_that_is_a_layer(clock: Clock) -> None:
    clock({TWICE: 2.0, "whole": 2.0})
    layer = nn.Linear(8, 8)
    layer.weight.data[1:] = 0
    found = to_sparse_layers(layer, None, {"input": torch.ones(2, 8)})
    assert found.converted == ("",)
    assert isinstance(found.model, SparseLinear)


def test_a_held_model_is_pruned_as_it_is_held(clock: Clock) -> None:
    clock({POINT: 2.0, "whole": 2.0})
    model = Net()
    pt.apply_mask(model, mask := pt.compute_mask(model, 0.9, allocation="uniform"))
    found = to_sparse_layers(model, None, IMAGES)
    assert found.converted == ("point",)
    assert torch.equal(found.model.state_dict()["point.weight"] != 0, mask["point.weight"])
    assert not is_held(found.model)


class Particular(nn.Module):
    """A forward that goes wrong with other layers than those it knows."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.layer = wrong, nn.Linear(8, 8)
        self.layer.weight.data[1:] = 0

    def forward(self, rows: Tensor) -> Tensor:
        if self.wrong == "class" and type(self.layer) is not nn.Linear:
            raise TypeError("no linear layer\nof mine")
        with torch.autocast("cpu", enabled=self.wrong == "autocast"):
            return self.layer(rows)


@pytest.mark.parametrize(("wrong", "word"), [("class", "TypeError: no linear layer of mine"), ("autocast", "BFloat16")])
def test_a_network_that_fails_with_sparse_layers_is_dense(clock: Clock, wrong: str, word: str) -> None:
    clock({TWICE: 2.0, "whole": 2.0})
    found = to_sparse_layers(Particular(wrong), None, torch.ones(8, 8))
    assert found.converted == ()
    assert found.left["layer"].startswith("faster alone; the network fails with it: ")
    assert word in found.left["layer"]
    assert type(found.model.get_submodule("layer")) is nn.Linear


def test_what_is_refused() -> None:
    with refused("model", "stem", "dense"):
        to_sparse_layers(with_sparse_layers(pruned(), ["stem"]), None, IMAGES)
    masked = Net()
    torch_prune.l1_unstructured(masked.point, "weight", amount=0.9)
    with refused("model", "prune.remove"):
        to_sparse_layers(masked, None, IMAGES)


def test_a_fused_transformer_layer_is_left(clock: Clock) -> None:
    """It reads its layers' weights and calls none of them."""
    clock({"whole": 2.0})
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.data[1:] = 0
    found = to_sparse_layers(encoder, None, torch.ones(2, 3, 8))
    assert found.converted == ()
    assert found.left["linear1"].startswith("never called by itself")


def test_it_is_made_again_from_a_bitmask_file(tmp_path: Any) -> None:
    model = pruned()
    sparse = with_sparse_layers(model, ["stem", "twice"])
    path = tmp_path / "net.bitmask.safetensors"
    pt.export(sparse, None, path)
    fresh = Net()
    drawn = deepcopy(fresh.state_dict())
    again = load_sparse(fresh, path)
    assert sparse_names(again) == ["stem", "twice"]
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in fresh.state_dict().items())
    assert torch.equal(again(IMAGES), sparse(IMAGES))
    torch.testing.assert_close(again(IMAGES), model.eval()(IMAGES))
    # a sparse model takes another network's weights as the dense one does
    other = pruned(0.6)
    again.load_state_dict(other.state_dict())
    torch.testing.assert_close(again(IMAGES), other.eval()(IMAGES))


def test_a_bitmask_file_of_a_dense_network_is_loaded_dense(tmp_path: Any) -> None:
    pt.export(pruned(), None, path := tmp_path / "net.bitmask.safetensors")
    assert sparse_names(load_sparse(Net(), path)) == []
    assert load_bitmask(path).keys() == Net().state_dict().keys()


def test_a_file_that_does_not_fit_the_model(tmp_path: Any) -> None:
    pt.export(with_sparse_layers(pruned(), ["stem"]), None, path := tmp_path / "net.bitmask.safetensors")
    with refused("path", "net.bitmask.safetensors", "head"):
        load_sparse(nn.Sequential(nn.Linear(2, 2)), path)
    with refused("bitmask", "nowhere"):
        load_sparse(Net(), tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_no_graph_can_hold_it(suffix: str, tmp_path: Any) -> None:
    with refused("model", "stem", "sparse", "load_sparse"):
        pt.export(with_sparse_layers(pruned(), ["stem"]), None, tmp_path / f"net.{suffix}", IMAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "mentions"), [("steem", ["steem", "stem"]), ("read.w", ["read.w"])])
def test_a_name_of_no_layer(name: str, mentions: list[str]) -> None:
    with refused("names", *mentions):
        with_sparse_layers(pruned(), [name])


def test_names_that_are_no_list_of_names() -> None:
    for wrong in (None, "stem", [0]):
        with refused("names", "list of names"):
            with_sparse_layers(pruned(), wrong)  # pyright: ignore[reportArgumentType]


def test_a_name_that_stands_twice_counts_once(tmp_path: Any) -> None:
    assert sparse_names(with_sparse_layers(pruned(), ["stem", "stem"])) == ["stem"]
    state = {name: tensor.contiguous() for name, tensor in pruned().state_dict().items()}
    notes = {"format": BITMASK, "shapes": "{}", "tied": "{}", "sparse_layers": '["stem", "stem"]'}
    save_file(state, tmp_path / "net.bitmask.safetensors", notes)
    assert sparse_names(load_sparse(Net(), tmp_path / "net.bitmask.safetensors")) == ["stem"]


@pytest.mark.parametrize("name", ["steem", "read"])
def test_a_file_that_names_layers_without_a_sparse_form(name: str, tmp_path: Any) -> None:
    save_bitmask(Net().state_dict(), path := tmp_path / "net.bitmask.safetensors", [name])
    with refused("path", "sparse_layers", name):
        load_sparse(Net(), path)


def test_a_layer_without_a_sparse_form() -> None:
    with refused("names", "twice", "0%"):
        with_sparse_layers(Net(), ["twice"])


def test_rounds_without_a_spread() -> None:
    with refused("rounds", 1, "2"):  # also where nothing has to be timed
        to_sparse_layers(torch.nn.Sequential(torch.nn.ReLU()), None, IMAGES, rounds=1)


def test_inputs_elsewhere() -> None:
    with refused("example_inputs", "meta", "CPU"):
        to_sparse_layers(pruned(), None, IMAGES.to("meta"))


def test_for_real() -> None:
    """A layer of 4 MB with one weight in a hundred is faster on every machine that has the kernels."""
    torch.manual_seed(0)
    wide, narrow = nn.Linear(1024, 1024), nn.Linear(1024, 4)
    wide.weight.data *= torch.rand(1024, 1024) > 0.99
    narrow.weight.data *= torch.rand(4, 1024) > 0.5
    model = nn.Sequential(wide, nn.ReLU(), narrow)
    found = to_sparse_layers(model, None, torch.randn(8, 1024), rounds=40)
    assert found.converted == ("0",)
    assert found.left.keys() == {"2"}
    assert found.max_error < 1e-5
