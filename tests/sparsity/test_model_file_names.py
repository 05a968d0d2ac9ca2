"""Names in checkpoints: prefixes of wrappers go, a module of the model's own that is called `module` stays."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import prunetune as pt
from prunetune.sparsity.model_files import load_weights, read_state
from tests.support.refusals import refused


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Wrap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module, self.head = mlp(), nn.Linear(4, 2)


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = mlp()


class Two(nn.Module):
    """`module.weight` and `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.weight = nn.Linear(4, 4, bias=False), nn.Parameter(torch.ones(4, 4))


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.compile(mlp(), backend="eager"), nn.Linear(4, 2)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(), nn.Linear(4, 2)


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "x.pt")
    return folder / "x.pt"


def equal(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_orig_mod._orig_mod."],
)
def test_prefixes_of_wrappers_go_in_any_order(tmp_path: Path, prefix: str) -> None:
    model = mlp()
    path = saved({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path)
    assert read_state(path).keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", [Wrap, Alone, Two, Plain])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_a_model_saves_loads_into_it(tmp_path: Path, kind: type[nn.Module], suffix: str) -> None:
    model, again = kind(), kind()
    path = tmp_path / f"x.{suffix}"
    if suffix == "pt":
        torch.save(model.state_dict(), path)
    else:
        pt.export(model, None, path)
    assert len(read_state(path)) == len(model.state_dict())  # no two names became one
    load_weights(again, read_state(path), path, "--weights")
    assert equal(model, again)


def test_what_was_saved_of_wrappers_loads_into_the_model(tmp_path: Path) -> None:
    compiled, average = Compiled(), AveragedModel(Wrap())
    for source, target in ((compiled, Plain()), (average, Wrap())):
        path = saved(source.state_dict(), tmp_path)
        load_weights(target, read_state(path), path, "--weights")
        assert equal(source, target)
    path = saved(Plain().state_dict(), tmp_path)
    load_weights(compiled, read_state(path), path, "--weights")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_a_cast_would_change_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    model = nn.Linear(8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved({name: (100 * tensor).to(kind) for name, tensor in before.items()}, tmp_path)
    word = str(kind).removeprefix("torch.")
    with refused("--weights", path, word, "float32"):
        load_weights(model, read_state(path), path, "--weights")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_counts_that_a_cast_keeps_are_taken(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(3)
    state = model.state_dict() | {"num_batches_tracked": torch.tensor(7, dtype=torch.int32)}
    load_weights(model, state, tmp_path, "--weights")
    assert int(model.state_dict()["num_batches_tracked"]) == 7
    with refused("--weights", "num_batches_tracked", "float32", "int64", "model"):
        load_weights(model, state | {"num_batches_tracked": torch.tensor(7.5)}, tmp_path, "--weights")
    with refused("--weights", "finite"):
        load_weights(model, state | {"weight": torch.full((3,), 1e300, dtype=torch.float64)}, tmp_path, "--weights")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_rounded(tmp_path: Path, kind: torch.dtype) -> None:
    model, given = nn.Linear(3, 3), {name: tensor.to(kind) for name, tensor in nn.Linear(3, 3).state_dict().items()}
    load_weights(model, given, tmp_path, "--weights")
    assert torch.equal(model.weight.detach(), given["weight"].float())
