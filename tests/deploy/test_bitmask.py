"""The compact form of sparse weights: every byte comes back, its size is what the formula says, and damage is named."""

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from prunetune.deploy.bitmask import ENTRY, load_bitmask, read_bitmask, save_bitmask
from prunetune.errors import ConfigError
from prunetune.sparsity.model_files import BITMASK, read_state
from tests.support.refusals import refused

TYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def require_equal(found: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw(found[name]) == raw(tensor), name


def sparse(density: float, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.randn(shape, generator=generator), 0).to(dtype)


def header_of(path: Path) -> int:
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits at all (NaN payloads, -0.0, subnormals), with any share of elements zeroed."""
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.lists(st.integers(0, 40), max_size=3))
    width, count = torch.empty((), dtype=dtype).element_size(), math.prod(shape)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    content = random.integers(0, 2 if dtype is torch.bool else 256, (count, width), np.uint8)
    content[random.random(count) >= draw(st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0]))] = 0
    return torch.from_numpy(content).reshape(-1).view(dtype).reshape(shape)


names = st.sampled_from(["w", "bits:w", "bits:bits:w", "layer.1.weight", "größe", "a b", '"'])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(names, tensors()), tie=st.booleans())
def test_every_byte_comes_back(tmp_path: Path, state: dict[str, Tensor], tie: bool) -> None:
    if tie:
        state |= {f"tied.{name}": tensor for name, tensor in state.items()}
    save_bitmask(state, tmp_path / "state")
    require_equal(load_bitmask(tmp_path / "state"), state)


def test_minus_zero_and_the_payload_of_nan_are_values(tmp_path: Path) -> None:
    weight = torch.zeros(1000)
    weight.view(torch.int32)[:3] = torch.tensor([-(2**31), 0x7FC12345, 1], dtype=torch.int32)  # -0.0, NaN, subnormal
    save_bitmask({"w": weight}, tmp_path / "state")
    require_equal(load_bitmask(tmp_path / "state"), {"w": weight})
    assert load_file(tmp_path / "state")["w"].shape == (3,)


def test_the_form_is_the_documented_one(tmp_path: Path) -> None:
    weight = torch.zeros(10, 10)
    weight[0, 1], weight[0, 9], weight[9, 9] = 5, -6, 7
    save_bitmask({"w": weight, "bias": torch.ones(3)}, tmp_path / "state")
    stored = load_file(tmp_path / "state")
    assert stored["w"].tolist() == [5, -6, 7]
    assert stored["bits:w"].tolist() == [0b01000000, 0b01000000, *[0] * 10, 0b00010000]
    assert stored["bias"].tolist() == [1, 1, 1]
    header = json.loads(tmp_path.joinpath("state").read_bytes()[8 : header_of(tmp_path / "state")])
    assert header["__metadata__"] == {"format": BITMASK, "shapes": '{"w": [10, 10]}', "tied": "{}"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_the_size_is_the_closed_form(tmp_path: Path, dtype: torch.dtype, density: float) -> None:
    state = {
        "a": sparse(density, 64, 33, dtype=dtype),
        "b": sparse(density, 7, 3, 5, 5, dtype=dtype),
        "c": torch.ones(5),
    }
    save_bitmask(state, tmp_path / "state")
    expected = 0
    for tensor in state.values():
        n, k, width = tensor.numel(), int(tensor.count_nonzero()), tensor.element_size()
        compact = -(-n // 8) + k * width
        expected += compact if n * width - compact > ENTRY else n * width
    header = header_of(tmp_path / "state")
    assert (tmp_path / "state").stat().st_size == header + expected
    assert header < 1000


def test_a_tenth_of_the_weights_takes_an_eighth_of_the_file(tmp_path: Path) -> None:
    weight = torch.zeros(1000, 1000)
    weight.view(-1)[::10] = 1
    save_bitmask({"w": weight}, tmp_path / "state")
    assert (tmp_path / "state").stat().st_size == header_of(tmp_path / "state") + 125_000 + 400_000
    assert len(save({"w": weight})) > 7.5 * (tmp_path / "state").stat().st_size


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    weights = {f"{at}.weight": sparse(0.1, 40, 40, seed=at) for at in range(12)}
    state = {**weights, "copy": weights["3.weight"], "größe": torch.ones(3)}
    contents = []
    for number, names in enumerate([list(state), list(state), ["3.weight", *reversed(state)]]):
        save_bitmask({name: state[name] for name in names}, tmp_path / f"{number}")
        contents.append((tmp_path / f"{number}").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert header_of(tmp_path / "0") % 8 == 0
    require_equal(load_bitmask(tmp_path / "0"), state)


def test_what_is_tied_is_stored_once_and_comes_back_tied(tmp_path: Path) -> None:
    weight = torch.randn(50, 50)
    state = {"embedding": weight, "head": weight, "same_values": weight.clone(), "other_view": weight.t()}
    save_bitmask(state, tmp_path / "state")
    found = load_bitmask(tmp_path / "state")
    require_equal(found, state)
    assert found["head"] is found["embedding"]
    assert found["same_values"] is not found["embedding"]
    assert set(load_file(tmp_path / "state")) == {"embedding", "same_values", "other_view"}


def test_views_of_one_memory_are_separate_and_the_state_is_left_alone(tmp_path: Path) -> None:
    packed = sparse(0.1, 60, 20)
    before = packed.clone()
    state = {"q": packed[:20], "k": packed[20:40], "columns": packed[:, ::2]}
    save_bitmask(state, tmp_path / "state")
    require_equal(load_bitmask(tmp_path / "state"), state)
    assert torch.equal(packed, before)


def test_a_type_that_safetensors_does_not_know_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with refused("state", "complex128", "safetensors"):
        save_bitmask({"w": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


BITS, VALUES = torch.tensor([0b10100000], dtype=torch.uint8), torch.tensor([1.0, 2.0])
GOOD = {"w": VALUES, "bits:w": BITS}


def hostile(path: Path, tensors: dict[str, Tensor], shapes: str, tied: str = "{}") -> Path:
    save_file(tensors, path, {"format": BITMASK, "shapes": shapes, "tied": tied})
    return path


@pytest.mark.parametrize("names", [[], ["a", "b.c"], [""]])
def test_names_of_sparse_layers_come_back(tmp_path: Path, names: list[str]) -> None:
    save_bitmask({"w": sparse(0.1, 40, 40)}, tmp_path / "state", names)
    state, found = read_bitmask(tmp_path / "state")
    assert found == tuple(names)
    require_equal(state, load_bitmask(tmp_path / "state"))


@pytest.mark.parametrize("names", ["conv", [1], None])
def test_names_that_no_file_can_hold_are_refused_and_nothing_is_written(tmp_path: Path, names: Any) -> None:
    with refused("sparse_layers", "list of names"):
        save_bitmask({"w": VALUES}, tmp_path / "state", names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", ["7", '"conv"', "[1]", "{", '{"a": 1}'])
def test_names_that_are_none_get_one_line(tmp_path: Path, names: str) -> None:
    notes = {"format": BITMASK, "shapes": "{}", "tied": "{}", "sparse_layers": names}
    save_file({"w": VALUES}, tmp_path / "file", notes)
    with refused("bitmask", "file", "damaged"):
        read_bitmask(tmp_path / "file")


def test_the_good_file_of_the_hostile_ones_is_good(tmp_path: Path) -> None:
    found = load_bitmask(hostile(tmp_path / "f", GOOD, '{"w": [2, 3]}', '{"v": "w"}'))
    assert found["w"].tolist() == [[1, 0, 2], [0, 0, 0]]
    assert found["v"] is found["w"]


@pytest.mark.parametrize(
    ("tensors", "shapes", "tied", "words"),
    [
        (GOOD, '{"w": [4, 3]}', "{}", "'w' of shape [4, 3] has bits of shape [1]"),
        (GOOD, '{"w": [1000000000000, 1000000000000]}', "{}", "has bits of shape [1]"),
        (GOOD, '{"w": [0, 99999999999999999999999999]}', "{}", "must be a list of positive integers"),
        (GOOD, '{"w": [-2, -3]}', "{}", "must be a list of positive integers"),
        (GOOD, '{"w": [2.0, 3.0]}', "{}", "must be a list of positive integers"),
        (GOOD, '{"w": [true, 3]}', "{}", "must be a list of positive integers"),
        (GOOD, '{"w": 6}', "{}", "must be a list of positive integers"),
        (GOOD, '{"w": [2, 1]}', "{}", "'w' has 1 bits set and values of shape [2]"),
        ({**GOOD, "w": torch.ones(3)}, '{"w": [2, 3]}', "{}", "'w' has 2 bits set and values of shape [3]"),
        ({**GOOD, "w": torch.ones(2, 1)}, '{"w": [2, 3]}', "{}", "values of shape [2, 1]"),
        ({**GOOD, "bits:w": BITS.int()}, '{"w": [2, 3]}', "{}", "and type torch.int32"),
        ({**GOOD, "bits:w": BITS[None]}, '{"w": [2, 3]}', "{}", "has bits of shape [1, 1]"),
        ({"w": VALUES}, '{"w": [2, 3]}', "{}", "it lacks 'bits:w'"),
        ({"bits:w": BITS}, '{"w": [2, 3]}', "{}", "it lacks 'w'"),
        (GOOD, "[]", "{}", "shapes and tied must be objects"),
        (GOOD, "{", "{}", "Expecting property name"),
        (GOOD, "[" * 100_000, "{}", "recursion"),
        (GOOD, '{"w": [' + "9" * 5000 + "]}", "{}", "digit"),
        (GOOD, "{}", '{"v": "x"}', "it lacks 'x'"),
        (GOOD, "{}", '{"v": ["w"]}', "unhashable"),
        (GOOD, "{}", '{"w": "bits:w"}', "'w' cannot be tied to 'bits:w'"),
        (GOOD, "{}", '{"a": "b", "b": "a"}', "'a' cannot be tied to 'b'"),
    ],
)
def test_parts_that_do_not_fit_together_get_one_line(
    tmp_path: Path, tensors: dict[str, Tensor], shapes: str, tied: str, words: str
) -> None:
    path = hostile(tmp_path / "file", tensors, shapes, tied)
    with pytest.raises(ConfigError) as caught:
        load_bitmask(path)
    line = str(caught.value)
    assert line.startswith(f"bitmask: '{path}' is damaged: ")
    assert words in line
    assert "\n" not in line


def test_a_file_cut_anywhere_gets_one_line(tmp_path: Path) -> None:
    save_bitmask({"w": sparse(0.2, 30, 30), "b": torch.ones(5)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in [*range(0, 20), *range(20, len(content), 97), len(content) - 1]:
        (tmp_path / "cut").write_bytes(content[:length])
        with refused("bitmask", "safetensors"):
            load_bitmask(tmp_path / "cut")


def test_a_header_of_an_absurd_length_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(struct.pack("<Q", 2**60) + b"{" * 100)
    with refused("bitmask", "as safetensors"):
        load_bitmask(tmp_path / "file")


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "plain")
    with refused("bitmask", BITMASK):
        load_bitmask(tmp_path / "plain")
    for path in (tmp_path / "none", tmp_path):
        with refused("bitmask", "cannot read"):
            load_bitmask(path)


def test_it_is_not_mistaken_for_a_plain_checkpoint(tmp_path: Path) -> None:
    save_bitmask({"w": torch.ones(3)}, tmp_path / "m.bitmask.safetensors")
    with refused("checkpoint", "load_bitmask", "bits"):
        read_state(tmp_path / "m.bitmask.safetensors")


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
ALONE = """
import sys

for name in ("prunetune", "torch"):
    sys.modules[name] = None  # an import of it fails, as where it is not installed

{loader}
state = load_bitmask("m.bitmask.safetensors")
for name, array in state.items():
    with open(f"{{name}}.bin", "wb") as file:
        file.write(array.tobytes())
print(json.dumps({{name: [str(array.dtype), array.shape] for name, array in state.items()}}))
"""


def test_the_loader_that_the_page_shows_needs_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    types = [dtype for dtype in TYPES if dtype not in (torch.bfloat16, torch.complex64, torch.float8_e4m3fn)]
    state = {f"t{i}": sparse(0.1, 40, 30, dtype=dtype, seed=i) for i, dtype in enumerate(types)}
    state |= {
        "scalar": torch.tensor(2.0),
        "whole": torch.randn(3, 5),
        "empty": torch.zeros(0, 4),
        "cube": sparse(0, 9, 9, 9),
    }
    state["cube"][1, 2, 3], state["cube"][4, 5, 6] = -0.0, torch.nan
    state["tied"] = state["cube"]
    save_bitmask(state, tmp_path / "m.bitmask.safetensors")
    assert sum(name.startswith("bits:") for name in load_file(tmp_path / "m.bitmask.safetensors")) > 5
    (loader,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "load_bitmask(path)" in block
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(loader=loader)], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in state.items()
    }
    for name, tensor in state.items():
        assert (tmp_path / f"{name}.bin").read_bytes() == raw(tensor), name
