"""Shrinking: the channels that a mask prunes are taken out of the network, and what that saves."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.deploy.sizes import count
from prunetune.errors import ConfigError
from prunetune.sparsity.channel_blocks import take_out
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups, read_groups, walk
from prunetune.sparsity.channel_trace import trace
from prunetune.sparsity.enforce import remove_mask
from prunetune.sparsity.forward_pass import ExampleInputs, called_with, equal_draws, tensors_in
from prunetune.sparsity.mask import Mask, as_mask, require_tensor
from prunetune.sparsity.model_state import copied
from prunetune.sparsity.patterns import without
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope

TOLERANCE = 1000  # rounding errors of the outputs' type, times their largest magnitude: sums come in another order


def shrink(model: nn.Module, mask: Mapping[str, Tensor], example_inputs: ExampleInputs) -> nn.Module:
    """A copy of `model` without the channels that `mask`, of the pattern `channel`, prunes. `model` is not touched.

    Torch-Pruning takes them out, group by group; attention heads go as `channel_blocks` knows them. Every parameter
    that is left is then exactly the kept part of the masked one, and the outputs for `example_inputs`, in evaluation
    mode and at least in single precision, are compared with those of the masked model: no element may differ by more
    than 1000 rounding errors (1.2e-4 in single precision) of the largest. The copy has the modes and the device of
    `model`, and holds no mask.

    ConfigError for a mask that prunes anything but whole channels with all that belongs to them (the first parameter
    that does not fit is named), where the outputs differ (with the layers whose channels are to blame), and without
    the extra `channels`.
    """
    kept = as_mask(mask)
    try:
        return _shrunk(model, kept, example_inputs)
    except CannotShrinkError as error:
        blamed = ", ".join(f"'{layer}.*'" for layer in _blamed(model, kept, example_inputs))
        raise ConfigError(f"{error}; leave whole with scope.exclude: {blamed}" if blamed else str(error)) from error


class CannotShrinkError(ConfigError):
    """The network without some channels is not the same function."""


def _blamed(model: nn.Module, mask: Mask, example_inputs: ExampleInputs) -> Iterator[str]:
    """The layers without whose channels, and no others, the network is not the same function."""
    copy = copied(model)
    groups = read_groups(trace(copy, example_inputs), copy)
    removed = [_removed(group, mask) for group in groups]
    shapes = {name: tuple(tensor.shape) for name, tensor in mask.items()}
    for group, gone in zip(groups, removed, strict=True):
        if gone.any():
            only = without(groups, [other & (other is gone) for other in removed], shapes)
            try:
                _shrunk(model, only, example_inputs)
            except CannotShrinkError:
                yield group.layer


def _shrunk(model: nn.Module, kept: Mask, example_inputs: ExampleInputs) -> nn.Module:
    masked = _masked(model, kept)
    small = deepcopy(masked)
    graph = trace(small, example_inputs)
    groups = read_groups(graph, small)
    removed = [_removed(group, kept) for group in groups]
    _require_channels(kept, groups, removed)
    _take_out(graph, small, groups, removed)
    _require_kept_values(masked, small, kept)
    _require_equal_outputs(masked, small, example_inputs)
    return _as_before(small, model)


def _masked(model: nn.Module, mask: Mask) -> nn.Module:
    """A copy with zeros in place, in which no weight is held."""
    copy = copied(model)
    remove_mask(copy)
    parameters = dict(copy.named_parameters(remove_duplicate=False))
    for name, kept in mask.items():
        require_tensor(name, kept, parameters)
        parameters[name].data.masked_fill_(~kept.to(parameters[name].device), 0)
    return copy


def _removed(group: ChannelGroup, mask: Mask) -> Tensor:
    """The channels of a group whose own filters the mask prunes whole, (channels,) of bool."""
    gone = torch.zeros(group.channels, dtype=torch.bool)
    if group.pieces and group.pieces[0].parameter in mask:
        own = group.pieces[0]
        kept = mask[own.parameter].movedim(own.dim, 0).reshape(own.shape[own.dim], -1).any(1)
        gone[own.channels] = ~kept[own.places]
    return gone


def _require_channels(mask: Mask, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]) -> None:
    """ConfigError unless the mask prunes exactly what belongs to the removed channels."""
    for group, gone in zip(groups, removed, strict=True):
        if gone.all():
            raise ConfigError(f"mask: it prunes all channels of '{group.layer}'; at least one must stay")
    shapes = {name: tuple(tensor.shape) for name, tensor in mask.items()}
    expected = without(groups, removed, shapes)
    for name, tensor in expected.items():
        if not torch.equal(mask.get(name, torch.ones_like(tensor)), tensor):
            what = "does not prune whole channels with all that belongs to them"
            layer = name.rpartition(".")[0]
            why = next((f" ('{layer}' stays whole: {g.whole})" for g in groups if g.whole and g.layer == layer), "")
            raise ConfigError(f"mask: at '{name}' it {what}{why}; choose it with pattern 'channel'")


def _take_out(graph: Any, model: nn.Module, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]) -> None:
    """Prune all groups in place. Each layer is cut once, so that one group does not move the numbers of another."""
    cuts: dict[Any, tuple[Any, set[int]]] = {}
    for group, gone in zip(groups, removed, strict=True):
        if group.block is not None:
            continue
        layer = model.get_submodule(group.layer)
        outputs = torch.tensor(group.outputs)[gone].tolist()
        for edge, places, _ in walk(graph, layer, outputs).met if outputs else ():
            cuts.setdefault((edge.target.module, edge.handler), (edge, set()))[1].update(places)
    for dependency, places in cuts.values():
        dependency(sorted(places))
    for group, gone in zip(groups, removed, strict=True):
        if group.block is not None and gone.any():
            take_out(model, group.block, gone)


def _require_kept_values(masked: nn.Module, small: nn.Module, mask: Mask) -> None:
    """ConfigError unless every parameter of `small` is what the mask keeps of the masked one, bit for bit."""
    left = dict(small.named_parameters())
    for name, parameter in masked.named_parameters():
        expected = _kept_part(parameter.detach(), mask[name]) if name in mask else parameter.detach()
        if not torch.equal(left[name].detach(), expected):
            shapes = f"{tuple(left[name].shape)}, not the {tuple(expected.shape)} that the mask keeps"
            raise ConfigError(f"model: '{name}' came out as {shapes}; leave its layer whole with scope.exclude")


def _kept_part(parameter: Tensor, kept: Tensor) -> Tensor:
    """A parameter without the positions, along each dimension, at which the mask keeps nothing."""
    for dim in range(kept.dim()):
        places = kept.movedim(dim, 0).reshape(kept.shape[dim], -1).any(1).nonzero().flatten()
        parameter = parameter.index_select(dim, places.to(parameter.device))
    return parameter


def _require_equal_outputs(masked: nn.Module, small: nn.Module, example_inputs: ExampleInputs) -> None:
    wanted = _outputs(masked, example_inputs)
    try:
        found = _outputs(small, example_inputs)
    except Exception as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotShrinkError(
            f"model: it has channel numbers written into its code, and cannot shrink: {what[0]}"
        ) from error
    for a, b in zip(wanted, found, strict=True):
        apart = float((a - b).abs().max()) if a.shape == b.shape else math.inf
        if not apart <= TOLERANCE * torch.finfo(a.dtype).eps * float(a.abs().max()):
            raise CannotShrinkError(f"model: its outputs change by {apart:.3g} when the channels go; it cannot shrink")


def _outputs(model: nn.Module, example_inputs: ExampleInputs) -> list[Tensor]:
    """The outputs in evaluation mode, of a network in half precision those of its copy in single precision."""
    args, named = called_with(example_inputs)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model = deepcopy(model).float()
        args, named = tuple(map(_single, args)), {name: _single(x) for name, x in named.items()}
    model.eval()
    with torch.no_grad(), equal_draws():
        return tensors_in(model(*args, **named))


def _single(x: Any) -> Any:
    """A floating-point tensor in single precision; anything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


def _as_before(small: nn.Module, model: nn.Module) -> nn.Module:
    """The copy with the modes of `model`, and gradients for what has them there."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name, module in small.named_modules():
        module.training = modules[name].training
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(parameters[name].requires_grad)
    return small


_LITTLE = 0.1  # a share of the multiply-accumulates below which the reasons are told


_SHOWN = 3


@dataclass(frozen=True)
class Savings:
    """MACs of one example as the network is, and without the channels that go at `sparsity`.

    `whole` has the layers whose channels all stay, and why.
    """

    sparsity: float
    macs: int
    macs_left: int
    whole: Mapping[str, str]

    @property
    def share(self) -> float:
        """The share of the MACs that goes."""
        return 1 - self.macs_left / self.macs if self.macs else 0.0

    def __str__(self) -> str:
        line = f"Channels: at sparsity {self.sparsity:g}, {self.share:.1%} of the multiply-accumulates can go"
        if self.share >= _LITTLE or not self.whole:
            return line
        reasons = [f"'{layer}': {why}" for layer, why in self.whole.items()]
        more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
        return f"{line}; whole stay {'; '.join([*reasons[:_SHOWN], *more])}"


def channel_savings(
    model: nn.Module,
    sparsity: float,
    example_inputs: ExampleInputs,
    scope: Scope = Scope(),  # noqa: B008 - frozen
    round_to: int | None = None,
) -> Savings:
    """What shrinking saves when channels are chosen by magnitude; another choice takes as many of each group.

    The surgery is really done, on copies, and outputs are compared. ConfigError as `compute_mask` and `shrink` say.
    """
    mask = compute_mask(
        model, sparsity, pattern="channel", scope=scope, example_inputs=example_inputs, round_to=round_to
    )
    small = shrink(model, mask, example_inputs)
    whole = {group.layer: group.whole for group in channel_groups(model, example_inputs, scope) if group.whole}
    return Savings(sparsity, count(model, example_inputs).macs, count(small, example_inputs).macs, whole)
