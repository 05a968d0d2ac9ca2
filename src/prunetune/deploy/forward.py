"""Running anybody's model once more without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from prunetune.errors import RequestError

Inputs = Tensor | tuple[Tensor, ...]
"""What a model is called with: one tensor or several, the batch in the first dimension of the first."""


def arguments(inputs: Inputs, field: str) -> tuple[Tensor, ...]:
    """`inputs` as the arguments of a call; RequestError naming `field` unless the first is a tensor with a batch."""
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not given or not isinstance(given[0], Tensor) or not given[0].dim() or not len(given[0]):
        raise RequestError(f"{field}: must be a tensor, or a tuple of tensors, whose first dimension is the batch")
    return given


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
