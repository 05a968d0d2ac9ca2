"""2:4 sparse linear layers by torch core's kernels, on a GPU that has them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.sparse import to_sparse_semi_structured

from prunetune.deploy.export import settled
from prunetune.errors import ConfigError

CAPABILITY = (8, 0)  # Ampere, the first with sparse tensor cores
TYPES = (torch.float16, torch.bfloat16)
MULTIPLES = (32, 64)  # of a weight's (outputs, inputs), with which both of torch's backends are content


@dataclass(frozen=True)
class SemiStructured:
    """A model on the GPU, for use and not for training; `left`: name of a layer -> why it is as it was."""

    model: nn.Module
    converted: tuple[str, ...]
    left: Mapping[str, str]


def to_semi_structured(model: nn.Module, mask: Mapping[str, Tensor] | None = None) -> SemiStructured:
    """A copy of `model`, pruned by `mask` (None: as it is held, or as it is), whose 2:4 linear layers run as such.

    The copy is on the GPU and in eval mode; `model` is not changed. Prune with the pattern `2:4` and convert the model
    to a half type first. ConfigError where the machine has no GPU of compute capability 8.0 or more.
    """
    _require_gpu()
    copy = settled(model, mask).cuda()
    reasons = survey_layers(copy)
    converted = tuple(name for name, reason in reasons.items() if reason is None)
    for name in converted:
        layer = copy.get_submodule(name)
        layer.weight = nn.Parameter(_compressed(layer.get_parameter("weight")), requires_grad=False)
    return SemiStructured(copy, converted, {name: reason for name, reason in reasons.items() if reason is not None})


def survey_layers(model: nn.Module) -> dict[str, str | None]:
    """Every module that owns a parameter of two or more dimensions: why it cannot run as 2:4, or None where it can.

    That takes an `nn.Linear` with at most two values that are not zero in every four neighbouring inputs of an output,
    in a half type, whose shape (outputs, inputs) are multiples of 32 and 64.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return {
        name: _reason(name, module, owners)
        for name, module in model.named_modules()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    }


def _reason(name: str, module: nn.Module, owners: Mapping[int, list[str]]) -> str | None:
    if type(module) is not nn.Linear:  # what is derived from it may read the weight in another way
        kind = "convolution" if isinstance(module, _ConvNd) else type(module).__name__
        return f"{kind}: torch has 2:4 kernels for linear layers only"
    weight = module.weight
    if tied := [owner for owner in owners[id(weight)] if owner.rpartition(".")[0] != name]:
        return f"tied to '{tied[0]}'"
    if weight.dtype not in TYPES:
        return f"{str(weight.dtype).removeprefix('torch.')}: the kernels take float16 and bfloat16; convert the model"
    if any(size % multiple for size, multiple in zip(weight.shape, MULTIPLES, strict=True)):
        return f"shape {tuple(weight.shape)}: the kernels take multiples of {MULTIPLES}"
    groups = weight.detach().reshape(-1, 4).count_nonzero(dim=1)
    if full := int((groups > 2).sum()):
        return f"not 2:4: {full} of {len(groups)} groups of four keep more than two weights"
    return None


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise ConfigError("device: 2:4 kernels need a CUDA GPU of compute capability 8.0 or more; here is none")
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        name, has = torch.cuda.get_device_name(), ".".join(map(str, capability))
        raise ConfigError(f"device: 2:4 kernels need a GPU of compute capability 8.0 or more; {name} has {has}")


def _compressed(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # That its interface may change: said once a process, and ours to follow.
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        return to_sparse_semi_structured(weight.detach().contiguous())
