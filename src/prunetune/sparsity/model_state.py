"""The state of anybody's model: copied, checked, and told apart by its bytes and by its memory."""

import hashlib
from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_module

FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps a tensor with a history, which torch refuses to copy.

    Such are an activation that a `forward` puts on the module (Grad-CAM, attention maps) and the weight that weight
    norm, spectral norm and `torch.nn.utils.prune` compute; in the copy they have their values and no history.
    ConfigError for a module that cannot be copied for another reason.
    """
    require_module(model)
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


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors in sorted order of their names, 64 hexadecimal digits.

    Each tensor enters as the UTF-8 line `name|dtype|shape` (`conv.weight|float32|16,1,5,5`), ended by a line feed, then
    its elements' bytes in row-major order. Device, strides and aliasing do not matter.

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> digest_tensors({"a": a, "b": b}) == digest_tensors({"b": b, "a": a})
    True
    >>> digest_tensors({"a": torch.zeros(2)}) == digest_tensors({"a": -torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{shape}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def memory_of(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same elements of the same memory; an empty tensor is only itself."""
    where = tensor.data_ptr() if tensor.numel() else id(tensor)
    return where, tensor.device, tensor.dtype, tensor.shape, tensor.stride()
