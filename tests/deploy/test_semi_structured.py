"""Which layers run as 2:4 and why others do not; on a GPU, that they give the dense layer's outputs."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

import prunetune as pt
from benchmarks.gpu import two_of_four
from benchmarks.rounds import Options
from prunetune.deploy.latency import latencies
from prunetune.deploy.semi_structured import CAPABILITY, MULTIPLES, TYPES, survey_layers, to_semi_structured
from tests.support.refusals import refused

PATTERN = torch.tensor([True, False, False, True])


class Network(nn.Module):
    """One layer for every reason; only `fits` can be converted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 8)
        self.norm = nn.BatchNorm2d(32)
        self.embedding = nn.Embedding(128, 64)
        self.attention = nn.MultiheadAttention(64, 2)
        self.fits = nn.Linear(64, 96)
        self.dense = nn.Linear(64, 96)
        self.narrow = nn.Linear(96, 32)
        self.few = nn.Linear(64, 10)
        self.single = nn.Linear(64, 64)
        self.head = nn.Linear(64, 128)
        self.head.weight = self.embedding.weight


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    for parameter in model.parameters():
        if parameter.shape[-1] % 4 == 0 and parameter.ndim > 1:
            parameter.data *= PATTERN.repeat(parameter.shape[-1] // 4)
    model.half()
    model.single.float()
    model.dense.weight.data[5, :4] = torch.tensor([1, 2, 3, 0])
    model.dense.weight.data[7, 60:] = 1
    return model


def test_every_layer_is_listed_with_the_reason() -> None:
    assert survey_layers(network()) == {
        "conv": "convolution: torch has 2:4 kernels for linear layers only",
        "embedding": "Embedding: torch has 2:4 kernels for linear layers only",
        "attention": "MultiheadAttention: torch has 2:4 kernels for linear layers only",
        "attention.out_proj": "NonDynamicallyQuantizableLinear: torch has 2:4 kernels for linear layers only",
        "fits": None,
        "dense": "not 2:4: 2 of 1536 groups of four keep more than two weights",
        "narrow": "shape (32, 96): the kernels take multiples of (32, 64)",
        "few": "shape (10, 64): the kernels take multiples of (32, 64)",
        "single": "float32: the kernels take float16 and bfloat16; convert the model",
        "head": "tied to 'embedding.weight'",
    }


@pytest.mark.parametrize("dtype", TYPES)
def test_our_own_2_to_4_masks_fit(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)).to(dtype)
    assert set(survey_layers(model)) == {"0", "2"}
    assert all(str(reason).startswith("not 2:4") for reason in survey_layers(model).values())
    pt.apply_mask(model, pt.compute_mask(model, 0.5, pattern="2:4"))
    assert survey_layers(model) == {"0": None, "2": None}


@pytest.mark.parametrize("kept", range(5))
def test_at_most_two_of_four(kept: int) -> None:
    layer = nn.Linear(64, 32, bias=False).half()
    layer.weight.data.fill_(0)
    layer.weight.data[3, 8 : 8 + kept] = 1
    reason = survey_layers(nn.Sequential(layer))["0"]
    assert reason == (None if kept <= 2 else "not 2:4: 1 of 512 groups of four keep more than two weights")


def test_groups_are_aligned_and_do_not_cross_rows() -> None:
    layer = nn.Linear(64, 32, bias=False).half()
    layer.weight.data.fill_(0)
    layer.weight.data[0, 2:6] = 1  # two in a group and two in the next
    layer.weight.data[0, 62:] = layer.weight.data[1, :2] = 1
    assert survey_layers(nn.Sequential(layer)) == {"0": None}


def test_the_shapes_are_those_that_torch_takes() -> None:
    for backend in (SparseSemiStructuredTensorCUTLASS, SparseSemiStructuredTensorCUSPARSELT):
        for dtype in TYPES:
            asked = backend._DTYPE_SHAPE_CONSTRAINTS[dtype]
            assert MULTIPLES[0] % asked.sparse_min_rows == MULTIPLES[1] % asked.sparse_min_cols == 0


def test_without_a_gpu_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("device", "2:4", "CUDA", "GPU", "8.0", "kernels"):
        to_semi_structured(nn.Linear(64, 64))


def test_with_too_old_a_gpu_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Callable[[], object]] = {
        "is_available": lambda: True,
        "get_device_capability": lambda: (7, 5),
        "get_device_name": lambda: "Tesla T4",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    with refused("device", "T4", "7.5", "Tesla"):
        to_semi_structured(nn.Linear(64, 64))


needs_kernels = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY,
        reason="needs a GPU of compute capability 8.0 or more, which has 2:4 kernels",
    ),
]


class TestOnAGpu:
    """Each against the dense layer with the same zeros."""

    pytestmark = needs_kernels

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("outputs", "inputs"), [(32, 64), (96, 128), (256, 1024)])
    def test_a_layer_gives_the_dense_outputs(self, outputs: int, inputs: int, bias: bool, dtype: torch.dtype) -> None:
        """In float32 on the CPU the sum is as good as exact: what is left is the rounding of a half type's output."""
        torch.manual_seed(0)
        layer = nn.Linear(inputs, outputs, bias=bias).to(dtype)
        mask = pt.compute_mask(nn.Sequential(layer), 0.5, pattern="2:4")
        done = to_semi_structured(nn.Sequential(layer), mask)
        assert done.converted == ("0",)
        pt.apply_mask(layer, {"weight": mask["0.weight"]})
        exact = deepcopy(layer).float()
        close = 4 * torch.finfo(dtype).eps
        for shape in ((1,), (7,), (64,), (3, 5), (1000,)):
            given = torch.randn(*shape, inputs).to(dtype)
            with torch.inference_mode():
                found = done.model(given.cuda()).cpu()
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), exact(given.float()).detach(), rtol=close, atol=close)

    def test_what_is_not_converted_stays_as_it_was(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)).half()
        mask = pt.compute_mask(model, 0.5, pattern="2:4")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        done = to_semi_structured(model, mask)
        assert done.converted == ("0",)
        assert done.left == {"2": "shape (10, 256): the kernels take multiples of (32, 64)"}
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
        assert not done.model.training
        last = done.model.get_parameter("2.weight")
        assert torch.equal(last.cpu(), before["2.weight"] * mask["2.weight"])

    def test_the_zeros_are_exact(self) -> None:
        """Fed with one-hot inputs, the layer shows its weights."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(128, 64, bias=False)).half()
        mask = pt.compute_mask(model, 0.5, pattern="2:4")
        done = to_semi_structured(model, mask)
        with torch.inference_mode():
            shown = done.model(torch.eye(128, dtype=torch.float16, device="cuda")).t().cpu()
        assert torch.equal(shown, model.get_parameter("0.weight").detach() * mask["0.weight"])

    def test_it_can_be_timed_against_dense(self) -> None:
        """No speed is asserted, which depends on the GPU: `python -m benchmarks gpu` measures it."""
        model = nn.Sequential(nn.Linear(128, 64)).half()
        done = to_semi_structured(model, pt.compute_mask(model, 0.5, pattern="2:4"))
        given = torch.randn(64, 128, dtype=torch.float16, device="cuda")
        found = latencies({"dense": model.cuda(), "2:4": done.model}, given, rounds=6)
        assert all(sample > 0 for one in found.values() for sample in one.samples)

    def test_the_benchmark_has_a_row_for_a_layer(self) -> None:
        table = two_of_four(Options(rounds=1, quick=True))
        ((layer, batch, dense, sparse, ratio),) = table.rows
        assert (layer, batch) == ("3072 x 768", "64")
        assert float(dense) > 0 < float(sparse)
        assert "[" in ratio
