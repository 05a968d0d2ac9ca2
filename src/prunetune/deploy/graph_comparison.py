"""A written graph beside the model it was made from: both run on the same batches, of two sizes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_type
from prunetune.sparsity.forward_pass import ExampleInputs

Run = Callable[["Batch"], list[Tensor]]
"""What runs a graph: gives all tensors of its outputs."""


class Batch(NamedTuple):
    """What a model is called with: tensors on the CPU whose dimension `dim`, equal in all, is the batch."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    dim: int = 0

    @classmethod
    def of(cls, inputs: ExampleInputs | None, dim: int = 0) -> "Batch":
        """ConfigError for anything but a tensor, a tuple or a dict of tensors of one batch size."""
        if inputs is None:
            raise ConfigError("example_inputs: a graph needs a batch of them: a tensor, a tuple or a dict of tensors")
        require_type("example_inputs", inputs, (Tensor, Sequence, Mapping), "a tensor, a tuple or a dict of tensors")
        args = (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else tuple(inputs)
        batch = cls(args, dict(inputs) if isinstance(inputs, Mapping) else {}, dim)
        sizes = {t.shape[dim] if isinstance(t, Tensor) and t.ndim > dim >= 0 else 0 for t in batch.tensors}
        if len(sizes) != 1 or 0 in sizes:
            shape = "(batch, ...)" if dim == 0 else f"whose dimension {dim} is the batch"
            raise ConfigError(f"example_inputs: every one must be a tensor of shape {shape}, of one batch size")
        return batch.map(lambda tensor: tensor.detach().cpu())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, those given by name after the others."""
        return *self.args, *self.kwargs.values()

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.tensors[0].shape[self.dim]

    def map(self, change: Callable[[Tensor], Any]) -> Any:
        """The same structure of changed tensors."""
        kwargs = {name: change(tensor) for name, tensor in self.kwargs.items()}
        return Batch(tuple(map(change, self.args)), kwargs, self.dim)

    def resized(self, size: int) -> "Batch":
        """`size` examples: these in their order, and from the first on again."""
        return self.map(lambda tensor: tensor.index_select(self.dim, torch.arange(size) % self.size))


def largest_error(model: nn.Module, run: Run, batch: Batch, tolerance: float) -> float:
    """The largest absolute difference of an output, at the example's batch size and another one.

    ConfigError where it is larger than `tolerance` times the largest output, or times 1 where that is smaller, where
    the graph does not run, and where the model gives something else every time.
    """
    worst = 0.0
    other = 2 if batch.size == 1 else 1 if takes(model, batch.resized(1)) else batch.size + 1
    for size in (batch.size, other):
        given = batch.resized(size)
        expected, found = outputs_of(model, given), _ran(run, given)
        error = max((_difference(*pair) for pair in zip(expected, found, strict=True)), default=0.0)
        allowed = tolerance * max(1.0, *(_largest(output[output.isfinite()]) for output in expected))
        if not error <= allowed:
            _require_repeatable(model, given, expected)
            raise ConfigError(
                f"tolerance: the file's outputs differ from the model's by {error:.2g} at batch size {size}; "
                f"{allowed:.2g} is allowed"
            )
        worst = max(worst, error)
    return worst


def _require_repeatable(model: nn.Module, batch: Batch, outputs: Sequence[Tensor]) -> None:
    """ConfigError where the model itself gives something else than it did before."""
    again = outputs_of(model, batch)
    if any(_difference(*pair) for pair in zip(outputs, again, strict=True)):
        raise ConfigError(
            "model: it gives other outputs every time, in evaluation mode too, so that no file can be compared with "
            "it; take out what is random"
        )


def _ran(run: Run, batch: Batch) -> list[Tensor]:
    try:
        return run(batch)
    except Exception as error:  # of a runtime, each with its own kinds
        raise ConfigError(
            f"model: its file was written and does not run at batch size {batch.size}: {first_line(error)}"
        ) from error


@torch.no_grad()
def called(model: nn.Module, batch: Batch) -> Any:
    """What the model gives for a batch, in its own form."""
    return model(*batch.args, **batch.kwargs)


def outputs_of(model: nn.Module, batch: Batch) -> list[Tensor]:
    """All tensors of what the model gives for a batch."""
    leaves = pytree.tree_leaves(called(model, batch))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return torch.inf
    same = (expected == found) | (expected.isnan() & found.isnan())  # equal infinities have no difference either
    return _largest((expected.double() - found.double()).masked_fill(same, 0).nan_to_num(nan=torch.inf))


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 in an empty tensor."""
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


def takes(model: nn.Module, batch: Batch) -> bool:
    """Whether the model runs on that many examples: batch norm without running statistics needs two."""
    try:
        outputs_of(model, batch)
    except Exception:
        return False
    return True


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
