"""Holding zeros: pruned weights stay exactly zero in anybody's training loop, whatever optimizer it uses.

The mask lives on the modules that own the weights, as a plain attribute and not as a buffer: averages of models with
`use_buffers`, which walk over the buffers of two models side by side, and DDP, which broadcasts buffers in every
forward pass, must not see it. It is copied and pickled with its module, and finds the copied parameters at once.

Zeros are restored (1) after every step of every `torch.optim.Optimizer` in the process, by parameter, so that it does
not matter who made the optimizer and when; (2) before every forward pass of the held model, which also finds
parameters that were replaced; (3) before a state dict is taken and after one is loaded.

On request, gradients are masked too, by a hook on the parameter that runs before a gradient is added to `.grad`.
"""

# Hooks are looked up where torch keeps them, in attributes that are not public; some methods have no types.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_module, wrong_type
from prunetune.sparsity.mask import Mask, as_mask, require_tensor

_HELD = "_prunetune_held"  # on a module that owns held weights: leaf name -> _HeldWeight
_OWNERS = "_prunetune_owners"  # on the module that `apply_mask` was called with: all modules that own held weights
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per weight


def apply_mask(
    model: nn.Module,
    mask: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    *,
    gradients: bool = False,
) -> None:
    """Set the pruned weights of `model` to zero and keep them there, exactly, in any training, until `remove_mask`.

    A tied weight is held once, under its first name. A second call replaces the first. State-dict keys stay as they
    were; the mask goes along with `deepcopy`, pickling and `.to()`, and any optimizer made later obeys it.

    Kept weights are not touched: they move as in a loop that multiplies by the mask before every forward pass and after
    every step.

    Args:
        model: The module that is trained; changed in place.
        mask: Parameter name to bool tensor of the parameter's shape, True = kept: a `Mask` or a plain dict.
        optimizer: Its state that has the shape of a held weight (momentum, Adam's moments) is zeroed at the pruned
            positions too.
        gradients: Whether gradients are set to zero there, in every backward pass and in `.grad` as it is now: the
            network then trains as one that does not have these weights. Without it gradients are left alone, so that
            what is computed from whole gradients (clipping by norm, SAM, Adafactor's and LARS's statistics) counts the
            pruned positions.

    Raises:
        ConfigError: And nothing is changed, for names or shapes that the model does not have, for tied names that
            disagree, and for weights whose memory cannot be zeroed one by one (complex128, sparse, expanded); and from
            the next forward pass or state dict on, where something has taken a held weight's place (a parametrization,
            weight norm).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> apply_mask(model, {"weight": torch.tensor([[True, False]])})
    >>> model.weight[0, 1].item(), get_mask(model).sparsity
    (0.0, 0.5)
    """
    require_module(model)
    if optimizer is not None and not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "state")):
        raise wrong_type("optimizer", optimizer, "a torch.optim.Optimizer, or None")
    kept = by_first_name(model, as_mask(mask))
    parameters = dict(model.named_parameters())
    for name in kept:
        _require_holdable(name, parameters[name])
    remove_mask(model)
    held: dict[nn.Module, dict[str, _HeldWeight]] = {}
    for name, tensor in kept.items():
        prefix, _, leaf = name.rpartition(".")
        held.setdefault(model.get_submodule(prefix), {})[leaf] = _HeldWeight(parameters[name], ~tensor, gradients)
    for owner, weights in held.items():
        _attach(owner, weights)
    _watch_model(model, list(held))
    if optimizer is not None:
        _clean(optimizer)


def remove_mask(model: nn.Module) -> None:
    """Let go of every weight that is held in `model`; the zeros stay where they are until something moves them.

    Args:
        model: The module that `apply_mask` was called with, or any other: nothing happens where nothing is held.

    Raises:
        ConfigError: For what is no module.
    """
    require_module(model)
    for module in model.modules():
        for weight in module.__dict__.pop(_HELD, {}).values():
            weight.leave_gradients()
        module.__dict__.pop(_OWNERS, None)
        for kind in ("_forward_pre_hooks", "_state_dict_pre_hooks", "_load_state_dict_post_hooks"):
            hooks: dict[int, Any] = getattr(module, kind)
            for key in [key for key, hook in hooks.items() if hook in _HOOKS]:
                del hooks[key]


def get_mask(model: nn.Module) -> Mask:
    """The mask that is in force in `model`, by `apply_mask`.

    Args:
        model: A module in which weights are held, or one that contains such a module.

    Returns:
        A bool tensor for every held parameter, under the name that it has in `model`.

    Raises:
        ConfigError: Where nothing is held.
    """
    require_module(model)
    modules = cast(Iterable[tuple[str, nn.Module]], model.named_modules())
    found = {
        f"{prefix}.{leaf}" if prefix else leaf: ~weight.pruned
        for prefix, module in modules
        for leaf, weight in _held_in(module).items()
    }
    if not found:
        raise ConfigError("model: no weight is held in it; call apply_mask(model, mask) first")
    return Mask(found)


def is_held(model: nn.Module) -> bool:
    """Whether any weight of `model` is held."""
    require_module(model)
    return any(_held_in(module) for module in model.modules())


def masks_gradients(model: nn.Module) -> bool:
    """Whether the gradients of any weight of `model` are masked: it is held with `gradients=True`."""
    return any(weight.gradients for module in model.modules() for weight in _held_in(module).values())


def _require_holdable(name: str, parameter: Tensor) -> None:
    """ConfigError where a weight's numbers cannot be set to zero in place, each for itself."""
    strided = parameter.layout is torch.strided
    if not strided or parameter.is_quantized or parameter.element_size() not in _INTEGERS:
        kind = f"{str(parameter.layout).removeprefix('torch.')} {str(parameter.dtype).removeprefix('torch.')}"
        raise ConfigError(f"model: '{name}' is {kind}; only dense weights of at most 8 bytes a number can be held")
    if any(step == 0 and size > 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)):
        raise ConfigError(f"model: '{name}' is an expanded tensor, one number in many places; hold a contiguous copy")


def by_first_name(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """The mask with every tied name replaced by the weight's first one; ConfigError as `apply_mask` says."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(parameters.items())}
    kept: dict[str, Tensor] = {}
    for name, tensor in mask.items():
        require_tensor(name, tensor, parameters)
        known = kept.setdefault(first[id(parameters[name])], tensor)
        if not torch.equal(known, tensor):
            raise ConfigError(f"mask: '{name}' is tied to '{first[id(parameters[name])]}' but keeps other weights")
    return kept


class _HeldWeight:
    """A parameter and its pruned positions, a bool tensor.

    Knowing the parameter itself makes a copy or a pickle of the module arrive with the copied parameter, registered
    there and then, before any forward pass.
    """

    def __init__(self, parameter: nn.Parameter, pruned: Tensor, gradients: bool = False) -> None:
        self.parameter = parameter
        self.pruned = pruned
        self.gradients = gradients
        self._form: tuple[object, ...] = ()  # type, device, shape and memory order of what was zeroed last
        self._kept = pruned  # all ones where a weight is kept, in that form
        self._hook = _watch_gradients(self) if gradients else None
        _BY_PARAMETER[id(parameter)] = self
        _watch_optimizers()

    def __reduce__(self) -> tuple[Any, ...]:
        return _HeldWeight, (self.parameter, self.pruned, self.gradients)

    def leave_gradients(self) -> None:
        """Mask no gradient from now on."""
        if self._hook is not None:
            self._hook.remove()

    def zero(self, tensor: Tensor) -> None:
        """Zero `tensor`, of the parameter's shape, at the pruned positions, in place and without a wait for the device.

        Through `.data`, so that a graph that keeps the weight for its backward pass stays valid. On the bits and not
        by a product: NaN * 0 is NaN. On a CPU `masked_fill_` does the same many times slower.
        """
        if tensor.is_meta:
            return
        bits = tensor.data.view(_INTEGERS[tensor.element_size()])
        form = bits.dtype, bits.device, bits.shape, bits.stride()
        if form != self._form:
            self._require_shape(bits)
            self._form, self._kept = form, torch.empty_like(bits).copy_(self.pruned).sub_(1)
        bits.bitwise_and_(self._kept)

    def masked(self, gradient: Tensor) -> Tensor:
        """A copy of a gradient, dense or sparse (of an embedding), that is zero at the pruned positions.

        Where a further derivative may be taken of it, by an operation that has one.
        """
        if gradient.is_sparse:
            copy = gradient.coalesce().clone()
            copy._values().masked_fill_(self.pruned.to(copy.device)[copy._indices().unbind()], 0)
            return copy
        if gradient.requires_grad:
            return gradient.masked_fill(self.pruned.to(gradient.device), 0)
        copy = gradient.clone()
        self.zero(copy)
        return copy

    def _require_shape(self, tensor: Tensor) -> None:
        if tensor.shape != self.pruned.shape:
            shapes = f"{tuple(self.pruned.shape)} has become {tuple(tensor.shape)}"
            raise ConfigError(f"model: a weight that is held as {shapes}; call apply_mask with a new mask")


# By id of the parameter, which its _HeldWeight keeps alive; an entry goes when the module lets go of the latter. Weak
# references to the parameters themselves would forbid torch.utils.swap_tensors, with which modules may convert.
_BY_PARAMETER: weakref.WeakValueDictionary[int, _HeldWeight] = weakref.WeakValueDictionary()


def _watch_gradients(weight: _HeldWeight) -> RemovableHandle:
    """Mask every gradient of the parameter for as long as `weight` lives, and the one that it has now.

    Before it is accumulated, so that DDP averages, scalers unscale and optimizers in the backward pass see it masked.
    A frozen parameter takes a hook as well: it may be thawed.
    """
    parameter, known = weight.parameter, weakref.ref(weight)
    if parameter.grad is not None:
        parameter.grad = weight.masked(parameter.grad)
    frozen = not parameter.requires_grad

    def mask_gradient(gradient: Tensor) -> Tensor | None:
        held = known()
        return held.masked(gradient) if held is not None else None

    hook = cast(RemovableHandle, parameter.requires_grad_().register_hook(mask_gradient))
    parameter.requires_grad_(not frozen)
    return hook


@cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for weight in _held_by(optimizer):
        weight.zero(weight.parameter)


def _held_by(optimizer: torch.optim.Optimizer) -> Iterator[_HeldWeight]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            weight = _BY_PARAMETER.get(id(parameter))
            if weight is not None:
                yield weight


def _clean(optimizer: torch.optim.Optimizer) -> None:
    for weight in _held_by(optimizer):
        for value in optimizer.state.get(weight.parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.parameter.shape:
                weight.zero(value)


def _attach(owner: nn.Module, weights: dict[str, _HeldWeight]) -> None:
    owner.__dict__[_HELD] = weights
    _zero_owner(owner)
    owner.register_forward_pre_hook(_before_owner_forward)
    owner.register_state_dict_pre_hook(_zero_owner)
    owner.register_load_state_dict_post_hook(_zero_owner)


def _watch_model(model: nn.Module, owners: list[nn.Module]) -> None:
    # Weights may be used without their module's forward pass (nn.MultiheadAttention reads out_proj.weight), and
    # may be written through `.data`, which nothing records: so the whole model is zeroed where its forward begins.
    model.__dict__[_OWNERS] = owners
    model.register_forward_pre_hook(_before_model_forward)


def _before_model_forward(model: nn.Module, args: Any) -> None:
    if not _is_recorded():
        for owner in model.__dict__.get(_OWNERS, ()):
            _zero_owner(owner)


def _before_owner_forward(owner: nn.Module, args: Any) -> None:
    if not _is_recorded():
        _zero_owner(owner, only_new=True)


def _is_recorded() -> bool:
    """Whether the forward pass is being turned into a graph, of which the zeroing must not become a part."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _zero_owner(owner: nn.Module, *_: Any, only_new: bool = False) -> None:
    """Zero the held weights of a module, or only those whose parameter was replaced since the last time."""
    held = _held_in(owner)
    for leaf, weight in held.items():
        _require_in_place(owner, leaf, weight)
        parameter = owner._parameters.get(leaf)
        new = parameter is not weight.parameter
        # A plain tensor in the place of the parameter belongs to somebody else (functional_call, replicas).
        if not isinstance(parameter, nn.Parameter) or (only_new and not new):
            continue
        if new:
            held[leaf] = _HeldWeight(parameter, weight.pruned, weight.gradients)
        held[leaf].zero(parameter)


def _require_in_place(owner: nn.Module, leaf: str, weight: _HeldWeight) -> None:
    """ConfigError where the weight is computed from other parameters since, so that its zeros are theirs to lose.

    `torch.nn.utils.prune` and the older spectral norm only scale the held parameter, under the name `x_orig`; replicas
    of `DataParallel` have plain tensors in the place of their parameters.
    """
    scaled = owner._parameters.get(f"{leaf}_orig") is weight.parameter
    if leaf not in owner._parameters and not scaled and not hasattr(owner, "_is_replica"):
        raise ConfigError(
            f"model: '{leaf}' of a layer {type(owner).__name__} is held but no parameter of it any more (a "
            "parametrization, weight norm or a sharding wrapper has taken its place); call remove_mask first"
        )


def _held_in(module: nn.Module) -> dict[str, _HeldWeight]:
    return module.__dict__.get(_HELD, {})


_HOOKS = (_before_model_forward, _before_owner_forward, _zero_owner)
