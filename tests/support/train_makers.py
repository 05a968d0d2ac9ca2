"""Small data, networks and callables for the tests of training; and its loop again, slow and obvious."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunetune.core.seeding import epoch_order, generator
from prunetune.data import Dataset
from prunetune.sparsity.mask import Mask
from prunetune.training.augment import AUGMENTATIONS
from prunetune.training.loop import Trained, train
from prunetune.training.recipe import Recipe, Schedule
from prunetune.training.training_state import Saved

COUNT = 50
RECIPE = Recipe(
    epochs=3, batch_size=16, learning_rate=0.05, schedule=Schedule("step", (1.5,)), weight_decay=1e-2
)  # 4 steps an epoch, the last with 2 images


def images_of(labels: Tensor, seed: int, channels: int = 1) -> Tensor:
    """Noise, with the quadrant of the label brighter."""
    images = torch.randint(0, 100, (len(labels), channels, 8, 8), generator=torch.Generator().manual_seed(seed))
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
    return images.to(torch.uint8)


def dataset(count: int = COUNT, held_out: int = 0) -> Dataset:
    parts = [
        (images_of(labels, seed), labels)
        for seed, n in enumerate((count, 30, held_out))
        for labels in [torch.arange(n) % 4]
    ]
    return Dataset.of("quadrants", parts[0], parts[1], parts[2], outputs=4)


def network(seed: int = 0) -> nn.Sequential:
    """Two convolutions (the second prunable), a batch norm and a linear layer (prunable)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 4),
        )


PRUNABLE = ("3.weight", "6.weight")


def half_mask(model: nn.Module) -> Mask:
    """A checkerboard over the prunable weights: no order of magnitudes in it."""
    parameters = dict(model.named_parameters())
    return Mask(
        {name: (torch.arange(parameters[name].numel()) % 2 == 0).view_as(parameters[name]) for name in PRUNABLE}
    )


def run(
    model: nn.Module | None = None, recipe: Recipe = RECIPE, data: Dataset | None = None, **options: Any
) -> Trained:
    seeds = {"order_seed": 1, "augment_seed": 2}
    return train(model or network(), data or dataset(), recipe, **{**seeds, **options})


def reference(model: nn.Module, recipe: Recipe, order_seed: int, augment_seed: int, mask: Mask | None = None) -> None:
    """Train `model` in place on `dataset()`: one image after the other into the batch, torch's plain SGD, no hooks."""
    data = dataset()
    pixels = data.train_images.double() / 255
    mean, std = pixels.mean(), pixels.std(correction=0)
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        foreach=False,
    )
    step = 0
    _clear(model, mask)
    model.train()
    for epoch in range(recipe.epochs):
        order = epoch_order(order_seed, epoch, COUNT).tolist()
        draws = [
            AUGMENTATIONS[name].draw(COUNT, generator("augment", augment_seed, epoch, name)).tolist()
            for name in recipe.augment
        ]
        for start in range(0, COUNT, recipe.batch_size):
            places = range(start, min(start + recipe.batch_size, COUNT))
            batch = [
                _augmented(
                    data.train_images[order[place]], {n: d[place] for n, d in zip(recipe.augment, draws, strict=True)}
                )
                for place in places
            ]
            inputs = ((torch.stack(batch).double() / 255 - mean) / std).float()
            targets = torch.tensor([int(data.train_labels[order[place]]) for place in places])
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (0.1 if step >= 6 else 1.0)  # 1.5 epochs of 4 steps
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            _clear(model, mask)
            step += 1


def slow_crop(image: Tensor, row: int, column: int) -> Tensor:
    """The image of shape (C, H, W) moved within a black frame of 4 pixels, element by element."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y + row - 4 < height and 0 <= x + column - 4 < width:
                result[:, y, x] = image[:, y + row - 4, x + column - 4]
    return result


def slow_flip(image: Tensor) -> Tensor:
    return torch.stack([image[:, :, x] for x in reversed(range(image.shape[2]))], dim=2)


def _augmented(image: Tensor, draws: Mapping[str, Any]) -> Tensor:
    for name, draw in draws.items():
        if name == "crop":
            image = slow_crop(image, *draw)
        elif draw:
            image = slow_flip(image)
    return image


def _clear(model: nn.Module, mask: Mask | None) -> None:
    parameters = dict(model.named_parameters())
    for name, kept in (mask or {}).items():
        parameters[name].data[~kept] = 0


def hinge(outputs: Tensor, targets: Tensor, margin: float = 1.0) -> Tensor:
    """A loss of a user's."""
    return F.multi_margin_loss(outputs, targets, margin=margin)


def top_two(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric of a user's: half a point for the second guess."""
    guesses = outputs.topk(2).indices
    return (guesses[:, 0] == targets).float() + 0.5 * (guesses[:, 1] == targets).float()


def vector_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def scalar_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return top_two(outputs, targets).mean()


def number_metric(outputs: Tensor, targets: Tensor) -> float:
    return float(top_two(outputs, targets).mean())


class Killed(Exception):  # noqa: N818 - no error but an end
    pass


class Shelf:
    """Keeps what is offered as bytes, as a file would, and ends the training after some epochs."""

    def __init__(self, die_after: int = 4) -> None:
        self.content: bytes | None = None
        self.die_after = die_after
        self.offered = 0

    def load(self) -> Saved | None:
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def offer(self, capture: Callable[[], Saved]) -> None:
        self.offered += 1
        buffer = io.BytesIO()
        torch.save(capture(), buffer)
        self.content = buffer.getvalue()
        if self.offered == self.die_after:
            raise Killed
