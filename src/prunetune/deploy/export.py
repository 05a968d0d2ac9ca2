"""A masked model as a file that other runtimes load, read back and compared before it appears, and listed as ours."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunetune.core.files import replace_file, replacing
from prunetune.deploy.bitmask import load_bitmask, save_bitmask, to_safetensors, untied
from prunetune.deploy.graph_export import write_onnx, write_program
from prunetune.deploy.sparse_kernels import sparse_names
from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import as_number, as_path, require_module, require_type
from prunetune.sparsity.enforce import apply_mask, get_mask, is_held, remove_mask
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.model_state import copied, require_values
from prunetune.sparsity.scope import prunable


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares with the model, found by reading it back.

    `max_error`: the largest absolute difference of an output (`onnx`, `torch.export`) or of a weight (the others; they
    are equal, or nothing is written). `zeros_exact`: whether every pruned weight is zero in the file; False
    also where the exporter has so rebuilt a weight that its zeros cannot be found again.
    """

    path: Path
    format: str
    bytes: int
    max_error: float
    zeros_exact: bool


def export(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None,
    path: str | Path,
    example_inputs: ExampleInputs | None = None,
    *,
    tolerance: float = 1e-4,
    batch_dim: int = 0,
) -> Exported:
    """Write `model`, pruned by `mask`, to `path`, in the format that its suffix names. `model` is not changed.

    | suffix | holds |
    |---|---|
    | `.onnx` | the graph, for onnxruntime and others; the batch size, the first dimension of every input, is free |
    | `.pt2` | the graph as a `torch.export` program; the batch size is free |
    | `.bitmask.safetensors` | the state dict, zeros as bits (`bitmask.load_bitmask`); which layers run sparse |
    | `.safetensors` | the state dict with its zeros; see `safetensors.torch.load_model` |

    The file is that of a copy on the CPU in eval mode, without anything of `apply_mask`. Of DataParallel, an
    AveragedModel and a compiled model the graph is that of the network within. Named tuples among its outputs are
    tuples in a program; a mapping's keys name the outputs of an ONNX file, unless an input or a weight has such a name.

    Args:
        model: Any module, on any device.
        mask: Parameter name to bool tensor of the parameter's shape, True = kept; None takes what is held in the
            model, and else the weights as they are.
        path: The file; folders that are missing are made.
        example_inputs: What a graph is traced with: a tensor, a tuple, or a dict of keyword arguments, each of shape
            (batch, ...). The file is run on them, and at another batch size. Weights alone need none.
        tolerance: A graph must give the model's outputs up to this times the largest of them (times 1 where that is
            smaller); half types need a larger one.
        batch_dim: The dimension of the batch (1 for series of shape (time, batch, ...)).

    Returns:
        The file's path, format and bytes, and what was found when it was read back.

    Raises:
        ConfigError: And nothing is written, for another suffix, a model that cannot be turned into a graph, a batch
            size that cannot vary, a difference larger than `tolerance`, a folder that cannot be written.

    >>> export(nn.Linear(2, 2), None, "weights.bin")
    Traceback (most recent call last):
    prunetune.errors.ConfigError: path: 'weights.bin' is in no known format; name it .onnx, .pt2 or .safetensors
    """
    require_module(model)
    target = as_path("path", path, example="model.onnx")
    tolerance = as_number("tolerance", tolerance, example=1e-4)
    require_type("batch_dim", batch_dim, int, "the number of a dimension, such as 0")
    form, write = _format(target)
    copy = settled(model, mask)
    _require_a_graph(copy, form)
    pruned = {name: copy.get_parameter(name) == 0 for name in _pruned_names(model, mask)}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            max_error, zeros_exact = write(temporary, copy, pruned, example_inputs, tolerance, batch_dim)
        return Exported(target, form, target.stat().st_size, max_error, zeros_exact)
    except OSError as error:
        raise ConfigError(f"path: cannot write '{target}': {error.strerror or error}") from error


def _require_a_graph(model: nn.Module, form: str) -> None:
    sparse = sparse_names(model)
    if sparse and form in ("onnx", "torch.export"):
        instead = "export the dense model, or this one as .bitmask.safetensors, which load_sparse reads"
        raise ConfigError(f"model: '{sparse[0]}' runs sparse, which no graph can hold; {instead}")


def _pruned_names(model: nn.Module, mask: Mapping[str, Tensor] | None) -> Iterable[str]:
    """The weights whose zeros must be found again: the mask's, else those that are held, else all that could be."""
    if mask is not None:
        return mask
    return get_mask(model) if is_held(model) else prunable(model)


Write = Callable[[Path, nn.Module, Mapping[str, Tensor], ExampleInputs | None, float, int], tuple[float, bool]]
"""Writes a settled model to a path and reads it back: the largest error, and whether what is pruned is zero there."""


def _format(path: Path) -> tuple[str, Write]:
    for suffix, (form, write) in _FORMATS.items():
        if path.name.endswith(suffix):
            return form, write
    raise ConfigError(f"path: '{path}' is in no known format; name it .onnx, .pt2 or .safetensors")


def settled(model: nn.Module, mask: Mapping[str, Tensor] | None) -> nn.Module:
    """A copy on the CPU, in eval mode, with its zeros in place and without the hooks that hold them."""
    require_values({**dict(model.named_parameters()), **dict(model.named_buffers())})
    copy = copied(model).cpu().eval()
    if mask is not None:
        apply_mask(copy, mask)
    copy.state_dict()  # whatever is held is zeroed, also where a weight was written since
    remove_mask(copy)
    return copy


def _write_dense(path: Path, model: nn.Module, pruned: Mapping[str, Tensor], *_: object) -> tuple[float, bool]:
    tensors, tied = untied(_state(model))
    # What is tied is stored once, and its other names in the metadata: safetensors' own convention (`load_model`).
    path.write_bytes(to_safetensors(tensors, {"format": "pt", **tied}))
    found = load_file(path)
    return _read_back(found | {name: found[known] for name, known in tied.items()}, model, pruned)


def _write_bitmask(path: Path, model: nn.Module, pruned: Mapping[str, Tensor], *_: object) -> tuple[float, bool]:
    save_bitmask(_state(model), path, sparse_names(model))
    return _read_back(load_bitmask(path), model, pruned)


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"model: '{name}' of its state is a {type(value).__name__}; a file holds tensors only")
        if value.layout is not torch.strided or value.is_quantized:
            kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
            raise ConfigError(f"model: '{name}' of its state is {kind}; a file holds dense tensors only")
    return state


def _read_back(found: Mapping[str, Tensor], model: nn.Module, pruned: Mapping[str, Tensor]) -> tuple[float, bool]:
    for name, tensor in _state(model).items():
        if found[name].dtype != tensor.dtype or not torch.equal(_bytes(found[name]), _bytes(tensor)):
            raise ConfigError(f"path: '{name}' is not read back as it was written; is the disk sound?")
    return 0.0, not any(found[name][zeros].any() for name, zeros in pruned.items())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


_FORMATS: dict[str, tuple[str, Write]] = {
    ".onnx": ("onnx", write_onnx),
    ".pt2": ("torch.export", write_program),
    ".bitmask.safetensors": ("bitmask", _write_bitmask),  # before the shorter suffix
    ".safetensors": ("safetensors", _write_dense),
}


LIST, KIND = "LIST", "prunetune models"


def listed_models(folder: Path) -> frozenset[str]:
    """The names of files that lie in `folder` as an earlier `prune` left them; those it may have been killed at too."""
    return frozenset(
        name for name, digest in _read(folder).items() if digest is None or digest == _digest(folder / name)
    )


def announce_models(folder: Path, names: Iterable[str]) -> None:
    """Note files that are about to be written, so that what a killed process leaves of them is known as ours."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, _read(folder) | dict.fromkeys(names))


def note_model(path: Path) -> None:
    """Note a file that has been written."""
    _write(path.parent, _read(path.parent) | {path.name: _digest(path)})


def _read(folder: Path) -> dict[str, str | None]:
    try:
        found = json.loads((folder / LIST).read_bytes())
        return dict(found["files"]) if found["kind"] == KIND else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(folder: Path, files: dict[str, str | None]) -> None:
    content = json.dumps({"kind": KIND, "files": dict(sorted(files.items()))}, indent=1)
    replace_file(folder / LIST, content.encode())


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
