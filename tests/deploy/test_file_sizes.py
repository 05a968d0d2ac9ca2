"""Bytes of a state as a file: against files that are really written."""

import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunetune.core.references import Ref
from prunetune.deploy.sizes import file_sizes
from prunetune.models import build
from prunetune.sparsity.prune import compute_mask


def test_raw_and_compressed_are_those_of_real_files(tmp_path: Path) -> None:
    state = build(Ref.of("small", {}), (1, 28, 28), 10).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    found = file_sizes(state)
    assert found.raw == len(content)
    zipped = len(gzip.compress(content, compresslevel=9))
    assert found.compressed == zipped - 12  # gzip wraps the same DEFLATE stream in 18 bytes, zlib in 6
    assert file_sizes(state) == found


def test_by_hand() -> None:
    """8 bytes of length, the header (a JSON object padded to a multiple of 8), then 4 bytes a number."""
    found = file_sizes({"w": torch.zeros(1000, 1000)})
    header = len('{"w":{"dtype":"F32","shape":[1000,1000],"data_offsets":[0,4000000]}}')
    assert found.raw == 8 + -(-header // 8) * 8 + 4_000_000
    assert found.compressed < found.raw / 500


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_pruning_shrinks_the_compressed_file_and_not_the_raw_one(sparsity: float) -> None:
    model = build(Ref.of("small", {}), (1, 28, 28), 10)
    dense = file_sizes(model.state_dict())
    sparse = file_sizes(compute_mask(model, sparsity).apply(model.state_dict()))
    assert sparse.raw == dense.raw
    # A kept float32 costs about what it did; where the zeros are costs the entropy of the mask, at most a bit each.
    least, most = 0.8 * (1 - sparsity), (1 - sparsity) + 2 / 32
    assert least * dense.compressed < sparse.compressed < most * dense.compressed * 1.1


def test_tied_views_and_types() -> None:
    layer = nn.Linear(40, 40, bias=False)
    tied = {"a": layer.weight, "b": layer.weight}
    assert file_sizes(tied) == file_sizes({"a": layer.weight})
    base = torch.arange(100.0).reshape(10, 10)
    views = {"t": base.t(), "row": base[3], "half": base[:5], "empty": base[:0], "steps": torch.tensor(3)}
    owned = {name: tensor.clone().contiguous() for name, tensor in views.items()}
    assert file_sizes(views) == file_sizes(owned)
    assert file_sizes(views).raw > 4 * (100 + 10 + 50) + 8
