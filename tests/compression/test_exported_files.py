"""Which files `prune` writes, what is refused before anything is trained, and by which examples ranges are set."""

import sys
from pathlib import Path

import pytest
import torch

from prunetune.compression.compress_models import plan_compression, preflight_compression
from prunetune.compression.exported_files import CALIBRATION, SUFFIXES, all_formats, calibration_examples, model_paths
from prunetune.data import load_examples
from prunetune.spec.compression import CompressionRequest
from tests.support.refusals import refused


def test_a_file_in_8_bits_comes_with_the_onnx_file_it_is_made_from() -> None:
    assert all_formats([]) == ("safetensors",)
    assert all_formats(["int8-dynamic", "bitmask"]) == ("safetensors", "bitmask", "onnx", "int8-dynamic")
    assert all_formats(["onnx", "pt2", "int8-static", "onnx"]) == ("safetensors", "onnx", "pt2", "int8-static")
    assert model_paths(["m-50", "best"], ["int8-static"], "m-0") == [
        *(f"models/{stem}.{x}" for stem in ("m-50", "best") for x in ("safetensors", "onnx", "int8-static.onnx")),
        *("models/m-0.onnx", "models/m-0.int8-static.onnx"),
    ]
    assert len(set(SUFFIXES.values())) == len(SUFFIXES)


def test_a_library_that_is_missing_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = CompressionRequest(model="small", data="fashion-mini", sparsities=(0.5,))
    prepared = plan_compression(None, (), asked, store=tmp_path / "store")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx", "int8-static", "int8-dynamic"):
        with refused("--export", name, "prunetune[onnx]"):
            preflight_compression(prepared, [name], tmp_path / "out")
    with refused("--export", "int9"):
        preflight_compression(prepared, ["int9"], tmp_path / "out")
    assert preflight_compression(prepared, ["pt2", "bitmask"], tmp_path / "out") == tmp_path / "out"


def test_ranges_are_set_by_training_examples_from_first_to_last(tmp_path: Path) -> None:
    asked = CompressionRequest(model="small", data="fashion-mini", sparsities=(0.5,))
    prepared = plan_compression(None, ["data_args.validation=0.5"], asked, store=tmp_path / "store")
    data = load_examples(prepared.plan.data)
    found = calibration_examples(data)
    step = len(data.train) / CALIBRATION
    assert len(found) == CALIBRATION
    prepare = data.preparation(torch.device("cpu"))
    for i in (0, 1, 100, CALIBRATION - 1):
        (image,) = prepare(data.train.gather(torch.tensor([int(i * step)])).inputs)
        assert torch.equal(found[i], image)
