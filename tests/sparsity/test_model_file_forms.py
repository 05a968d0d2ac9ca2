"""Files that are no checkpoint, and states that lie nested, prefixed or incomplete in one."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunetune.sparsity.model_files import load_weights, read_state
from tests.support.refusals import refused

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def script(path: Path) -> None:
    torch.jit.trace(net().eval(), torch.zeros(2, 4)).save(path)  # pyright: ignore[reportAttributeAccessIssue]


def program(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(net().eval(), (torch.zeros(2, 4),)), file)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (LFS, ("--weights", "git lfs pull")),
        (b"\n<!DOCTYPE html><html>404</html>", ("--weights", "web page")),
        (b'{"metadata": {}, "weight_map": {"a": "1.safetensors"}}', ("--weights", "several files")),
        (b'{"error": "not found"}', ("--weights", "JSON")),
        (b'{"abcd":{"e": 1}}', ("--weights", "JSON")),  # at a glance a safetensors header
        (gzip.compress(b"anything"), ("--weights", "gzip")),
        (b"\x08\x0a\x12\x07pytorch\x1a\x052.0.0:\x08", ("--weights", "ONNX")),
        (b"\x89HDF\r\n\x1a\n", ("--weights", "HDF5")),
        (b"GGUF\x03\0\0\0", ("--weights", "GGUF")),
        (script, ("--weights", "TorchScript")),
        (program, ("--weights", "torch.export")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_another_format_is_named(
    content: bytes | Callable[[Path], None], part: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with refused(*part) as caught:
        read_state(path, "--weights")
    assert str(caught.value).startswith(f"--weights: '{path}' ")
    assert "model.state_dict()" not in str(caught.value)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(saved: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    torch.save(saved, path)
    model = net()
    load_weights(model, read_state(path, "--weights", key), path, "--weights")
    return model.state_dict()


STATE, OTHER = dict(net().state_dict()), dict(net().state_dict())
READ: dict[str, Any] = {
    "an average alone": {"ema": STATE, "epoch": 1},
    "nested twice": {"model": {"state_dict": STATE, "args": {"width": 8}}},
    "the same twice": {"state_dict": STATE, "state_dict_ema": STATE},
    "Lightning": {"state_dict": prefixed("net.", STATE), "loops": {}},
    "Lightning, a loss of its own": {"state_dict": {**prefixed("net.", STATE), "loss.weight": torch.ones(3)}},
    "Lightning, two deep": {"state_dict": prefixed("module_.net.", STATE)},
    "a name of somebody's": {"generator": STATE, "epoch": 3},
    "counts of thop": {**STATE, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "no counts of batches": {name: t for name, t in STATE.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("name", READ)
def test_what_is_unambiguous_is_read(name: str, tmp_path: Path) -> None:
    found = loaded(READ[name], tmp_path / "a.pt")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("saved", "keys"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, ["state_dict", "state_dict_ema"]),
        ({"model": {"state_dict": STATE, "ema": OTHER}}, ["model.state_dict", "model.ema"]),
        (
            {"state_dict": prefixed("net.", STATE) | prefixed("teacher.", OTHER)},
            ["state_dict.net", "state_dict.teacher"],
        ),
    ],
    ids=["average", "nested", "prefixes"],
)
def test_what_is_ambiguous_is_chosen_by_a_key(saved: Any, keys: list[str], tmp_path: Path) -> None:
    with refused("--weights", "--weights-key") as caught:
        loaded(saved, tmp_path / "a.pt")
    assert all(key.rpartition(".")[2] in str(caught.value) for key in keys)
    for key, state in zip(keys, (STATE, OTHER), strict=True):
        assert torch.equal(loaded(saved, tmp_path / "a.pt", key)["0.weight"], state["0.weight"])


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with refused("--weights", "emma", "ema"):
        loaded({"ema": STATE}, tmp_path / "a.pt", "emma")


def test_a_tensor_that_is_missing_is_still_missed(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in STATE.items() if name != "0.bias"}
    with refused("--weights", "0.bias", "model"):
        loaded(without, tmp_path / "a.pt")
