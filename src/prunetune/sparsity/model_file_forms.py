"""The forms that checkpoint files come in: other formats, told by name, and states nested, prefixed or incomplete."""

import io
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from prunetune.errors import ConfigError, short, shown
from prunetune.sparsity.model_state import memory_of

# Where training scripts commonly keep the weights inside a checkpoint, and where an average of them.
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params")
_AVERAGES = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model", "params_ema", "swa")
_DEEPEST = 3  # containers within each other, of a checkpoint
_BOOKKEEPING = ("total_ops", "total_params")  # buffers that thop puts on every module
_BATCHES = "num_batches_tracked"  # of batch norm; files older than PyTorch 0.4.1 do not have it

_BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer and not the file itself; run `git lfs pull`",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ\0": "is compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed by Zstandard; unpack it first",
    b"\x89HDF": "is an HDF5 file; give a checkpoint of PyTorch or safetensors",
    b"\x93NUMPY": "is a NumPy array; give a checkpoint of PyTorch or safetensors",
    b"GGUF": "is a GGUF file; give the checkpoint that it was made from",
}
_TORCHSCRIPT = "is a TorchScript program; load it by torch.jit.load and save its state_dict()"
_PROGRAM = "is a torch.export program; load it by torch.export.load and save its state_dict"
_PAGE = "is a web page (HTML) and not the file itself; download it again"
_INDEX = "is the index of a checkpoint in several files; save all weights in one"
_ONNX = "is an ONNX model; give the checkpoint that it was made from"


def other_format(content: bytes) -> str | None:
    """What a file is that is no checkpoint, and what to do, as the end of a sentence; None where that is not known."""
    for beginning, words in _BEGINNINGS.items():
        if content.startswith(beginning):
            return words
    text = content[:200].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _PAGE
    if text.startswith(b"{") and text.isascii() and text[1:].lstrip()[:1] in (b'"', b"}"):
        return _INDEX if b'"weight_map"' in content else "is JSON; give a checkpoint of PyTorch or safetensors"
    if content[:1] == b"\x08" and content[1:2] < b"\x20" and content[2:3] in (b"\x12", b"\x3a"):
        return _ONNX  # a protobuf message: the version of its format, then who made it or the graph
    return _archive(content) if content.startswith(b"PK\x03\x04") else None


def _archive(content: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return _TORCHSCRIPT
    if names & {"archive_format", "serialized_exported_program.json"} or "models/model.json" in names:
        return _PROGRAM
    return None if "data.pkl" in names else "is a zip archive and no checkpoint; unpack it first"


def choose_state(loaded: Any, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in what a checkpoint holds: under `key`, dots between containers, or else the only one there is.

    `key` may go on into the names: `state_dict.net` are the tensors `net.…` of `state_dict`. ConfigError, the end of
    a sentence about the file, where there is none or where there are several that differ.
    """
    found = _states(loaded)
    if key is not None:
        if not (state := _under(loaded, key)):
            known = ", ".join(map(short, found)) or _holdings(loaded)
            raise ConfigError(f"holds no weights under {shown(key)} (it holds: {known})")
        return state
    if len(different := _different(found)) > 1:
        names = ", ".join(map(short, different))
        raise ConfigError(f"holds several states: {names}; name one by --weights-key, in a spec by pretrained.key")
    state = next(iter(found.values()), None) or _tensors(loaded) or _only_one(loaded)
    if not state:
        raise ConfigError(f"holds no state dict (it holds: {_holdings(loaded)})")
    return state


def fitted(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's state under the names of the model whose state is `own`, where that is unambiguous.

    A prefix under which all of the model's tensors are (Lightning's attribute names, `net.…`) is taken off, and what
    is not under it left out; thop's counts are left out; batch norm's counts of batches that are not in the file stay
    as they are in the model. ConfigError, without a field, where the model is there under two prefixes.
    """
    found = {name: t for name, t in state.items() if name in own or name.rpartition(".")[2] not in _BOOKKEEPING}
    if not _covers(found, own):
        fits = [prefix for prefix in _prefixed(found) if _covers(_within(found, prefix), own)]
        if len(fits) > 1:
            names = " and ".join(shown(prefix.removesuffix(".")) for prefix in fits)
            raise ConfigError(f"the model is in the file under {names}; name one by --weights-key")
        found = _within(found, fits[0]) if fits else found
    counts = {name: own[name] for name in own if name.endswith(_BATCHES)}
    return counts | found if _covers(found, own) else found


def _covers(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether each tensor of `own` is in the state, under one of its names; counts of batches need not be."""
    names: dict[object, set[str]] = {}
    for name, tensor in own.items():
        if not name.endswith(_BATCHES):
            names.setdefault(memory_of(tensor), set()).add(name)
    return all(state.keys() & group for group in names.values())


def _prefixed(names: Collection[str]) -> list[str]:
    """The beginnings that names have, each up to a dot and with at most three parts, in order."""
    cuts = [name.split(".")[:-1][:_DEEPEST] for name in names]
    return list(dict.fromkeys(".".join(parts[:n]) + "." for parts in cuts for n in range(1, len(parts) + 1)))


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _contents(value: Any) -> Mapping[Any, Any]:
    """What a container holds; nothing where it is none."""
    return cast(Mapping[Any, Any], value) if isinstance(value, Mapping) else {}


def _tensors(value: Any) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in _contents(value).items() if isinstance(tensor, Tensor)}


def _states(loaded: Any, within: str = "", depth: int = 1) -> dict[str, dict[str, Tensor]]:
    """The states under names that are usual, by their dotted key; those of the weights before those of averages."""
    found: dict[str, dict[str, Tensor]] = {}
    contents = _contents(loaded)
    for name in (*_WEIGHTS, *_AVERAGES) if contents else ():
        value = contents.get(name)
        if state := _tensors(value):
            found[within + name] = state
        elif depth < _DEEPEST:
            found |= _states(value, f"{within}{name}.", depth + 1)
    return found


def _different(states: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """The keys of those that are not equal to an earlier one."""
    kept: list[str] = []
    for key, state in states.items():
        if not any(_equal(state, states[other]) for other in kept):
            kept.append(key)
    return kept


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or (tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]))
        for name, tensor in one.items()
    )


def _only_one(loaded: Any) -> dict[str, Tensor]:
    """The weights under a name that is not usual, where there is but one such container."""
    states = [_tensors(value) for value in _contents(loaded).values()]
    states = [state for state in states if any(t.is_floating_point() and t.dim() for t in state.values())]
    return states[0] if len(states) == 1 else {}


def _under(loaded: Any, key: str) -> dict[str, Tensor]:
    """The tensors under a dotted key: containers as far as there are such, and then a prefix of the names."""
    name, _, rest = key.partition(".")
    inner = _contents(loaded).get(name)
    if isinstance(inner, Mapping):
        return _under(inner, rest) if rest else _tensors(inner)
    return _within(_tensors(loaded), f"{key}.") if key else _tensors(loaded)


def _holdings(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return type(loaded).__name__
    return ", ".join(short(str(name)) for name in list(_contents(loaded))[:6]) or "nothing"
