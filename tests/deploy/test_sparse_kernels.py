"""Sparse layers give what torch's dense ones give, for every shape, and stand in for them in files and copies."""

from copy import deepcopy
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from prunetune.deploy import sparse_kernels
from prunetune.deploy.sparse_kernels import SparseConv2d, SparseLinear, require_kernels, sparse_layer, survey_sparse
from tests.support.refusals import refused

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL has no such kernels")

Layer = TypeVar("Layer", bound=nn.Module)
ROWS = [(12,), (1, 12), (3, 12), (4, 12), (33, 12), (2, 1, 12), (2, 5, 12), (0, 12)]
IMAGES = [(1, 3, 17, 20), (4, 3, 17, 20), (3, 17, 20), (2, 3, 9, 9)]
CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": (2, 5), "stride": (3, 2), "padding": (1, 2), "dilation": (2, 1)},
    {"kernel_size": (5, 1), "stride": (1, 3), "padding": (2, 0)},
    {"kernel_size": 7, "stride": 4, "padding": 3},
]


def thinned(layer: Layer, kept: float = 0.2) -> Layer:
    """A layer whose weights are zero but for a share of them; its first output has none at all."""
    weight = layer.get_parameter("weight").data
    weight *= torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < kept
    weight[0] = 0
    return layer


def close(layer: nn.Module, sparse: nn.Module, inputs: Tensor) -> None:
    for gradients in (torch.inference_mode(), torch.no_grad()):
        with gradients:
            found = sparse(inputs)
            torch.testing.assert_close(found, layer(inputs), rtol=1e-5, atol=1e-5)
            assert found.is_contiguous()


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", sparse_kernels.TYPES)
def test_a_linear_layer(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    layer = thinned(nn.Linear(12, 7, bias=bias, dtype=dtype))
    close(layer, SparseLinear(layer), torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_a_convolution(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    layer = thinned(nn.Conv2d(3, 5, **settings))
    close(layer, SparseConv2d(layer), torch.randn(shape))


def test_inputs_that_do_not_lie_in_order() -> None:
    layer = thinned(nn.Conv2d(3, 5, 1))
    images = torch.randn(2, 3, 8, 8)
    for inputs in (images.contiguous(memory_format=torch.channels_last), images.transpose(2, 3), images[:, :, ::2]):
        close(layer, SparseConv2d(layer), inputs)
    linear = thinned(nn.Linear(12, 7))
    close(linear, SparseLinear(linear), torch.randn(12, 6).t())
    close(linear, SparseLinear(linear), torch.randn(1, 12).expand(5, 12))


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_a_weight_of_zeros_and_one_without(kept: float) -> None:
    for layer, inputs in ((nn.Linear(12, 7), torch.randn(5, 12)), (nn.Conv2d(3, 5, 3), torch.randn(2, 3, 8, 8))):
        close(thinned(layer, kept), sparse_layer(layer), inputs)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(12, 7), nn.Conv2d(3, 5, (2, 3), bias=False), nn.Conv2d(3, 5, 1, dtype=torch.float64)],
    ids=["linear", "conv", "double"],
)
def test_its_state_is_the_dense_layers(layer: nn.Module, tmp_path: Any) -> None:
    sparse = sparse_layer(thinned(layer))
    assert list(sparse.state_dict()) == list(layer.state_dict())
    for name, tensor in layer.state_dict().items():
        assert torch.equal(sparse.state_dict()[name], tensor)
    other = thinned(deepcopy(layer), 0.5)
    sparse.load_state_dict(other.state_dict())
    assert all(torch.equal(sparse.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    save_model(sparse, str(tmp_path / "layer.safetensors"))
    again = deepcopy(layer)
    load_model(again, tmp_path / "layer.safetensors")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_it_says_what_the_dense_layer_says_of_itself() -> None:
    linear, conv = SparseLinear(nn.Linear(12, 7)), SparseConv2d(nn.Conv2d(3, 5, (1, 3), stride=2, padding=(0, 1)))
    assert (linear.in_features, linear.out_features) == (12, 7)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.padding) == (3, 5, (1, 3), (0, 1))
    assert (conv.stride, conv.dilation, conv.groups) == ((2, 2), (1, 1), 1)


def test_a_state_that_does_not_fit_is_refused_as_by_torch() -> None:
    sparse = nn.Sequential(SparseLinear(nn.Linear(12, 7)))
    good = nn.Sequential(nn.Linear(12, 7)).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*0\.weight"):
        sparse.load_state_dict({"0.bias": good["0.bias"]})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*0\.other"):
        sparse.load_state_dict(good | {"0.other": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):
        sparse.load_state_dict(good | {"0.weight": torch.ones(7, 11)})
    assert not sparse.load_state_dict({"0.bias": good["0.bias"]}, strict=False).unexpected_keys


def test_a_copy_stands_alone() -> None:
    for layer, inputs in ((nn.Linear(12, 7), torch.randn(2, 12)), (nn.Conv2d(3, 5, 3), torch.randn(2, 3, 8, 8))):
        sparse = sparse_layer(thinned(layer))
        copy = deepcopy(nn.Sequential(sparse))
        for matrix in sparse.buffers():
            matrix.values().zero_()
        close(layer, copy, inputs)
        assert "nonzeros" in repr(copy)


class Network(nn.Module):
    """One layer for every reason; `linear` and `conv` alone have a sparse form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = thinned(nn.Linear(12, 8))
        self.conv = thinned(nn.Conv2d(4, 8, 3))
        self.grouped = thinned(nn.Conv2d(4, 8, 3, groups=2))
        self.reflected = thinned(nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"))
        self.same = thinned(nn.Conv2d(4, 8, 3, padding="same"))
        self.series = thinned(nn.Conv1d(4, 8, 3))
        self.norm = nn.BatchNorm2d(8)
        self.hooked = thinned(nn.Linear(12, 8))
        self.hooked.register_forward_hook(lambda *_: None)
        self.full = nn.Linear(12, 8)
        self.half = thinned(nn.Linear(12, 8)).half()
        self.embedding = nn.Embedding(16, 12)
        self.head = nn.Linear(12, 16)
        self.head.weight = self.embedding.weight
        self.attention = nn.MultiheadAttention(12, 2)


def test_every_layer_is_listed_with_the_reason() -> None:
    found = survey_sparse(Network())
    assert {name for name, reason in found.items() if reason is None} == {"linear", "conv"}
    starts = {
        "grouped": "convolution of 2 groups",
        "reflected": "convolution with padding (1, 1) of 'reflect'",
        "same": "convolution with padding 'same' of 'zeros'",
        "series": "convolution: only nn.Linear",
        "hooked": "has hooks",
        "full": "0% zeros: fewer than half",
        "half": "float16: the kernels take float32",
        "embedding": "Embedding: only nn.Linear",
        "head": "tied to 'embedding.weight'",
        "attention": "MultiheadAttention: only",
        "attention.out_proj": "NonDynamicallyQuantizableLinear: only",
    }
    assert {name for name, reason in found.items() if reason is not None} == starts.keys()
    assert all(str(found[name]).startswith(start) for name, start in starts.items())


def test_parametrized_layers_are_left() -> None:
    assert survey_sparse(nn.Sequential(weight_norm(nn.Linear(12, 8)))).get("0", "no plain weight") is not None


def test_without_mkl_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with refused("torch", "MKL", "x86"):
        require_kernels()
