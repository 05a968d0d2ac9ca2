"""What images and labels must be, whoever brings them."""

import os

import torch
from torch import Tensor

from prunetune.data.base import Dataset
from prunetune.errors import ConfigError

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
