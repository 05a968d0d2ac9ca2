"""Examples of a map-style data set, read one at a time, by worker processes ahead of the training."""

import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from prunetune.core.seeding import derive
from prunetune.data.examples import AT_ONCE, Batch, Gather, Nest, as_nest, mapped
from prunetune.errors import ConfigError, one_line

TARGETS = "labels"  # under which a mapping has what is to be predicted, as transformers names it
FEW = 2  # batches that are read in this process, sooner than workers would have started

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False)
class StreamedExamples:
    """The examples of `dataset` at `places`. Each is drawn by a seed of its own, whatever the number of workers.

    An example, or a batch that `collate` makes of a list of them, is a pair (inputs, targets), or a mapping with what
    is to be predicted under `labels`.
    """

    name: str
    dataset: Any
    places: Tensor
    collate: Collate | None
    workers: int
    resident = False

    def __len__(self) -> int:
        return len(self.places)

    def gather(self, indices: Tensor) -> Batch:
        """Read in this process."""
        return self.reader([indices], 0)(indices)

    def in_order(self, at_once: int = AT_ONCE) -> Iterator[Batch]:
        """Read ahead."""
        parts = torch.arange(len(self)).split(at_once) if len(self) else ()
        gather = self.reader(parts, 0)
        return (gather(part) for part in parts)

    def reader(self, batches: Sequence[Tensor], seed: int) -> Gather:
        """Workers read the batches ahead, in this order; every example draws by (seed, its place)."""
        places = [self.places[batch.cpu()].tolist() for batch in batches]
        read = _Read(self.name, self.dataset, seed, self.collate)
        here = len(batches) <= FEW
        loaded = map(read, places) if here else _by_workers(read, places, self.workers)
        asked = iter(batches)

        def gather(indices: Tensor) -> Batch:
            if not torch.equal(next(asked), indices):
                raise RuntimeError("a batch is asked for out of its order: a fault of prunetune")
            return next(loaded)

        return gather

    def subset(self, indices: Tensor) -> "StreamedExamples":
        """Other places of the same data set."""
        return replace(self, places=self.places[indices])

    def to(self, device: torch.device) -> "StreamedExamples":
        """They lie nowhere."""
        return self


@dataclass(frozen=True, eq=False)
class _Read:
    """Places of a data set to the batch of their examples: what a worker does."""

    name: str
    dataset: Any
    seed: int
    collate: Collate | None

    def __call__(self, places: list[int]) -> Batch:
        try:
            found = [self.example(place) for place in places]
            with _drawing_by(derive(self.seed, "collate", places[0])):
                made = self.collate(found) if self.collate else default_collate([*map(_plain, found)])
            return as_batch(made, f"a batch of {self.name}")
        except ConfigError:
            raise
        except Exception as error:  # the user's code: whatever it raises is told in one line, the cause chained
            what = f"{type(error).__name__}: {one_line(error, 300)}"
            raise ConfigError(f"data: '{self.name}': examples {places[:3]} cannot be a batch: {what}") from error

    def example(self, place: int) -> Any:
        with _drawing_by(derive(self.seed, place)):
            return self.dataset[place]


def as_batch(found: Any, where: str) -> Batch:
    """A batch from a pair (inputs, targets) or a mapping with `labels`; double precision becomes single.

    ConfigError, naming `where` it is from, for anything else.
    """
    if isinstance(found, Mapping) and TARGETS in found:
        found = ({name: value for name, value in found.items() if name != TARGETS}, found[TARGETS])
    if not isinstance(found, tuple | list) or len(found) != 2:
        what = f"a mapping of {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise ConfigError(f"data: {where} is {what}; want (inputs, targets), or a mapping with '{TARGETS}'")
    return Batch(*mapped((as_nest(found[0]), as_nest(found[1])), _single))


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if isinstance(tensor, Tensor) and tensor.dtype == torch.float64 else tensor


def _plain(value: Nest) -> Nest:
    """An example in which a list of numbers, as libraries of texts have it, is a tensor."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, int | float | list) for one in value):
        return torch.tensor(value)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


@contextmanager
def _drawing_by(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators seeded; afterwards they are as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


class _Places(torch.utils.data.Dataset[list[int]]):
    """A batch's places for each number: DataLoader's workers then read whole batches, or say why they cannot."""

    def __init__(self, read: _Read, places: list[list[int]]) -> None:
        self.read, self.places = read, places

    def __getitem__(self, number: int) -> Batch | ConfigError:  # type: ignore[override]
        try:
            return self.read(self.places[number])
        except ConfigError as error:  # handed over: raised here it would come out with the worker's traceback in it
            return error

    def __len__(self) -> int:
        return len(self.places)


def _by_workers(read: _Read, places: list[list[int]], workers: int) -> Iterator[Batch]:
    """The batches in their order, read ahead. Fewer workers than asked for where the machine has fewer cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(workers, cores)
    if not count:
        yield from map(read, places)
        return
    loader = DataLoader(_Places(read, places), batch_size=None, num_workers=count, generator=torch.Generator())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        loaded = iter(loader)
    try:
        for batch in loaded:
            if isinstance(batch, ConfigError):
                raise batch
            yield Batch(*batch)
    except RuntimeError as error:  # torch's: a worker was ended from outside, or by the data set's own code
        raise ConfigError(
            f"data: '{read.name}': what reads examples ahead has ended: {one_line(error, 300)}"
        ) from error
