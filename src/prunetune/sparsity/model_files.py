"""Anybody's checkpoint file, read as a plain state dict without running anything in it, and loaded into a model."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from prunetune.errors import ConfigError, shown
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_file_forms import choose_state, fitted, other_format
from prunetune.sparsity.model_state import memory_of
from prunetune.sparsity.torch_prune import fold_masks, masks_in

_MOST_TIMES = 10  # as large as its file may be what it unpacks to: torch.save does not compress
BITMASK = "prunetune-bitmask-1"  # the `format` in the metadata of a file that `deploy.bitmask` writes
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DistributedDataParallel and torch.compile put before every name
_COMPILED = "_orig_mod."  # which torch.compile puts before the names of a part, too
_COUNT = "n_averaged"  # what `torch.optim.swa_utils.AveragedModel` adds to the names of its `module`


def read_state(path: str | Path, field: str = "checkpoint", key: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file or a `torch.save`d state dict (also nested in a checkpoint) onto the CPU.

    Names lose the prefixes of `DistributedDataParallel` and `torch.compile`, in any order, where all of them have one
    (`module.` in some names alone is a module of the model's own); pairs `x_orig`, `x_mask` as
    `torch.nn.utils.prune` saves them become `x`. Raises ConfigError naming `field` for a file that is missing,
    truncated, in another format, or that holds anything but tensors and plain containers; and for one that stands for
    far more than it holds: a zip bomb, or a number repeated a billion times by its strides.

    `key` names the container of a checkpoint with several (`ema`, `model.state_dict`), or a prefix of the names.
    """
    return fold_masks(_read(Path(path).expanduser(), field, key))


def read_mask(path: str | Path, field: str = "mask") -> Mask:
    """Read a mask: a file of bool or 0/1 tensors, or a checkpoint with masks as `torch.nn.utils.prune` saves them.

    In any format that `read_state` reads, with its errors; ConfigError also for other values than 0 and 1.
    """
    state = _read(Path(path).expanduser(), field)
    return Mask(masks_in(state) or state)


def _read(path: Path, field: str, key: str | None = None) -> dict[str, Tensor]:
    if path.is_char_device():  # without an end
        raise ConfigError(f"{field}: '{path}' is a device; give a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{field}: cannot read '{path}': {error.strerror}") from error
    return _unwrapped(_parse(content, path, field, key))


def under_names(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state under the `names` of a model, where they are its own up to prefixes of wrappers.

    As it is where two names would become one.
    """
    own = list(names)
    wanted, found = {_bare(name): name for name in own}, {_bare(name): name for name in state}
    if state.keys() <= set(own) or len(wanted) < len(own) or len(found) < len(state):
        return dict(state)
    return {wanted.get(bare, name): state[name] for bare, name in found.items()}


def _parse(content: bytes, path: Path, field: str, key: str | None) -> dict[str, Tensor]:
    if content[8:9] == b"{":  # a safetensors file is the header's length in 8 bytes, then the header, a JSON object
        if f'"format":"{BITMASK}"'.encode() in content[8 : 8 + int.from_bytes(content[:8], "little")]:
            raise ConfigError(
                f"{field}: '{path}' holds bits and values; read it by prunetune.deploy.bitmask.load_bitmask"
            )
        state = _safetensors(content, path, field)
        return _chosen(state, path, field, key) if key else state
    try:
        _refuse_zip_bomb(content)
        if (words := other_format(content)) is not None:
            raise ConfigError(words)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; what cannot be read is refused below
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ConfigError as error:
        raise ConfigError(f"{field}: '{path}' {error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{field}: '{path}' holds more than plain tensors; save `model.state_dict()` or use safetensors"
        ) from error
    except Exception as error:  # a damaged stream raises almost anything
        raise ConfigError(f"{field}: '{path}' is truncated or in no known checkpoint format") from error
    state = _chosen(loaded, path, field, key)
    _require_numbers(state, len(content), path, field)
    return state


def _refuse_zip_bomb(content: bytes) -> None:
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MOST_TIMES * len(content):
            raise ConfigError(f"unpacks to {unpacked:,} bytes, the file has {len(content):,}; torch.save packs nothing")


def _require_numbers(state: Mapping[str, Tensor], size: int, path: Path, field: str) -> None:
    """Refuse tensors that hold other than numbers side by side, or claim more of them than a file of `size` bytes."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ConfigError(f"{field}: '{path}': {shown(name)} is no dense tensor; save the weights as plain tensors")
        if tensor.is_quantized:
            raise ConfigError(f"{field}: '{path}': {shown(name)} is quantised; save what its dequantize() gives")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > _MOST_TIMES * size:
        what = f"its tensors claim {claimed:,} bytes, the file has {size:,}"
        raise ConfigError(f"{field}: '{path}': {what}; save contiguous copies")


def _safetensors(content: bytes, path: Path, field: str) -> dict[str, Tensor]:
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        what = other_format(content) or f"is a damaged safetensors file: {error}"
        raise ConfigError(f"{field}: '{path}' {what}") from error


def _chosen(loaded: Any, path: Path, field: str, key: str | None) -> dict[str, Tensor]:
    try:
        return choose_state(loaded, key)
    except ConfigError as error:
        raise ConfigError(f"{field}: '{path}' {error}") from error


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes that all its names have; two names never become one."""
    found = dict(state)
    if all(name == _COUNT or name.startswith(_WRAPPERS) for name in found):
        found.pop(_COUNT, None)
    while prefix := next((p for p in _WRAPPERS if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    parts = {_without_compiled(name): tensor for name, tensor in found.items()}
    return parts if len(parts) == len(found) else found


def _bare(name: str) -> str:
    """A name without any prefix of a wrapper."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return _without_compiled(name)


def _without_compiled(name: str) -> str:
    """A name without what torch.compile has put before it, or before a part of it."""
    return f".{name}".replace(f".{_COMPILED}", ".")[1:]


State = Mapping[str, Tensor]


def load_weights(model: nn.Module, state: State, path: Path, field: str) -> None:
    """Load a state of the user's; ConfigError naming `field` where it does not fit the model or is not finite.

    A tied weight may be in the file under one of its names, as safetensors and our own export have it.
    """
    own = model.state_dict()
    given = _with_tied(_named_as(under_names(state, own), own, f"{field}: '{path}'"), own)
    if left := [*_left_over("the file", given, own), *_left_over("the model", own, given)]:
        raise ConfigError(f"{field}: '{path}' does not fit the model: {'; '.join(left)}")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            shapes = f"{tuple(given[name].shape)}, the model's is {tuple(tensor.shape)}"
            raise ConfigError(f"{field}: '{path}' does not fit the model: '{name}' has shape {shapes}")
        _require_same_numbers(name, given[name], tensor, f"{field}: '{path}'")
        if not torch.isfinite(given[name].to(tensor.dtype)).all():
            raise ConfigError(f"{field}: '{path}': '{name}' holds values that are not finite")
    model.load_state_dict(given)


def _require_same_numbers(name: str, given: Tensor, own: Tensor, where: str) -> None:
    """ConfigError where loading would make other numbers of a tensor than it holds.

    Between floating types a number is rounded and no more. Integers in the place of floating numbers are taken for
    quantised ones, whose scale is elsewhere.
    """
    floats = given.is_floating_point() and own.is_floating_point()
    same = given.is_complex() == own.is_complex() and given.is_floating_point() == own.is_floating_point()
    if not same or not (floats or given.is_complex() or torch.equal(given.to(own.dtype).to(given.dtype), given)):
        kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (given, own)]
        raise ConfigError(
            f"{where}: '{name}' holds {kinds[0]} and the model {kinds[1]}, so that loading would change its values; "
            f"save it as {kinds[1]}"
        )


def _named_as(state: State, own: State, where: str) -> State:
    try:
        return fitted(state, own)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _with_tied(state: State, own: State) -> State:
    known = {memory_of(tensor): state[name] for name, tensor in own.items() if name in state}
    return {name: known[memory_of(tensor)] for name, tensor in own.items() if memory_of(tensor) in known} | dict(state)


def _left_over(where: str, names: State, others: State) -> list[str]:
    """What one side alone has: the first name and how many more."""
    left = sorted(names.keys() - others.keys())
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return [f"only {where} has '{left[0]}'{more}"] if left else []
