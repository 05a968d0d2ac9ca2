"""The two arguments that every data set takes: `train_limit` and `validation`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from prunetune.data.dataset import Dataset, ExampleSets, Facts, TrainingData, mean_and_std
from prunetune.data.examples import class_labels
from prunetune.errors import ConfigError

SPLIT_OPTIONS = ("train_limit", "validation")
HOLD_OUT_SEED = 20210211  # not one of the study's seeds: the same images are held out in every repetition
DRAW_SEED = 20210212  # the same images are drawn in every repetition
SHOWN = 5  # lost classes that an error names


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change anything, so that one choice has one spelling; ConfigError for a wrong type or range."""
    limit, share = options.get("train_limit"), options.get("validation")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"data_args.train_limit: {limit!r}; want a whole number of images, 1 or more")
    if share is not None and (type(share) not in (int, float) or not 0 <= share < 1):
        raise ConfigError(f"data_args.validation: {share!r}; want a share of the training images, 0 <= v < 1")
    kept = {"train_limit": limit, "validation": share or None}
    return {name: value for name, value in kept.items() if value is not None}


def drawn_by_class(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `train_limit` as a draw, `{"stratified": N}`, where it would be the first N images.

    It is this form that enters a step's key, so that no result of the first N images is taken for one of the draw.
    """
    return {name: {"stratified": value} if name == "train_limit" else value for name, value in options.items()}


def split_facts(whole: Facts, options: Mapping[str, Any]) -> Facts:
    """The counts that are left; ConfigError when there are fewer examples than `options` asks for."""
    what = "images" if whole.images else "examples"
    limit, share = _limit(options, whole.train), options.get("validation", 0)
    if limit > whole.train:
        raise ConfigError(f"data_args.train_limit: {limit}; the data set has {whole.train} training {what}")
    held = round(share * limit)
    if share and whole.validation:
        raise ConfigError(f"data_args.validation: this data set brings its own validation {what}; leave it out")
    if share and not 0 < held < limit:
        raise ConfigError(
            f"data_args.validation: {share} of {limit} training {what} is {held}; some must be left in both parts"
        )
    return whole._replace(train=limit - held, validation=held or whole.validation)


@overload
def split(data: Dataset, options: Mapping[str, Any]) -> Dataset: ...


@overload
def split(data: ExampleSets, options: Mapping[str, Any]) -> ExampleSets: ...


def split(data: TrainingData, options: Mapping[str, Any]) -> TrainingData:
    """The data with `train_limit` and `validation` applied."""
    if not options:
        return data
    return _split_images(data, options) if isinstance(data, Dataset) else _split_examples(data, options)


def _split_examples(data: ExampleSets, options: Mapping[str, Any]) -> ExampleSets:
    """As of images; where examples have no class each, both draws are whatever their targets."""
    left, labels = split_facts(Facts.of(data), options), class_labels(data.train)
    train = data.train
    if "train_limit" in options:
        limit = _limit(options, len(train))
        by_class = _taken(labels, options) if labels is not None else None
        drawn = _permutation(len(train), DRAW_SEED)[:limit].sort().values
        train = train.subset(by_class if isinstance(by_class, Tensor) else drawn)
    if "validation" not in options:
        return replace(data, train=train)
    labels = class_labels(train)
    chosen = _held_out(torch.zeros(len(train)) if labels is None else labels, left.validation)
    held, rest = (train.subset(part.nonzero().flatten()) for part in (chosen, ~chosen))
    return replace(data, train=rest, validation=held)


def _split_images(data: Dataset, options: Mapping[str, Any]) -> Dataset:
    """`train_limit` training images, a fixed random `validation` share of them held out, both in their order.

    A `train_limit` N is the first N images, `{"stratified": N}` a fixed random draw of every class's share, one image
    of each at least. The held-out images are drawn from all that are left, whatever their class. ConfigError where a
    class that has training images is left without any.

    Mean and std become those of the images that are left to train on, unless the data set brought figures of its own.
    """
    left = split_facts(Facts.of(data), options)
    taken = _taken(data.train_labels, options)
    images, labels = data.train_images[taken], data.train_labels[taken]
    held = _held_out(labels, left.validation if "validation" in options else 0)
    if "validation" in options:
        data = replace(data, validation_images=images[held], validation_labels=labels[held])
    figures = (data.mean, data.std)
    derived = figures == mean_and_std(data.train_images)
    rest = images[~held]
    mean, std = mean_and_std(rest) if derived else figures
    return replace(data, train_images=rest, train_labels=labels[~held], mean=mean, std=std)


def _limit(options: Mapping[str, Any], whole: int) -> int:
    limit = options.get("train_limit", whole)
    return limit["stratified"] if isinstance(limit, Mapping) else limit


def _taken(labels: Tensor, options: Mapping[str, Any]) -> slice | Tensor:
    """Where the images that `train_limit` leaves are: a slice, or positions in rising order."""
    limit, classes = _limit(options, len(labels)), len(labels.unique())
    if isinstance(options.get("train_limit"), Mapping):
        if limit < classes:
            raise ConfigError(
                f"data_args.train_limit: {limit} images cannot show all {classes} classes; want {classes} or more"
            )
        return _stratified(labels, limit)
    if lost := _lost(labels, labels[:limit]):
        first = max(int((labels == label).nonzero()[0]) for label in lost) + 1
        raise ConfigError(
            f"data_args.train_limit: the first {limit} images show nothing of {_named(lost)}; want {first} or more"
        )
    return slice(limit)


def _stratified(labels: Tensor, limit: int) -> Tensor:
    """Positions of `limit` images, one of each class and the others in proportion, each class's drawn at random.

    Shares are rounded by largest remainders, ties to the smaller label, so that each is the exact one up to a whole.
    """
    _, counts = labels.unique(return_counts=True)
    spare, more = counts - 1, limit - len(counts)
    shares, remainders = more * spare // max(1, int(spare.sum())), more * spare % max(1, int(spare.sum()))
    largest = remainders.argsort(descending=True, stable=True)[: more - int(shares.sum())]
    shares[largest] += 1
    shuffled = _permutation(len(labels), DRAW_SEED)
    by_class = shuffled[labels[shuffled].argsort(stable=True)].split(counts.tolist())
    drawn = [group[: 1 + share] for group, share in zip(by_class, shares.tolist(), strict=True)]
    return torch.cat(drawn).sort().values


def _held_out(labels: Tensor, held: int) -> Tensor:
    """True for `held` of the images, drawn whatever their class."""
    order = _permutation(len(labels), HOLD_OUT_SEED)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[:held]] = True
    if lost := _lost(labels, labels[~chosen]):
        most = min(int((labels[order] == label).nonzero()[-1]) for label in lost)
        want = f"a share of at most {most} of {len(labels)}" if most else "no share, or more images of it"
        raise ConfigError(
            f"data_args.validation: {held} held-out images leave none of {_named(lost)} to train on; want {want}"
        )
    return chosen


def _permutation(count: int, seed: int) -> Tensor:
    """By the legacy generator: its stream is frozen across numpy's versions."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(count))


def _lost(whole: Tensor, part: Tensor) -> list[int]:
    """The labels of `whole` that `part` does not have."""
    return sorted(set(whole.unique().tolist()) - set(part.unique().tolist()))


def _named(lost: list[int]) -> str:
    shown = ", ".join(str(label) for label in lost[:SHOWN])
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    return f"class {shown}{more} (labels count from 0)"
