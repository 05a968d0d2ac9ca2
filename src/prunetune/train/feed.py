"""Images on their way into a network: held on the device as stored, normalised batch by batch."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prunetune.train.augment import EpochAugmentation
from prunetune.train.data import Dataset
from prunetune.train.order import OrderDigest, epoch_order
from prunetune.train.recipe import Recipe


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


class Feed:
    """The batches of a training. The last batch of an epoch may be smaller; no image is left out."""

    def __init__(self, data: Dataset, recipe: Recipe, order_seed: int, augment_seed: int, device: torch.device) -> None:
        self._images = data.train_images.to(device)
        self._labels = data.train_labels.to(device)
        self._normalise = normaliser(data, device)
        self._recipe = recipe
        self._order_seed = order_seed
        self._augment_seed = augment_seed
        self.used = OrderDigest()
        self.steps_per_epoch = math.ceil(len(self._labels) / recipe.batch_size)

    def __len__(self) -> int:
        return len(self._labels)

    def skip(self, epochs: int) -> None:
        """Count the first epochs as handed out: an earlier part of the same training had them."""
        for epoch in range(epochs):
            self.used.update(epoch_order(self._order_seed, epoch, len(self)))

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of every batch of `epoch`, counted from 0; `used` then has the order that was handed out."""
        device = self._images.device
        order = epoch_order(self._order_seed, epoch, len(self)).to(device)
        augment = EpochAugmentation(self._recipe.augment, self._augment_seed, epoch, len(self), device)
        used = []
        for start in range(0, len(self), self._recipe.batch_size):
            indices = order[start : start + self._recipe.batch_size]
            images = augment(self._images.index_select(0, indices), start)
            used.append(indices)
            yield self._normalise(images), self._labels.index_select(0, indices)
        self.used.update(torch.cat(used))
