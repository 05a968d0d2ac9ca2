"""What a data set is to a training, and what a source of one must provide."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunetune.core.registry import Registry

OFFICIAL = "official"  # the digest of content whose published checksums match: the name alone pins it down


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, as a training uses them.

    Images are uint8 of shape (count, channels, height, width), or floating tensors of that shape that are normalised
    already and used as they are; labels are int64 of shape (count,) in 0 .. outputs - 1. The held-out validation part
    may be empty and is no part of `train_images`. `mean` and `std` (population) are per channel, in units where the
    pixel value 255 is 1; normalised floating images have mean 0 and std 1.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    outputs: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    official: bool = False
    note: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor] | None = None,
        outputs: int | None = None,
        official: bool = False,
        note: str = "",
    ) -> "Dataset":
        """Fill in what follows from (images, labels) pairs: mean, std, no validation part, the number of classes."""
        held = validation or (train[0][:0], train[1][:0])
        classes = outputs or 1 + int(torch.cat([train[1], test[1]]).max())
        return cls(name, *train, *test, *held, classes, *mean_and_std(train[0]), official, note)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One example's shape: (channels, height, width)."""
        return tuple(self.train_images.shape[1:])


class Facts(NamedTuple):
    """What a plan must know of a data set before any of it is read."""

    input_shape: tuple[int, ...]  # (channels, height, width)
    outputs: int
    train: int  # images trained on
    validation: int
    test: int


class Source(ABC):
    """Where a registered data set comes from. `load` cuts `train_limit` and `validation` from what `read` returns."""

    options: Mapping[str, type] = MappingProxyType({})  # data_args of its own, passed to `digest` and `read` when given
    any_options = False  # whether it takes others too
    official_order = False  # whether `train_limit` means the first images, in the order in which the set is published
    facts: Facts | None = None  # of the official content, where there is such a thing

    @abstractmethod
    def digest(self, **options: Any) -> str:
        """SHA-256 of the content that `read` would return; OFFICIAL for official content, also while it is absent."""

    @abstractmethod
    def read(self, **options: Any) -> tuple[Dataset, str]:
        """The whole data set and the digest of what was read. ConfigError when that cannot be had or is damaged."""


DATA: Registry[Source | Callable[..., Any]] = Registry("data")
"""Data sets by name: a `Source`, or a function that returns images and labels."""


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of (N, C, H, W) uint8 images, in units where 255 is 1.

    Sums are exact integers, so the figures are the same on every machine. A constant channel gets std 1: dividing
    leaves its zeros alone. Floating images are normalised already: mean 0, std 1.
    """
    channels = images.shape[1]
    if images.is_floating_point():
        return (0.0,) * channels, (1.0,) * channels
    pairs = [_moments(torch.bincount(images[:, c].reshape(-1), minlength=256).tolist()) for c in range(channels)]
    return tuple(mean for mean, _ in pairs), tuple(std or 1.0 for _, std in pairs)


def _moments(histogram: list[int]) -> tuple[float, float]:
    count = sum(histogram)
    total = sum(value * n for value, n in enumerate(histogram))
    squares = sum(value * value * n for value, n in enumerate(histogram))
    variance = (count * squares - total * total) / (count * count * 255 * 255)
    return total / (count * 255), variance**0.5
