"""What a data set is to a training, what a source of one must provide, and the checks of both."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunetune.core.registry import Registry
from prunetune.data.examples import Examples, Nest, TensorExamples, first_tensor
from prunetune.errors import ConfigError

GREY_MODES = ("1", "L", "LA")  # of Pillow's
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

    @property
    def train(self) -> TensorExamples:
        """What is trained on."""
        return TensorExamples(self.train_images, self.train_labels)

    @property
    def test(self) -> TensorExamples:
        """What results are reported on."""
        return TensorExamples(self.test_images, self.test_labels)

    @property
    def validation(self) -> TensorExamples:
        """What is held out, for choices that are made by looking; perhaps none."""
        return TensorExamples(self.validation_images, self.validation_labels)

    def first(self, count: int) -> "Dataset":
        """At most so many examples to train on and to test."""
        train = {"train_images": self.train_images[:count], "train_labels": self.train_labels[:count]}
        return replace(self, **train, test_images=self.test_images[:count], test_labels=self.test_labels[:count])

    def preparation(self, device: torch.device) -> Callable[[Nest], Nest]:
        """The function that turns images on `device` into a network's float32 input, in the same shape.

        uint8 x becomes (x - 255 mean) / (255 std) per channel; floating images are normalised already.
        """
        mean, scale = (
            torch.tensor([255 * value for value in moments], dtype=torch.float32, device=device).view(-1, 1, 1)
            for moments in (self.mean, self.std)
        )

        def normalise(images: Tensor) -> Tensor:
            if images.is_floating_point():
                return images.float()
            return images.float().sub_(mean).div_(scale)

        return normalise


@dataclass(frozen=True, eq=False)
class ExampleSets:
    """Data of any kind, as a training uses them; `outputs` is None where a task is to say it from the targets."""

    name: str
    train: Examples
    test: Examples
    validation: Examples
    outputs: int | None = None
    note: str = ""
    official = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example's first tensor."""
        return tuple(first_tensor(self.train.gather(torch.arange(1)).inputs).shape[1:])

    def first(self, count: int) -> "ExampleSets":
        """At most so many examples to train on and to test."""
        train, test = (part.subset(torch.arange(min(count, len(part)))) for part in (self.train, self.test))
        return replace(self, train=train, test=test)

    def preparation(self, device: torch.device) -> Callable[[Nest], Nest]:
        """Inputs go into a network as they are."""
        return lambda inputs: inputs


TrainingData = Dataset | ExampleSets


class Facts(NamedTuple):
    """What a plan must know of a data set before any of it is read."""

    input_shape: tuple[int, ...]  # of one example's first tensor; of images (channels, height, width)
    outputs: int  # 0 where a task is to say it
    train: int  # examples trained on
    validation: int
    test: int
    images: bool = True  # whether an example is an image, of which zeros of its shape can stand for one

    @classmethod
    def of(cls, data: TrainingData) -> "Facts":
        """Those of a data set that was read."""
        counts = (len(part) for part in (data.train, data.validation, data.test))
        return cls(data.input_shape, data.outputs or 0, *counts, images=isinstance(data, Dataset))


class Source(ABC):
    """Where a registered data set comes from. `load` takes `train_limit` and `validation` off what `read` returns."""

    options: Mapping[str, type] = MappingProxyType({})  # data_args of its own, passed to `digest` and `read` when given
    any_options = False  # whether it takes others too
    official_order = False  # whether `train_limit` means the first images, in the order in which the set is published
    facts: Facts | None = None  # of the official content, where there is such a thing

    @abstractmethod
    def digest(self, **options: Any) -> str:
        """SHA-256 of the content that `read` would return; OFFICIAL for official content, also while it is absent."""

    @abstractmethod
    def read(self, **options: Any) -> tuple[TrainingData, str]:
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


def stack_images(arrays: Sequence[np.ndarray], grey: bool) -> Tensor:
    """Images of shape (height, width), or (height, width, 3) where they have colours, as one tensor (N, C, H, W).

    C is 1 where all are `grey`, else 3: a grey image among coloured ones has its values in all three.
    """
    if grey:
        return torch.from_numpy(np.stack(arrays)).unsqueeze(1)
    colours = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
    return torch.from_numpy(np.stack(colours)).permute(0, 3, 1, 2).contiguous()


def _moments(histogram: list[int]) -> tuple[float, float]:
    count = sum(histogram)
    total = sum(value * n for value, n in enumerate(histogram))
    squares = sum(value * value * n for value, n in enumerate(histogram))
    variance = (count * squares - total * total) / (count * count * 255 * 255)
    return total / (count * 255), math.sqrt(variance)  # rounded correctly everywhere, which a power is not


CHANNELS = (1, 3, 4)  # of images as files hold them: grey, RGB, RGBA


def require_channels_first(shape: tuple[int, ...], where: str) -> None:
    """ConfigError for images that are (N, H, W, C) by the looks of it, as numpy, Keras and PIL have them."""
    if len(shape) == 4 and shape[-1] in CHANNELS and shape[1] not in CHANNELS:
        raise ConfigError(
            f"data: {where}: images have shape {shape}, which looks like (count, height, width, channels); transpose "
            "them to (count, channels, height, width), or give data_args.channels_first=true where they are that"
        )


def check_pair(images: Tensor, labels: Tensor, outputs: int | None, where: str) -> None:
    """ConfigError, naming `where` they come from, unless (N, C, H, W) images and N labels in 0 .. outputs - 1 fit.

    Images are uint8 or finite floating numbers, labels int64; neither may be empty. `outputs` None: any label >= 0.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ConfigError(
            f"data: {where}: images have shape {tuple(images.shape)}; want (count, channels, height, width)"
        )
    if images.dtype != torch.uint8 and not (images.is_floating_point() and bool(torch.isfinite(images).all())):
        raise ConfigError(f"data: {where}: images are {_kind(images)}; want uint8, or finite normalised floats")
    if labels.shape != images.shape[:1]:
        raise ConfigError(
            f"data: {where}: labels have shape {tuple(labels.shape)} for {len(images)} images; want one each"
        )
    if labels.dtype != torch.int64:
        raise ConfigError(f"data: {where}: labels are {labels.dtype}; want torch.int64")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (outputs is not None and high >= outputs):
        top = "or more" if outputs is None else f"to {outputs - 1}"
        raise ConfigError(f"data: {where}: labels run from {low} to {high}; want whole numbers from 0 {top}")


def check_dataset(data: Dataset, where: str) -> None:
    """ConfigError unless all parts of a data set are sound and agree in shape and dtype (validation may be empty)."""
    check_pair(data.train_images, data.train_labels, data.outputs, f"{where} (training)")
    check_pair(data.test_images, data.test_labels, data.outputs, f"{where} (test)")
    _check_alike(data.train_images, data.test_images, where, "test")
    if len(data.validation_images) or len(data.validation_labels):
        check_pair(data.validation_images, data.validation_labels, data.outputs, f"{where} (validation)")
        _check_alike(data.train_images, data.validation_images, where, "validation")
    channels = data.train_images.shape[1]
    if len(data.mean) != channels or len(data.std) != channels or not all(value > 0 for value in data.std):
        raise ConfigError(
            f"data: {where}: mean and std must give one figure, std above 0, for each of {channels} channels"
        )


def require_memory(count: int, what: str, instead: str) -> None:
    """ConfigError where so many bytes are more than this machine has: the system would end the process wordlessly."""
    if hasattr(os, "sysconf") and count > (here := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise ConfigError(f"data: {what} need {count:,} bytes, and this machine has {here:,}; {instead}")


def _check_alike(train: Tensor, other: Tensor, where: str, part: str) -> None:
    if train.shape[1:] != other.shape[1:] or train.dtype != other.dtype:
        raise ConfigError(
            f"data: {where}: {part} images are {_form(other)} and training images {_form(train)}; they must be alike"
        )


def _form(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape[1:])}"


def _kind(images: Tensor) -> str:
    kind = str(images.dtype).removeprefix("torch.")
    return f"{kind} and not all finite" if images.is_floating_point() else kind
