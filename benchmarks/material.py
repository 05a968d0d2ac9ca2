"""What the benchmarks train: networks, images, masks, and how much arithmetic a training image takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Options
from prunetune import models
from prunetune.data import DATA, Cifar, Dataset, identify, load
from prunetune.data.downloads import cache_folders
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.prune import compute_mask
from prunetune.training.recipe import Precision, Recipe, Schedule

SPARSITY = 0.8
SHAPE, CLASSES = (3, 32, 32), 10
STEPS = {"vgg11": 8, "mobilenetv2": 8}  # a round: they take ten times a step of ResNet-20


@dataclass(frozen=True)
class Setting:
    """What every variant of a comparison trains: so many steps of a batch each, on the first images of CIFAR-10."""

    model: str = "resnet20"
    width: int | float | None = None
    batch: int = 128
    steps: int = 40
    root: str = ""
    epochs: int = 1

    @classmethod
    def of(cls, options: Options, model: str = "resnet20") -> "Setting":
        """The sizes that the options ask for."""
        if options.quick:
            return cls(model, batch=4, steps=1, root=options.root)
        return cls(model, steps=STEPS.get(model, cls.steps), root=options.root)

    @property
    def images(self) -> int:
        """Training images that a round goes over, once an epoch."""
        return self.batch * self.steps

    def data(self) -> Dataset:
        """The images that a round trains on; one test image, so that its score costs nothing."""
        data = cifar10(self.root)
        few = slice(0, self.images)
        return replace(
            data,
            train_images=data.train_images[few],
            train_labels=data.train_labels[few],
            test_images=data.test_images[:1],
            test_labels=data.test_labels[:1],
        )

    def network(self) -> nn.Module:
        """The network with its first weights."""
        arguments = {} if self.width is None else {"width": self.width}
        return models.draw(models.identify(self.model, arguments, SHAPE, CLASSES), SHAPE, CLASSES, seed=0)

    def recipe(self, precision: Precision = "f32") -> Recipe:
        """The paper's recipe at one rate, by default for one pass over the images."""
        return Recipe(
            self.epochs, self.batch, 0.01, schedule=Schedule("constant"), augment=("crop", "flip"), precision=precision
        )

    def flops(self) -> int:
        """Floating-point operations of a training step an image, forward and backward, multiply and add counted as two.

        Convolutions and matrix products alone, as torch counts them; it overlooks groups in a backward pass.
        """
        model = self.network()
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward}) as counter:
            model(torch.zeros(2, *SHAPE)).sum().backward()
        return counter.get_total_flops() // 2


def _backward(output: Sequence[int], _input: object, weight: Sequence[int], *others: Any, **_: object) -> int:
    """A convolution's backward pass: for each gradient that is asked for as much as forward."""
    asked: Sequence[bool] = others[-1]
    return sum(asked[:2]) * 2 * prod(output) * prod(weight[1:])


def mask_of(model: nn.Module) -> Mask:
    """The magnitude mask that the benchmarks train under."""
    return compute_mask(model, sparsity=SPARSITY)


def has_cifar10() -> bool:
    """Whether CIFAR-10 lies in the cache."""
    source = DATA["cifar10"]
    return isinstance(source, Cifar) and any(source.files(folder) for folder in cache_folders())


def origin(root: str) -> str:
    """Which images are used, in words."""
    if not root and not has_cifar10():
        return "images: synthetic, uint8 of CIFAR-10's shape"
    return f"images: CIFAR-10{', ' + note if (note := cifar10(root).note) else ''}"


@cache
def cifar10(root: str) -> Dataset:
    """CIFAR-10 from the folder `root`, else from the cache, else noise of its shape."""
    if root or has_cifar10():
        return load(identify("cifar10", {"root": root} if root else {}))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60000, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (60000,), generator=generator)
    return Dataset.of("synthetic", (images[:50000], labels[:50000]), (images[50000:], labels[50000:]))
