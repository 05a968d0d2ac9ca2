"""Examples on their way into a network: batches of a training, what a criterion is shown, and a heartbeat each."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from prunetune.core.references import Ref
from prunetune.core.seeding import OrderDigest, derive, epoch_order, generator
from prunetune.data import Batch, TrainingData, facts, load_examples
from prunetune.data.examples import Gather, Nest, class_labels, leaves, moved
from prunetune.errors import ConfigError
from prunetune.training.augment import EpochAugmentation, augmented
from prunetune.training.distributed import SINGLE, World
from prunetune.training.recipe import Recipe


class BatchIndices(NamedTuple):
    """A batch whose examples are not yet gathered: their indices, and their rows of each augmentation's draws."""

    indices: Tensor
    draws: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that a batch depends on."""
        return (self.indices, *self.draws)

    def copy(self) -> "BatchIndices":
        """The same in memory of its own."""
        return BatchIndices(self.indices.clone(), tuple(draws.clone() for draws in self.draws))


class TrainingBatches:
    """The batches of a training, or this rank's shares of them.

    The last batch of an epoch may be smaller; no example is left out.
    """

    def __init__(
        self,
        data: TrainingData,
        recipe: Recipe,
        *,
        order_seed: int,
        augment_seed: int,
        device: torch.device,
        ranks: World = SINGLE,
    ) -> None:
        self._examples = data.train.to(device)
        if ranks.count > 1 and not self._examples.resident:
            what = "data that are read example by example are not shared by several"
            raise ConfigError(f"devices: {ranks.count}; {what}; give tensors, or devices: 1")
        if recipe.augment:
            _require_images(recipe, data)
        self._prepare = data.preparation(device)
        self._gather: Gather = self._examples.gather
        self._device = device
        self._recipe = recipe
        self._order_seed = order_seed
        self._augment_seed = augment_seed
        self._ranks = ranks
        self.used = OrderDigest()
        self.shares = ranks.shares(len(self), recipe.batch_size)
        self.steps_per_epoch = len(self.shares)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def resident(self) -> bool:
        """Whether all examples lie on the device."""
        return self._examples.resident

    def skip(self, epochs: int) -> None:
        """Count the first epochs as handed out: an earlier part of the same training had them."""
        for epoch in range(epochs):
            self.used.update(epoch_order(self._order_seed, epoch, len(self)))

    def epoch(self, epoch: int) -> Iterator[BatchIndices]:
        """Every batch of `epoch`, counted from 0; `used` then has the order that was handed out, by all ranks."""
        order = epoch_order(self._order_seed, epoch, len(self)).to(self._device if self.resident else "cpu")
        augmentation = EpochAugmentation(self._recipe.augment, self._augment_seed, epoch, len(self), self._device)
        used = [order[start:stop] for start, stop, _ in self.shares]
        self._gather = self._examples.reader(used, derive("examples", self._augment_seed, epoch))
        for indices, (start, stop, _) in zip(used, self.shares, strict=True):
            yield BatchIndices(indices, augmentation.draws(start, stop))
        self.used.update(self._whole(torch.cat(used).cpu()))

    def gather(self, batch: BatchIndices) -> Batch:
        """The examples of a batch on the device, images augmented and normalised."""
        inputs, targets = moved(self._gather(batch.indices), self._device)
        return Batch(self._prepare(augmented(inputs, self._recipe.augment, batch.draws)), targets)

    def _whole(self, used: Tensor) -> Tensor:
        """All ranks' indices of an epoch, each at the place of its share."""
        places = torch.cat([torch.arange(start, stop) for start, stop, _ in self.shares])
        return self._ranks.sum(torch.zeros(len(self), dtype=used.dtype).index_copy_(0, places, used))


def probe_indices(labels: Tensor, images: int, seed: int) -> Tensor:
    """Indices of the first `images` examples of an order drawn by `seed` that deals the classes out in turn, int64.

    No class gets a second example before every class has its first, and so on until a class has none left, so that
    counts differ by at most one while all classes last. All of the labels when `images` is more than there are.
    """
    order = torch.randperm(len(labels), generator=generator("probe", seed))
    turns = torch.empty_like(order)
    for label in labels.unique():
        own = (labels[order] == label).nonzero().flatten()
        turns[own] = torch.arange(len(own))
    return order[turns.argsort(stable=True)][:images]


def _require_images(recipe: Recipe, data: TrainingData) -> None:
    """ConfigError unless inputs are images, and targets no masks of them, which would not be moved along."""
    inputs, targets = data.train.gather(torch.arange(1))
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or any(target.dim() > 2 for target in leaves(targets)):
        listed = ", ".join(recipe.augment)
        what = "is for images of shape (count, channels, height, width) whose targets do not move with them"
        raise ConfigError(f"recipe.augment: {listed}; {what}; leave it out, and augment in a data set of your own")


def example_inputs(data: TrainingData, device: torch.device | str, count: int = 2) -> Nest:
    """The first training examples on `device`, as a network takes them: what it can be tried with."""
    where = torch.device(device)
    few = data.train.gather(torch.arange(min(count, len(data.train))))
    return data.preparation(where)(moved(few, where).inputs)


def trial_inputs(ref: Ref, input_shape: tuple[int, ...], count: int = 1) -> Nest:
    """What a network for the data `ref` can be tried with: black images, or the first examples where they are others.

    Images of a published data set need not be present for it.
    """
    return torch.zeros(count, *input_shape) if facts(ref).images else example_inputs(load_examples(ref), "cpu", count)


def shown_indices(data: TrainingData, examples: int, seed: int) -> Tensor:
    """Places of training examples to be shown, drawn by `seed`: in turn from all classes, where each has one."""
    labels = class_labels(data.train)
    if labels is None:
        return torch.randperm(len(data.train), generator=generator("probe", seed))[:examples]
    return probe_indices(labels, examples, seed)


def probe_batches(
    data: TrainingData, indices: Tensor, batch_size: int, device: torch.device | str
) -> list[tuple[Nest, Batch]]:
    """The training examples of `indices` on `device`: inputs as a network takes them, and the batch that they are of.

    The batches are as equal as can be, of at most `batch_size`, because batch norm takes no batch of one.
    """
    where = torch.device(device)
    prepare, parts = data.preparation(where), indices.tensor_split(-(-len(indices) // batch_size))
    gather, found = data.train.reader(parts, 0), []
    for part in parts:
        inputs, targets = moved(gather(part), where)
        batch = Batch(prepare(inputs), targets)
        found.append((batch.inputs, batch))
    return found


_LISTENERS: list[Callable[[], None]] = []


def heartbeat() -> None:
    """A batch is done."""
    for listener in _LISTENERS:
        listener()


def on_heartbeat(listener: Callable[[], None]) -> None:
    """Call `listener` after every batch that this process trains on or scores from now on."""
    _LISTENERS.append(listener)
