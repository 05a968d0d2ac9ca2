"""Mask algebra: what is accepted, what is counted, what is changed and what is left alone."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from prunetune.sparsity.mask import Mask, keep_top
from tests.support.refusals import refused

BITS = torch.tensor([[True, False, False], [True, True, False]])


def test_counts_are_exact() -> None:
    mask = Mask({"b": BITS, "a": torch.tensor([False, True])})
    assert (mask.kept, mask.total, mask.density, mask.sparsity) == (4, 8, 0.5, 0.5)
    assert list(mask) == ["b", "a"]
    assert len(mask) == 2


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_exact_zero_and_one_of_any_type_are_bits(dtype: torch.dtype) -> None:
    mask = Mask({"w": BITS.to(dtype)})
    assert mask["w"].dtype is torch.bool
    assert torch.equal(mask["w"], BITS)


def test_its_repr_is_one_line_of_counts() -> None:
    mask = Mask({"a": torch.tensor([1, 0, 0]), "b": torch.ones(1, 1)})
    assert repr(mask) == "<Mask of 2 tensors: 2 of 4 weights kept, 50 % sparse>"


def test_a_mask_is_its_own_copy() -> None:
    bits = BITS.clone()
    mask = Mask({"w": bits})
    bits.fill_(False)
    assert mask.kept == 3
    assert mask["w"].sum() == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.tensor([0.0, 0.5])}, ("mask", "'w'", "0", "1", "values")),
        ({"w": torch.tensor([0.0, torch.nan])}, ("mask", "'w'", "0", "1", "values")),
        ({"w": torch.tensor([2, 1])}, ("mask", "'w'", "0", "1", "values")),
        ({"w": [True]}, ("mask", "'w'", "list")),
        ({}, ("mask", "holds no position")),
        ({"w": torch.empty(0, dtype=torch.bool)}, ("mask", "holds no position")),
    ],
)
def test_what_is_no_mask_is_refused(content: dict[str, Tensor], message: tuple[str, ...]) -> None:
    with refused(*message):
        Mask(content)


def test_digest_against_bytes_packed_by_hand() -> None:
    mask = Mask({"w": BITS, "a": torch.ones(9, dtype=torch.bool)})
    expected = hashlib.sha256(b"a|9\n" + bytes([0b11111111, 0b10000000]) + b"w|2,3\n" + bytes([0b10011000]))
    assert mask.digest == expected.hexdigest()


@pytest.mark.parametrize("other", [{"v": BITS}, {"w": BITS.t()}, {"w": ~BITS}, {"w": BITS, "v": BITS}])
def test_equality_sees_names_shapes_and_bits(other: dict[str, Tensor]) -> None:
    mask = Mask({"w": BITS})
    assert mask == Mask({"w": BITS.int()})
    assert hash(mask) == hash(Mask({"w": BITS}))
    assert mask != Mask(other)


def test_apply_zeroes_the_pruned_and_leaves_everything_else() -> None:
    weight = torch.tensor([[1.0, torch.nan, torch.inf], [-2.0, 5.0, 6.0]])
    state = {"w": weight, "w2": torch.ones(3), "steps": torch.tensor(7)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    applied = Mask({"w": BITS}).apply(state)
    assert torch.equal(applied["w"], torch.tensor([[1.0, 0.0, 0.0], [-2.0, 5.0, 0.0]]))
    assert list(applied) == list(state)
    for name, tensor in state.items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        assert tensor.data_ptr() != applied[name].data_ptr()
    assert torch.equal(applied["w2"], state["w2"])
    assert applied["steps"] == 7


def test_apply_reaches_a_tied_weight_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    bits = torch.eye(3, dtype=torch.bool)
    model.load_state_dict(Mask({"0.weight": bits}).apply(model.state_dict()))
    assert torch.equal(model.get_parameter("1.weight") != 0, bits)


def test_apply_refuses_names_and_shapes_that_are_not_there() -> None:
    mask = Mask({"fc.weight": BITS})
    with refused("mask", "fc.weight", "fc1.weight"):
        mask.apply({"fc1.weight": torch.ones(2, 3)})
    with refused("mask", "fc.weight", "(2, 3)", "(3, 2)", "shape"):
        mask.apply({"fc.weight": torch.ones(3, 2)})


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    mask = Mask({"w": BITS, "conv.weight": torch.rand(4, 1, 3, 3) > 0.5})
    mask.save(tmp_path / "mask.safetensors")
    assert Mask.load(tmp_path / "mask.safetensors") == mask
    mask.save(tmp_path / "mask.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.safetensors"]


def test_load_reads_numbers_and_refuses_other_files(tmp_path: Path) -> None:
    save_file({"w": BITS.float()}, tmp_path / "numbers")
    assert Mask.load(tmp_path / "numbers") == Mask({"w": BITS})
    (tmp_path / "text").write_text("not a mask at all")
    for name in ("text", "missing"):
        with refused("mask", tmp_path / name):
            Mask.load(tmp_path / name)


def test_keep_top_on_a_table_worked_by_hand() -> None:
    scores = {"a": torch.tensor([[0.3, 0.9], [0.9, 0.1]]), "b": torch.tensor([4.0, 4.0, 4.0])}
    mask = keep_top(scores, {"a": 1, "b": 2})
    assert mask["a"].tolist() == [[False, True], [False, False]]
    assert mask["b"].tolist() == [True, True, False]


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), data=st.data())
def test_keep_top_keeps_exactly_the_counts(sizes: list[int], data: st.DataObject) -> None:
    scores = {
        f"layer{i}": torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))).float()
        for i, n in enumerate(sizes)
    }
    counts = {name: data.draw(st.integers(0, score.numel())) for name, score in scores.items()}
    mask = keep_top(scores, counts)
    assert {name: int(bits.sum()) for name, bits in mask.items()} == counts
    for name, bits in mask.items():
        kept, pruned = scores[name][bits], scores[name][~bits]
        assert not len(kept) or not len(pruned) or kept.min() >= pruned.max()


@pytest.mark.parametrize(
    ("scores", "counts", "message"),
    [
        ({"w": torch.tensor([1.0, torch.nan])}, {"w": 1}, ("scores", "'w'", "NaN")),
        ({"w": torch.ones(2)}, {"w": 3}, ("counts", "'w'", "3", "2", "asks")),
        ({"w": torch.ones(2)}, {"w": -1}, ("counts", "'w'", "-1", "asks")),
        ({"w": torch.ones(2)}, {"v": 1}, ("counts", "'v'", "score")),
    ],
)
def test_keep_top_refuses(scores: dict[str, Tensor], counts: dict[str, int], message: tuple[str, ...]) -> None:
    with refused(*message):
        keep_top(scores, counts)
