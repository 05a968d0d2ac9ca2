"""The training images that a criterion is shown: as many of each class, as stored, unaugmented."""

import torch
from torch import Tensor

from prunetune.core.seeding import generator
from prunetune.data import Dataset
from prunetune.training.batches import normaliser


def pick(labels: Tensor, images: int, seed: int) -> Tensor:
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


def batches_of(
    data: Dataset, indices: Tensor, batch_size: int, device: torch.device | str
) -> list[tuple[Tensor, Tensor]]:
    """The training examples of `indices`, normalised, on `device`: batches as equal as can be, of at most `batch_size`.

    As equal as can be, because batch norm takes no batch of one.
    """
    normalise = normaliser(data, torch.device(device))
    parts = indices.tensor_split(-(-len(indices) // batch_size))
    return [(normalise(data.train_images[part].to(device)), data.train_labels[part].to(device)) for part in parts]
