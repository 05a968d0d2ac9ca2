"""The two arguments that every data set takes: `train_limit` and `validation`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.errors import RequestError
from prunetune.train.data.base import Dataset, Facts, mean_and_std

CUTS = ("train_limit", "validation")
HOLD_OUT_SEED = 20210211  # not one of the study's seeds: the same images are held out in every repetition


def clean(cuts: Mapping[str, Any]) -> dict[str, Any]:
    """The cuts that change anything, so that one choice has one spelling; RequestError for a wrong type or range."""
    limit, share = cuts.get("train_limit"), cuts.get("validation")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise RequestError(f"data_args.train_limit: {limit!r}; want a whole number of images, 1 or more")
    if share is not None and (type(share) not in (int, float) or not 0 <= share < 1):
        raise RequestError(f"data_args.validation: {share!r}; want a share of the training images, 0 <= v < 1")
    kept = {"train_limit": limit, "validation": share or None}
    return {name: value for name, value in kept.items() if value is not None}


def cut_facts(whole: Facts, cuts: Mapping[str, Any]) -> Facts:
    """The counts that are left; RequestError when there are fewer images than `cuts` asks for."""
    limit, share = cuts.get("train_limit", whole.train), cuts.get("validation", 0)
    if limit > whole.train:
        raise RequestError(f"data_args.train_limit: {limit}; the data set has {whole.train} training images")
    held = round(share * limit)
    if share and whole.validation:
        raise RequestError("data_args.validation: this data set brings its own validation images; leave it out")
    if share and not 0 < held < limit:
        raise RequestError(
            f"data_args.validation: {share} of {limit} training images is {held}; some must be left in both parts"
        )
    return whole._replace(train=limit - held, validation=held or whole.validation)


def cut(data: Dataset, cuts: Mapping[str, Any]) -> Dataset:
    """The first `train_limit` training images, a fixed random `validation` share of them held out, both in their order.

    Mean and std become those of the images that are left to train on, unless the data set brought figures of its own.
    """
    if not cuts:
        return data
    counts = (len(labels) for labels in (data.train_labels, data.validation_labels, data.test_labels))
    left = cut_facts(Facts(data.input_shape, data.outputs, *counts), cuts)
    limit = cuts.get("train_limit", len(data.train_labels))
    held = _held_out(limit, left.validation if "validation" in cuts else 0)
    images, labels = data.train_images[:limit], data.train_labels[:limit]
    if "validation" in cuts:
        data = replace(data, validation_images=images[held], validation_labels=labels[held])
    figures = (data.mean, data.std)
    derived = figures == mean_and_std(data.train_images)
    rest = images[~held]
    mean, std = mean_and_std(rest) if derived else figures
    return replace(data, train_images=rest, train_labels=labels[~held], mean=mean, std=std)


def _held_out(count: int, held: int) -> Tensor:
    """True for `held` of `count` images. The legacy generator: its stream is frozen across numpy's versions."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.from_numpy(np.random.RandomState(HOLD_OUT_SEED).permutation(count)[:held])] = True
    return chosen
