"""The other rounds of work: prunetune's own training, and the least that a training needs."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.material import Setting, mask_of
from prunetune.training.augment import PADDING, crop, flip
from prunetune.training.loop import train
from prunetune.training.recipe import Precision


def ours(
    setting: Setting, precision: Precision = "f32", masked: bool = True, device: str = "cpu"
) -> Callable[[], float]:
    """Images a second of a training by prunetune, all that it sets up and checks included."""
    data, recipe, model = setting.data(), setting.recipe(precision), setting.network()
    mask = mask_of(model) if masked else None

    def training() -> float:
        trained = train(model, data, recipe, order_seed=0, augment_seed=0, mask=mask, device=device)
        return setting.images * setting.epochs / trained.seconds

    return training


def bare(setting: Setting) -> Callable[[], float]:
    """Images a second of the least that trains the same network on the same images: no mask, no check, no record.

    Resident bytes, prunetune's own batched crop and flip, channels-last, fused SGD.
    """
    data = setting.data()
    images, labels = data.train_images, data.train_labels
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    model = setting.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)

    def epoch() -> float:
        began = time.perf_counter()
        for indices in torch.randperm(len(labels)).split(setting.batch):
            batch = crop(images[indices], torch.randint(2 * PADDING + 1, (len(indices), 2)))
            batch = flip(batch, torch.rand(len(indices)) < 0.5).float().sub_(mean).div_(std)
            loss = F.cross_entropy(model(batch.contiguous(memory_format=torch.channels_last)), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return setting.images / (time.perf_counter() - began)

    return epoch
