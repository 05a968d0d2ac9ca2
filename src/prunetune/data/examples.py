"""Examples of any kind, behind one interface: nests of tensors in memory, or a data set read example by example.

What trains, scores and measures asks for batches by the examples' places, and does not know of which kind they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Nest = Any
"""A tensor, or a list, tuple or mapping of nests; the first dimension of every tensor counts examples."""

AT_ONCE = 500  # examples that are looked at together
IGNORED = -100  # a target that neither counts in a loss nor in a score, as torch and transformers have it


class Batch(NamedTuple):
    """Inputs and targets of some examples, in their order."""

    inputs: Nest
    targets: Nest


Gather = Callable[[Tensor], Batch]
"""From places of examples, int64 of shape (count,), to the batch of them."""


class Examples(Protocol):
    """Some examples, each with its place from 0 on."""

    @property
    def resident(self) -> bool:
        """Whether all lie in memory, so that a batch is gathered on the device where they are."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Batch:
        """The examples of these places, int64 of shape (count,), as one batch."""
        ...

    def in_order(self, at_once: int = AT_ONCE) -> Iterator[Batch]:
        """All examples in batches of `at_once`; the last may be smaller."""
        ...

    def reader(self, batches: Sequence[Tensor], seed: int) -> Gather:
        """What gathers these batches, asked for in this order; a data set that draws does so by `seed`."""
        ...

    def subset(self, indices: Tensor) -> "Examples":
        """The examples of these places, which are then 0, 1, …"""
        ...

    def to(self, device: torch.device) -> "Examples":
        """The same examples; those in memory are moved to `device`, and their places must lie there too."""
        ...


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Examples as nests of tensors in memory."""

    inputs: Nest
    targets: Nest
    resident = True

    def __len__(self) -> int:
        return len(first_tensor(self.inputs))

    def gather(self, indices: Tensor) -> Batch:
        """By index_select on every tensor."""
        return Batch(*mapped((self.inputs, self.targets), lambda tensor: tensor.index_select(0, indices)))

    def in_order(self, at_once: int = AT_ONCE) -> Iterator[Batch]:
        """Views of consecutive examples."""
        for start in range(0, len(self), at_once):
            yield Batch(*mapped((self.inputs, self.targets), lambda tensor: tensor[start : start + at_once]))  # noqa: B023

    def reader(self, batches: Sequence[Tensor], seed: int) -> Gather:
        """All lie ready."""
        return self.gather

    def subset(self, indices: Tensor) -> "TensorExamples":
        """A copy of them."""
        return TensorExamples(*self.gather(indices))

    def to(self, device: torch.device) -> "TensorExamples":
        """Moved there, whole."""
        return TensorExamples(*mapped((self.inputs, self.targets), lambda tensor: tensor.to(device)))


def leaves(nest: Nest) -> list[Any]:
    """What a nest holds, in its order."""
    return pytree.tree_leaves(nest)


def first_tensor(nest: Nest) -> Tensor:
    """The first tensor of a nest, which tells the number of examples and the shape of one."""
    return leaves(nest)[0]


def mapped(nest: Nest, change: Callable[[Tensor], Tensor]) -> Nest:
    """The nest with every tensor changed."""
    return pytree.tree_map(change, nest)


def as_nest(value: Any) -> Nest:
    """Dicts, lists and tuples of tensors from whatever mappings and arrays there are; other leaves stay as they are."""
    if isinstance(value, Mapping):
        return {str(name): as_nest(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_nest, value)) if type(value) in (list, tuple) else tuple(map(as_nest, value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(np.array(value))  # copied: it may be read-only or have negative strides
    return value.detach().cpu() if isinstance(value, Tensor) else value


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return Batch(*mapped(tuple(batch), lambda tensor: tensor.to(device)))


def target_batches(examples: Examples) -> Iterator[Any]:
    """The targets of all examples, in batches."""
    return (batch.targets for batch in examples.in_order())


def class_labels(examples: Examples) -> Tensor | None:
    """The targets where each is one whole number, int64 of shape (count,), and all lie in memory; else None."""
    targets = getattr(examples, "targets", None)
    return targets if isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1 else None
