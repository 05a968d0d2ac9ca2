"""A forward pass of anybody's model: how it is called, in which mode, with which random numbers, what it gives."""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from prunetune.errors import ConfigError

ExampleInputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""What a model is called with: a tensor, several, or a mapping of arguments' names to them.

The batch is the first dimension of the first, unless a function says otherwise.
"""


def called_with(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the named arguments that example inputs stand for."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}


def call(model: nn.Module, inputs: ExampleInputs) -> Any:
    """What the model gives for a tensor, for several as its arguments, or for a mapping as its named ones."""
    args, named = called_with(inputs)
    return model(*args, **named)


class Arguments(NamedTuple):
    """The arguments of a call, and the first of them."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    first: Tensor

    def given_to(self, model: nn.Module) -> Any:
        """What the model gives for them."""
        return model(*self.args, **self.named)


def arguments(inputs: ExampleInputs, field: str) -> Arguments:
    """`inputs` as the arguments of a call; ConfigError naming `field` unless the first is a tensor with a batch."""
    args, named = called_with(inputs)
    first = next(iter((*args, *named.values())), None)
    if not isinstance(first, Tensor) or not first.dim() or not len(first):
        what = "must be a tensor, or a tuple or a dict of tensors, whose first dimension is the batch"
        raise ConfigError(f"{field}: {what}")
    return Arguments(args, named, first)


@contextmanager
def evaluating(*models: nn.Module) -> Generator[None, None, None]:
    """Models in evaluation mode; afterwards every module is in its own mode again, frozen batch norms too."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def equal_draws() -> Generator[None, None, None]:
    """Torch's generators begin at the same point each time; afterwards they are as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


def tensors_in(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of outputs in tuples, lists, mappings and dataclasses; what is none is passed over."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        return tensors_in(list(cast(Mapping[Any, Any], outputs).values()))
    if is_dataclass(outputs):
        return tensors_in([getattr(outputs, field.name) for field in fields(outputs)])
    parts = cast(Sequence[Any], outputs) if isinstance(outputs, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]
