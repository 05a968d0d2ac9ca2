"""Torch's recurrent layers as graphs, with the batch in the second dimension, torch's default, and in the first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunetune as pt
from tests.support.refusals import refused

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")

KINDS: dict[str, Callable[..., nn.RNNBase]] = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
SERIES = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))  # (time, batch, features)
OTHERS = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1))
STATES = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(2))


class Tagger(nn.Module):
    """A label at each time of a series."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.cells = kind(8, 6, **settings)
        self.head = nn.Linear(12 if self.cells.bidirectional else 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


def run(path: Path, *inputs: Tensor) -> list[Tensor]:
    """What the file gives, the final states in one list with the outputs."""
    if path.suffix == ".pt2":
        found = torch.export.load(path).module()(*inputs)
        return flat(found)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    return [torch.from_numpy(x) for x in found]


def flat(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [tensor for part in found for tensor in flat(part)]


def assert_close(found: list[Tensor], wanted: Any) -> None:
    for a, b in zip(found, flat(wanted), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_recurrent_layer_s_file_takes_any_batch_in_the_second_dimension(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    model = KINDS[kind](8, 6)
    pt.export(model, None, tmp_path / f"m{suffix}", SERIES, batch_dim=1)
    assert_close(run(tmp_path / f"m{suffix}", OTHERS), model(OTHERS))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pruned_recurrent_layers_in_a_model_keep_their_zeros(kind: str, suffix: str, tmp_path: Path) -> None:
    model = Tagger(KINDS[kind], bidirectional=True)
    pt.apply_mask(model, pt.compute_mask(model, 0.5, scope=pt.Scope(include=("cells.weight_*",))))
    made = pt.export(model, None, tmp_path / f"m{suffix}", SERIES, batch_dim=1)
    # ONNX has the gates of the other two in another order, so that their zeros cannot be looked up.
    assert made.zeros_exact == (suffix == ".pt2" or kind == "RNN")
    assert_close(run(tmp_path / f"m{suffix}", OTHERS), model(OTHERS))


def test_the_first_dimension_of_torch_s_default_is_not_the_batch(tmp_path: Path) -> None:
    with refused("model", "batch_dim", "1", "batch_first", "recurrent"):
        pt.export(Tagger(nn.LSTM), None, tmp_path / "m.pt2", SERIES)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@torch.no_grad()
def test_the_batch_may_stay_in_the_first_dimension(suffix: str, tmp_path: Path) -> None:
    model = Tagger(nn.LSTM, batch_first=True)
    pt.export(model, None, tmp_path / f"m{suffix}", SERIES.transpose(0, 1))
    assert_close(run(tmp_path / f"m{suffix}", OTHERS.transpose(0, 1).contiguous()), model(OTHERS.transpose(0, 1)))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@torch.no_grad()
def test_first_states_are_an_input_with_the_same_batch(suffix: str, tmp_path: Path) -> None:
    model = nn.GRU(8, 6)
    pt.export(model, None, tmp_path / f"m{suffix}", (SERIES, torch.zeros(1, 4, 6)), batch_dim=1)
    assert_close(run(tmp_path / f"m{suffix}", OTHERS, STATES), model(OTHERS, STATES))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@torch.no_grad()
def test_projections_are_a_program_and_no_onnx(tmp_path: Path) -> None:
    model = Tagger(nn.LSTM, proj_size=3)
    model.head = nn.Linear(3, 2)
    pt.export(model, None, tmp_path / "m.pt2", SERIES, batch_dim=1)
    assert_close(run(tmp_path / "m.pt2", OTHERS), model(OTHERS))
    with refused("model", "cells", "ONNX", "LSTM", "proj_size", "projections"):
        pt.export(model, None, tmp_path / "m.onnx", SERIES, batch_dim=1)
    assert not (tmp_path / "m.onnx").exists()


class Remembers(nn.Module):
    """It keeps what it saw last: an assignment that a graph loses, of which torch warns."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(8, 6)
        self.last = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.cells(x)[0]
        return self.last


def test_an_attribute_that_a_graph_loses_is_still_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"self\.last.* assigned during export"):
        pt.export(Remembers(), None, tmp_path / "m.pt2", SERIES, batch_dim=1)


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + torch.rand_like(x[:, :1])


def test_a_model_that_is_random_is_said_to_be(tmp_path: Path) -> None:
    with refused("model", "evaluation"):
        pt.export(Noisy(nn.Linear(8, 2)), None, tmp_path / "m.pt2", torch.randn(4, 8))
