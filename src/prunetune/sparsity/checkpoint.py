"""Reading anybody's checkpoint as a plain state dict, without running anything that it may carry."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from prunetune.errors import RequestError
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.torch_form import fold_masks, masks_in

# Where training scripts commonly keep the weights inside a checkpoint, most specific first.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DistributedDataParallel and torch.compile put before every name


def read_state(path: str | Path, field: str = "checkpoint") -> dict[str, Tensor]:
    """Read a safetensors file or a `torch.save`d state dict (also nested in a checkpoint) onto the CPU.

    Names lose the prefixes of `DistributedDataParallel` and `torch.compile`; pairs `x_orig`, `x_mask` as
    `torch.nn.utils.prune` saves them become `x`. Raises RequestError naming `field` for a file that is missing,
    truncated, in another format, or that holds anything but tensors and plain containers.
    """
    return fold_masks(_read(Path(path), field))


def read_mask(path: str | Path, field: str = "mask") -> Mask:
    """Read a mask: a file of bool or 0/1 tensors, or a checkpoint with masks as `torch.nn.utils.prune` saves them.

    In any format that `read_state` reads, with its errors; RequestError also for other values than 0 and 1.
    """
    state = _read(Path(path), field)
    return Mask(masks_in(state) or state)


def _read(path: Path, field: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{field}: cannot read '{path}': {error.strerror}") from error
    return {_unwrapped(name): tensor for name, tensor in _parse(content, path, field).items()}


def _parse(content: bytes, path: Path, field: str) -> dict[str, Tensor]:
    if content[8:9] == b"{":  # a safetensors file is the header's length in 8 bytes, then the header, a JSON object
        try:
            return parse_safetensors(content)
        except SafetensorError as error:
            raise RequestError(f"{field}: '{path}' is a damaged safetensors file: {error}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; what cannot be read is refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            f"{field}: '{path}' holds more than plain tensors; save `model.state_dict()` or use safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise RequestError(f"{field}: '{path}' is truncated or in no known checkpoint format") from error
    return _find_state(loaded, path, field)


def _find_state(loaded: Any, path: Path, field: str) -> dict[str, Tensor]:
    candidates = [loaded[name] for name in _NESTED if name in loaded] if isinstance(loaded, Mapping) else []
    for candidate in [*candidates, loaded]:  # a checkpoint may hold stray tensors beside the nested state dict
        if isinstance(candidate, Mapping):
            tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
    holds = ", ".join(map(str, list(loaded)[:6])) if isinstance(loaded, Mapping) else type(loaded).__name__
    raise RequestError(f"{field}: '{path}' holds no state dict (it holds: {holds or 'nothing'})")


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name
