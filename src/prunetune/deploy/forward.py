"""Running anybody's model once more without leaving a trace in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.sparsity.channel_trace import ExampleInputs, called_with

Inputs = ExampleInputs
"""What a model is called with: a tensor, several, or a dict by name; the batch is the first dimension of the first."""


class Arguments(NamedTuple):
    """The arguments of a call, and the first of them."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    first: Tensor

    def given_to(self, model: nn.Module) -> Any:
        """What the model gives for them."""
        return model(*self.args, **self.named)


def arguments(inputs: Inputs, field: str) -> Arguments:
    """`inputs` as the arguments of a call; ConfigError naming `field` unless the first is a tensor with a batch."""
    args, named = called_with(inputs)
    first = next(iter((*args, *named.values())), None)
    if not isinstance(first, Tensor) or not first.dim() or not len(first):
        what = "must be a tensor, or a tuple or a dict of tensors, whose first dimension is the batch"
        raise ConfigError(f"{field}: {what}")
    return Arguments(args, named, first)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode; afterwards every module is in its own mode again, frozen batch norms too."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
