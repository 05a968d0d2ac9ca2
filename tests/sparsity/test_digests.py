"""Digests see names, types, shapes and every bit, and nothing else."""

import hashlib
import struct

import pytest
import torch
from torch import Tensor

from prunetune.sparsity.model_state import digest_tensors

BASE = {"b": torch.tensor([[1.0, -2.5]]), "a": torch.tensor(3, dtype=torch.int64)}


def test_against_bytes_packed_by_hand() -> None:
    expected = hashlib.sha256(b"a|int64|\n" + struct.pack("<q", 3) + b"b|float32|1,2\n" + struct.pack("<2f", 1.0, -2.5))
    assert digest_tensors(BASE) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"c": BASE["b"], "a": BASE["a"]},
        {"b": BASE["b"].t().contiguous(), "a": BASE["a"]},
        {"b": BASE["b"].double(), "a": BASE["a"]},
        {"b": torch.tensor([[1.0, -2.5000002]]), "a": BASE["a"]},
        {"b": BASE["b"]},
    ],
)
def test_any_difference_shows(other: dict[str, Tensor]) -> None:
    assert digest_tensors(other) != digest_tensors(BASE)


def test_order_strides_and_autograd_do_not_matter() -> None:
    strided = torch.tensor([[1.0], [-2.5]]).t().requires_grad_()
    assert digest_tensors({"a": BASE["a"], "b": strided}) == digest_tensors(BASE)


def test_low_precision_and_bool_have_digests() -> None:
    one, two = torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([1.0, 3.0]).bfloat16()
    assert digest_tensors({"w": one}) != digest_tensors({"w": two})
    assert digest_tensors({"w": one > 1}) != digest_tensors({"w": two > 3})
