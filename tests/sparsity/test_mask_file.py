"""The content of mask files, against a table worked by hand and a slow second way."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from prunetune.sparsity.mask import Mask, packed, unpacked
from tests.support.refusals import refused

SHAPES = st.lists(st.integers(0, 5), max_size=4)


@st.composite
def masks(draw: st.DrawFn) -> dict[str, Tensor]:
    found = {}
    for name, shape in draw(st.dictionaries(st.text("ab.", min_size=1, max_size=3), SHAPES, min_size=1)).items():
        count = torch.Size(shape).numel()
        bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        found[name] = torch.tensor(bits, dtype=torch.bool).reshape(shape)
    return found


def test_bits_on_a_table_worked_by_hand(tmp_path: Path) -> None:
    nine = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]]).bool()
    (tmp_path / "mask").write_bytes(packed({"w": nine}))
    with safe_open(tmp_path / "mask", framework="pt") as file:
        assert file.get_tensor("w").tolist() == [0b10100001, 0b10000000]
        assert file.metadata() == {"shapes": '{"w": [3, 3]}'}
    assert torch.equal(Mask.load(tmp_path / "mask")["w"], nine)


@given(masks())
def test_what_is_packed_comes_back_in_order_of_names(mask: dict[str, Tensor]) -> None:
    back = unpacked(packed(mask))
    assert list(back) == sorted(mask)
    for name, kept in mask.items():
        assert back[name].dtype is torch.bool
        assert back[name].tolist() == kept.tolist()


@given(masks())
def test_the_same_bytes_whatever_the_order_and_strides(mask: dict[str, Tensor]) -> None:
    others = {name: kept.T.contiguous().T if kept.dim() == 2 else kept for name, kept in reversed(mask.items())}
    assert packed(others) == packed(mask)


def test_bool_tensors_are_read_as_they_are() -> None:
    kept = torch.rand(3, 4) > 0.5
    assert torch.equal(unpacked(save({"w": kept}, {"made": "elsewhere"}))["w"], kept)


BYTE = torch.zeros(1, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("bits", "shapes", "said"),
    [
        (BYTE, {"w": [9]}, ("'w'", "[9]", "[1]")),
        (BYTE, {"w": [10**9, 10**9]}, ("'w'", "bits")),
        (BYTE.float(), {"w": [8]}, ("torch.float32",)),
        (BYTE, {"w": [-8]}, ("'w'", "[-8]")),
        (BYTE, {"w": "8"}, ("'w'", "8")),
        (BYTE, {"w": [0, 10**30]}, ("positive",)),
        (BYTE, {"v": [8]}, ("object",)),
        (BYTE, [8], ("object",)),
    ],
)
def test_bits_that_do_not_fit_are_one_line(tmp_path: Path, bits: Tensor, shapes: object, said: tuple[str, ...]) -> None:
    save_file({"w": bits}, tmp_path / "mask", {"shapes": json.dumps(shapes)})
    with refused("mask", tmp_path / "mask", *said):
        Mask.load(tmp_path / "mask")


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_shapes_that_are_no_json_are_one_line(tmp_path: Path, text: str) -> None:
    save_file({"w": BYTE}, tmp_path / "mask", {"shapes": text})
    with refused("mask", "read"):
        Mask.load(tmp_path / "mask")
