"""Examples of any kind: nests of tensors held in memory, or a map-style data set read one example at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Nest = Any
"""A tensor, or a list, tuple or mapping of nests; the first dimension of every tensor counts examples."""

AT_ONCE = 500  # examples that are looked at together


class Batch(NamedTuple):
    """Inputs and targets of some examples, in their order."""

    inputs: Nest
    targets: Nest


Gather = Callable[[Tensor], Batch]
"""From places of examples, int64 of shape (count,), to the batch of them."""


class Examples(Protocol):
    """Some examples, each with its place from 0 on."""

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Batch:
        """The examples of these places, int64 of shape (count,), as one batch."""
        ...

    def to(self, device: torch.device) -> "Examples":
        """The same examples, whose batches lie on `device`."""
        ...

    def reader(self, batches: Sequence[Tensor], seed: int) -> Gather:
        """What gathers these batches, asked for in this order; a data set that draws does so by `seed`."""
        ...


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Examples as nests of tensors in memory; gathered on the device where they lie."""

    inputs: Nest
    targets: Nest

    def __len__(self) -> int:
        return len(leaves(self.inputs)[0])

    def gather(self, indices: Tensor) -> Batch:
        """By index_select on every tensor."""
        return Batch(*mapped((self.inputs, self.targets), lambda tensor: tensor.index_select(0, indices)))

    def to(self, device: torch.device) -> "TensorExamples":
        """Moved there, whole."""
        return TensorExamples(*mapped((self.inputs, self.targets), lambda tensor: tensor.to(device)))

    def reader(self, batches: Sequence[Tensor], seed: int) -> Gather:
        """All lie ready."""
        return self.gather


def leaves(nest: Nest) -> list[Tensor]:
    """The tensors of a nest in their order."""
    return pytree.tree_leaves(nest)


def mapped(nest: Nest, change: Callable[[Tensor], Tensor]) -> Nest:
    """The nest with every tensor changed."""
    return pytree.tree_map(change, nest)


def in_order(examples: Examples, at_once: int = AT_ONCE) -> Iterator[Batch]:
    """All examples in batches of `at_once`; the last may be smaller."""
    parts = torch.arange(len(examples)).split(at_once) if len(examples) else ()
    gather = examples.reader(parts, 0)
    for part in parts:
        yield gather(part)


def target_batches(examples: Examples) -> Iterator[Any]:
    """The targets of all examples, in batches."""
    return (batch.targets for batch in in_order(examples))
