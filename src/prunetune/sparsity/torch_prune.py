"""The form of `torch.nn.utils.prune`: a pruned weight `x` is a parameter `x_orig` times a buffer `x_mask`."""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_module, require_type
from prunetune.sparsity.enforce import remove_mask
from prunetune.sparsity.mask import Mask, as_mask, require_tensor


def from_torch_prune(source: nn.Module | Mapping[str, Tensor]) -> Mask:
    """The mask of a model, or state dict, in that form, under the names without suffix; nothing is changed.

    After `prune.remove` there is no mask left to read, only zeros. ConfigError where no pair `x_orig`, `x_mask` is.
    """
    masks = masks_in(source)
    if not masks:
        raise ConfigError("model: no weight is in the form of torch.nn.utils.prune, a pair x_orig, x_mask")
    return Mask(masks)


def to_torch_prune(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Put the weights that `mask` names into that form, in place, by torch's own `custom_from_mask`.

    A model that is held is released: torch's hooks mask from now on. An optimizer made before keeps working,
    for the parameter is the same one under its new name `x_orig`.

    ConfigError, before anything is changed, for names and shapes that the model does not have, and for a tied
    weight: torch would mask it under one of its names only.
    """
    require_module(model)
    kept = as_mask(mask)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in kept.items():
        require_tensor(name, tensor, parameters)
        if tied := [other for other, p in parameters.items() if other != name and p is parameters[name]]:
            raise ConfigError(f"mask: '{name}' is tied to '{tied[0]}', and torch.nn.utils.prune would mask only one")
    remove_mask(model)
    for name, tensor in kept.items():
        owner, _, leaf = name.rpartition(".")
        torch_prune.custom_from_mask(model.get_submodule(owner), leaf, tensor.to(parameters[name].device))


def fold_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict out of that form: every pair `x_orig`, `x_mask` becomes the effective tensor `x`, zero where masked.

    Other tensors are left alone, and those of a state dict in no such form are all others. ConfigError for a pair of
    two shapes.
    """
    require_type("state", state, Mapping, "a state dict")
    folded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        base = _base(name, state)
        if base is not None:
            folded[base] = tensor.masked_fill(_mask_of(base, state) == 0, 0)
        elif not (name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in state):
            folded[name] = tensor
    return folded


def split_masks(state: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict into that form, for a model that has been through `to_torch_prune` with the same mask.

    `x_mask` has the type of the weight, as torch's own has. ConfigError for names and shapes that `state` does
    not have.
    """
    require_type("state", state, Mapping, "a state dict")
    split = dict(state)
    for name, tensor in as_mask(mask).items():
        require_tensor(name, tensor, state)
        weight = split.pop(name)
        split[f"{name}_orig"] = weight
        split[f"{name}_mask"] = tensor.to(weight)
    return split


def masks_in(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `x_mask` of every pair in a model or state dict, under the name `x`; empty where there is none."""
    require_type("model", source, (nn.Module, Mapping), "a torch.nn.Module or a state dict")
    state = _tensors(source) if isinstance(source, nn.Module) else source
    return {base: state[f"{base}_mask"] for name in state if (base := _base(name, state)) is not None}


def effective_weights(model: nn.Module, remove_duplicate: bool = True) -> dict[str, Tensor]:
    """Every parameter of `model`, pairs as the effective tensor; a tied one once unless `remove_duplicate` is False."""
    buffers = dict(model.named_buffers())
    folded = fold_masks(_tensors(model, remove_duplicate))
    return {name: tensor for name, tensor in folded.items() if name not in buffers}


def _tensors(model: nn.Module, remove_duplicate: bool = True) -> dict[str, Tensor]:
    # Not the state dict: taking it would zero what `apply_mask` holds, and hide that it had come back to life.
    parameters = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=remove_duplicate)}
    return parameters | dict(model.named_buffers())


def _mask_of(base: str, state: Mapping[str, Tensor]) -> Tensor:
    mask, weight = state[f"{base}_mask"], state[f"{base}_orig"]
    if mask.shape != weight.shape:
        shapes = f"{tuple(mask.shape)}, '{base}_orig' {tuple(weight.shape)}"
        raise ConfigError(f"state: '{base}_mask' has shape {shapes}; of torch.nn.utils.prune they are equal")
    return mask


def _base(name: str, state: Mapping[str, Tensor]) -> str | None:
    """`x` for the name `x_orig` of a pair."""
    base = name.removesuffix("_orig")
    return base if base != name and f"{base}_mask" in state else None
