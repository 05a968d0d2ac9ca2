"""Weights of a checkpoint, taken into a model that they fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.sparsity.checkpoint import under_names
from prunetune.sparsity.checkpoint_forms import fitted
from prunetune.sparsity.mask import memory_of

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
