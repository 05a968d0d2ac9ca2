"""Images on their way into a network: batches of a training, those that a criterion is shown, and a heartbeat each."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from prunetune.core.seeding import OrderDigest, epoch_order, generator
from prunetune.data import Dataset
from prunetune.training.augment import EpochAugmentation, augmented
from prunetune.training.distributed import SINGLE, World
from prunetune.training.recipe import Recipe


def normaliser(data: Dataset, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function that turns images on `device` into a network's float32 input, in the same shape.

    uint8 x becomes (x - 255 mean) / (255 std) per channel; floating images are normalised already.
    """
    mean, scale = (
        torch.tensor([255 * value for value in moments], dtype=torch.float32, device=device).view(-1, 1, 1)
        for moments in (data.mean, data.std)
    )

    def normalise(images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images.float()
        return images.float().sub_(mean).div_(scale)

    return normalise


class BatchIndices(NamedTuple):
    """A batch whose images are not yet gathered: their indices, and their rows of each augmentation's draws."""

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

    The last batch of an epoch may be smaller; no image is left out.
    """

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        *,
        order_seed: int,
        augment_seed: int,
        device: torch.device,
        ranks: World = SINGLE,
    ) -> None:
        self._images = data.train_images.to(device)
        self._labels = data.train_labels.to(device)
        self._normalise = normaliser(data, device)
        self._recipe = recipe
        self._order_seed = order_seed
        self._augment_seed = augment_seed
        self._ranks = ranks
        self.used = OrderDigest()
        self.shares = ranks.shares(len(self), recipe.batch_size)
        self.steps_per_epoch = len(self.shares)

    def __len__(self) -> int:
        return len(self._labels)

    def skip(self, epochs: int) -> None:
        """Count the first epochs as handed out: an earlier part of the same training had them."""
        for epoch in range(epochs):
            self.used.update(epoch_order(self._order_seed, epoch, len(self)))

    def epoch(self, epoch: int) -> Iterator[BatchIndices]:
        """Every batch of `epoch`, counted from 0; `used` then has the order that was handed out, by all ranks."""
        device = self._images.device
        order = epoch_order(self._order_seed, epoch, len(self)).to(device)
        augmentation = EpochAugmentation(self._recipe.augment, self._augment_seed, epoch, len(self), device)
        used = []
        for start, stop, _ in self.shares:
            indices = order[start:stop]
            used.append(indices)
            yield BatchIndices(indices, augmentation.draws(start, stop))
        self.used.update(self._whole(torch.cat(used).cpu()))

    def gather(self, batch: BatchIndices) -> tuple[Tensor, Tensor]:
        """The images of a batch, augmented and normalised, and their labels."""
        images = augmented(self._images.index_select(0, batch.indices), self._recipe.augment, batch.draws)
        return self._normalise(images), self._labels.index_select(0, batch.indices)

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


def probe_batches(
    data: Dataset, indices: Tensor, batch_size: int, device: torch.device | str
) -> list[tuple[Tensor, Tensor]]:
    """The training examples of `indices`, normalised, on `device`: batches as equal as can be, of at most `batch_size`.

    As equal as can be, because batch norm takes no batch of one.
    """
    normalise = normaliser(data, torch.device(device))
    parts = indices.tensor_split(-(-len(indices) // batch_size))
    return [(normalise(data.train_images[part].to(device)), data.train_labels[part].to(device)) for part in parts]


_LISTENERS: list[Callable[[], None]] = []


def heartbeat() -> None:
    """A batch is done."""
    for listener in _LISTENERS:
        listener()


def on_heartbeat(listener: Callable[[], None]) -> None:
    """Call `listener` after every batch that this process trains on or scores from now on."""
    _LISTENERS.append(listener)
