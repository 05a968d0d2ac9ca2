"""Checkpoints of other people's, in every form in which they are commonly saved, and broken in every usual way."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunetune.sparsity.model_files import read_state
from tests.support.refusals import refused

STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


def assert_same(found: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    assert_same({name: read_state(tmp_path / "a.safetensors")[name] for name in STATE})


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}},
        {"model_state_dict": STATE, "loss": torch.tensor(0.5)},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"state_dict": {f"_orig_mod.{name}": tensor for name, tensor in STATE.items()}},
        {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
    ],
    ids=["plain", "state_dict", "model", "with a stray tensor", "DDP", "compiled", "DDP of compiled"],
)
def test_torch_save(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "a.pt")
    assert_same(read_state(tmp_path / "a.pt"))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("save", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save], ids=["pickle", "torch"])
def test_a_hostile_pickle_runs_nothing(
    save: Callable[[object, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save({"state_dict": Hostile()}, tmp_path / "bad.pt")
    with refused("A", "bad.pt", "plain"):
        read_state(tmp_path / "bad.pt", "A")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 60, -7])
def test_truncated(name: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(STATE, path) if name.endswith("safetensors") else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:keep])
    with refused("checkpoint", name):
        read_state(path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with refused("checkpoint", "No such file"):
        read_state(tmp_path / "none.pt")
    with refused("checkpoint", "Is a directory"):
        read_state(tmp_path)
    torch.save({"epoch": 3, "args": ["x"]}, tmp_path / "a.pt")
    with refused("checkpoint", "dict"):
        read_state(tmp_path / "a.pt")
