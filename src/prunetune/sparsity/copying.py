"""Copies of anybody's model, and what a model must hold to be copied, pruned or written."""

from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from prunetune.errors import ConfigError

FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps a tensor with a history, which torch refuses to copy.

    Such are an activation that a `forward` puts on the module (Grad-CAM, attention maps) and the weight that weight
    norm, spectral norm and `torch.nn.utils.prune` compute; in the copy they have their values and no history.
    ConfigError for a module that cannot be copied for another reason.
    """
    known = {id(tensor): tensor.detach().clone() for tensor in _with_history(model)}
    try:
        return deepcopy(model, known)
    except Exception as error:  # a lock, an open file, a generator: whatever somebody keeps on a module
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"model: cannot be copied: {what}; keep on it what copy.deepcopy can copy") from error


def _with_history(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for value in tree_leaves(dict(vars(module))):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def require_values(tensors: Mapping[str, Tensor], field: str = "model") -> None:
    """ConfigError naming the first tensor that has no numbers: of a lazy module, or on the device meta."""
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise ConfigError(f"{field}: '{name}' has no shape yet; run one batch through the model first")
        if tensor.device.type == "meta":
            raise ConfigError(f"{field}: '{name}' is on the device meta and has no numbers; load its weights first")


def require_ranks(tensors: Mapping[str, Tensor], field: str = "model") -> None:
    """ConfigError naming the first tensor that has no numbers, or such as torch does not rank."""
    require_values(tensors, field)
    for name, tensor in tensors.items():
        if tensor.dtype in FLOAT8 or tensor.is_quantized:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"{field}: '{name}' is quantised ({kind}); prune the model before it is quantised")
