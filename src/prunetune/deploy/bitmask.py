"""The compact form of a sparse state dict: one bit for every element, and the elements that are not zero.

The file is safetensors. A tensor `w` that gains by it is stored as its non-zero elements in row-major order, 1-d and in
their own type under `w`, and as one bit an element under `bits:w`: uint8, eight elements to a byte, the first in the
highest bit (`numpy.packbits`), 1 = stored. Its shape is in the metadata: `shapes`, a JSON object of lists. All other
tensors are stored as they are. A tied tensor is stored once: `tied`, a JSON object, gives its other names the first.
Of a network with sparse layers, `sparse_layers`, a JSON list, names these.

An element is zero where all its bytes are: -0.0 is stored like any other value, so that bytes come back exactly.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prunetune.core.files import replace_file
from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import as_names, as_path, require_type
from prunetune.sparsity.mask import elements
from prunetune.sparsity.model_files import BITMASK
from prunetune.sparsity.model_state import memory_of

BITS = "bits:"
SPARSE_LAYERS = "sparse_layers"  # a key of the metadata
ENTRY = 192  # bytes: about what the second entry and the shape of a compact tensor cost in the file's header


def save_bitmask(state: Mapping[str, Tensor], path: str | Path, sparse_layers: Collection[str] = ()) -> None:
    """Write `state`, name -> tensor, to `path` in the compact form, all or nothing.

    Beside its header (8 bytes and the length they tell) the file has ceil(n / 8) + k * b bytes for a compact tensor of
    n elements of b bytes, k of them not zero, and n * b for any other. A tensor is compact where that saves more than
    `ENTRY` bytes. `sparse_layers` are the names of layers that `load_sparse` makes sparse. ConfigError for a type that
    safetensors does not know.
    """
    require_type("state", state, Mapping, "a state dict")
    names = as_names("sparse_layers", sparse_layers, "fc1")
    replace_file(as_path("path", path, example="model.bitmask.safetensors"), pack(state, names))


def load_bitmask(path: str | Path) -> dict[str, Tensor]:
    """Read what `save_bitmask` wrote: equal names, types, shapes and bytes, on the CPU; tied names share a tensor.

    ConfigError for a file that is missing, damaged or of another form. A size that the file claims is believed only
    where as many bits are there: a tensor takes at most 64 bytes for each of the file's (all zero, of 8 bytes each).
    """
    return read_bitmask(path)[0]


def read_bitmask(path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors as `load_bitmask` gives them, and the names of the layers that run sparse."""
    path = as_path("path", path, example="model.bitmask.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"bitmask: cannot read '{path}' as safetensors: {error}") from error
    if metadata.get("format") != BITMASK:
        raise ConfigError(f"bitmask: '{path}' is no {BITMASK} file; a plain safetensors file is read by safetensors")
    try:
        state = _unpacked(stored, json.loads(metadata["shapes"]), json.loads(metadata["tied"]))
        return state, _names(json.loads(metadata.get(SPARSE_LAYERS, "[]")))
    except KeyError as error:
        raise ConfigError(f"bitmask: '{path}' is damaged: it lacks {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"bitmask: '{path}' is damaged: {error}") from error


def pack(state: Mapping[str, Tensor], sparse_layers: Collection[str] = ()) -> bytes:
    """The content of a bitmask file of `state`; see `save_bitmask`."""
    tensors, tied = untied(state)
    shapes: dict[str, list[int]] = {}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kept = _bytes(tensor).any(axis=1)
        if f"{BITS}{name}" in tensors or _saved(tensor, kept) <= ENTRY:
            stored[name] = tensor
        else:
            shapes[name] = list(tensor.shape)
            stored[f"{BITS}{name}"] = torch.from_numpy(np.packbits(kept))
            stored[name] = torch.from_numpy(_bytes(tensor)[kept]).reshape(-1).view(tensor.dtype)
    notes = {"format": BITMASK, "shapes": _json(shapes), "tied": _json(tied)}
    return to_safetensors(stored, notes | ({SPARSE_LAYERS: _json([*sparse_layers])} if sparse_layers else {}))


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous copies of the tensors on the CPU, each once, and for the other names of a tied one its first name."""
    first: dict[tuple[object, ...], str] = {}
    owner = {name: first.setdefault(memory_of(tensor), name) for name, tensor in state.items()}
    copies = {
        name: state[name].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name in first.values()
    }
    return copies, {name: known for name, known in owner.items() if name != known}


def to_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file, the same bytes each time; ConfigError for a type that it does not know.

    The metadata are put in here: safetensors itself writes them in an order that changes from one call to the next.
    """
    try:
        content = save(tensors)
    except (KeyError, SafetensorError) as error:
        raise ConfigError(f"state: safetensors cannot hold it: {error}") from error
    start = 8 + int.from_bytes(content[:8], "little")
    fields = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8:start])}
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + content[start:]


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _bytes(tensor: Tensor) -> Any:
    """The elements of a contiguous CPU tensor as the rows of a matrix of bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy().reshape(tensor.numel(), tensor.element_size())


def _saved(tensor: Tensor, kept: Any) -> int:
    return int((~kept).sum()) * tensor.element_size() - math.ceil(len(kept) / 8)


def _unpacked(stored: dict[str, Tensor], shapes: Any, tied: Any) -> dict[str, Tensor]:
    """ValueError, TypeError or KeyError where the parts of the file do not fit together."""
    if not isinstance(shapes, dict) or not isinstance(tied, dict):
        raise ValueError("shapes and tied must be objects")
    for name, shape in shapes.items():
        bits = stored.pop(f"{BITS}{name}")
        stored[name] = _scattered(name, stored[name], bits, shape)
    for name, known in tied.items():
        if name in stored or known in tied:
            raise ValueError(f"'{name}' cannot be tied to '{known}'")
    return stored | {name: stored[known] for name, known in tied.items()}


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{SPARSE_LAYERS} must be a list of names")
    return tuple(found)


def _scattered(name: str, values: Tensor, bits: Tensor, shape: Any) -> Tensor:
    kept = elements(name, bits, shape).reshape(-1).numpy()
    if values.shape != (kept.sum(),):
        raise ValueError(f"'{name}' has {kept.sum()} bits set and values of shape {list(values.shape)}")
    whole = np.zeros((len(kept), values.element_size()), np.uint8)
    whole[kept] = _bytes(values)
    return torch.from_numpy(whole).reshape(-1).view(values.dtype).reshape(shape)
