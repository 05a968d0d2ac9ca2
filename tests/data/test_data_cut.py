"""`train_limit` and `validation`, and the figures of what is left."""

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from prunetune.data import Dataset, facts, identify, load
from prunetune.data.dataset import mean_and_std
from prunetune.data.split import split
from prunetune.errors import ConfigError
from tests.support.refusals import refused


def _numbered(count: int, **more: Any) -> Dataset:
    """Images whose pixel is their number."""
    images, labels = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1), torch.arange(count) % 2
    return Dataset.of("numbered", (images, labels), (images[:2], labels[:2]), **more)


@given(
    count=st.integers(2, 60), share=st.floats(0, 1, exclude_max=True), limit=st.one_of(st.none(), st.integers(1, 60))
)
def test_cut_partitions_or_refuses(count: int, share: float, limit: int | None):
    wanted = {"train_limit": limit, "validation": share or None}
    cuts = {key: value for key, value in wanted.items() if value is not None}
    used = limit or count
    held = round(share * used)
    if used > count or (share and not 0 < held < used):
        with pytest.raises(ConfigError) as caught:
            split(_numbered(count), cuts)
        assert caught.value.field in ("data_args.train_limit", "data_args.validation")
        return
    order = np.random.RandomState(20210211).permutation(used)
    if {number % 2 for number in range(count)} != {int(number) % 2 for number in order[held:]}:
        with refused("data_args.validation", "class"):
            split(_numbered(count), cuts)
        return
    part = split(_numbered(count), cuts)
    trained, validated = part.train_images.flatten().tolist(), part.validation_images.flatten().tolist()
    assert len(validated) == held
    assert sorted(trained + validated) == list(range(used))
    assert part.train_labels.tolist() == [number % 2 for number in trained]
    assert {number % 2 for number in trained} == {0, 1}
    assert part.validation_labels.tolist() == [number % 2 for number in validated]


def test_the_held_out_images_never_change():
    """A literal: another draw would silently change every study that holds images out."""
    assert split(_numbered(20), {"validation": 0.25}).validation_images.flatten().tolist() == [2, 3, 15, 17, 19]


def test_the_held_out_images_are_spread():
    held = split(_numbered(200), {"validation": 0.5}).validation_images.flatten().tolist()
    assert 30 < sum(number < 100 for number in held) < 70


def sorted_by_class(counts: list[int]) -> Dataset:
    """Images whose pixels are their number, class by class."""
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    images = torch.arange(len(labels)).float().reshape(-1, 1, 1, 1)
    return Dataset.of("sorted", (images, labels), (images[:1], labels[:1]), outputs=len(counts))


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=8), data=st.data())
def test_a_draw_gives_every_class_its_share(counts: list[int], data: st.DataObject):
    """Against exact fractions: one image each, the rest in proportion to what is left, up to less than an image."""
    limit = data.draw(st.integers(len(counts), sum(counts)))
    part = split(sorted_by_class(counts), {"train_limit": {"stratified": limit}})
    numbers = [int(number) for number in part.train_images.flatten().tolist()]
    assert len(numbers) == limit
    assert numbers == sorted(set(numbers))
    assert torch.equal(part.train_labels, sorted_by_class(counts).train_labels[numbers])
    for label, count in enumerate(counts):
        exact = 1 + Fraction((limit - len(counts)) * (count - 1), max(1, sum(counts) - len(counts)))
        assert abs(part.train_labels.tolist().count(label) - exact) < 1


def test_hand_worked_shares():
    """Of 20, 10 and 2 images, 10: one each, and of the other 7 by 19, 9 and 1 of 29: 4.59, 2.17 and 0.24."""
    part = split(sorted_by_class([20, 10, 2]), {"train_limit": {"stratified": 10}})
    assert torch.bincount(part.train_labels).tolist() == [6, 3, 1]


def test_the_drawn_images_never_change():
    """A literal, as for the held-out ones."""
    part = split(sorted_by_class([10, 10]), {"train_limit": {"stratified": 6}})
    assert part.train_images.flatten().tolist() == [1, 2, 3, 11, 13, 15]


def test_a_held_out_share_of_sorted_images_shows_every_class():
    part = split(sorted_by_class([100] * 5), {"validation": 0.2})
    assert min(torch.bincount(part.validation_labels, minlength=5).tolist()) > 10


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (
            {"train_limit": {"stratified": 4}},
            "data_args.train_limit: 4 images cannot show all 5 classes; want 5 or more",
        ),
        (
            {"train_limit": 6},
            "data_args.train_limit: the first 6 images show nothing of class 2, 3, 4 (labels count from 0); "
            "want 13 or more",
        ),
    ],
)
def test_a_limit_that_loses_a_class_is_refused_with_one_that_does_not(cuts: dict[str, Any], message: str):
    data = sorted_by_class([3] * 5)
    with pytest.raises(ConfigError) as caught:
        split(data, cuts)
    assert str(caught.value) == message
    enough = 5 if isinstance(cuts["train_limit"], dict) else 13
    again = {"train_limit": {"stratified": enough} if enough == 5 else enough}
    assert set(split(data, again).train_labels.tolist()) == set(range(5))


def test_a_class_that_the_data_never_had_is_not_lost():
    data = Dataset.of("gap", *[(torch.zeros(6, 1, 1, 1), torch.tensor([0, 2, 0, 2, 0, 2]))] * 2, outputs=5)
    assert split(data, {"train_limit": 2}).train_labels.tolist() == [0, 2]
    assert split(data, {"train_limit": {"stratified": 2}}).train_labels.unique().tolist() == [0, 2]


def test_a_held_out_share_that_takes_all_of_a_class_is_refused_with_one_that_does_not():
    data = sorted_by_class([30, 1])
    with pytest.raises(ConfigError) as caught:
        split(data, {"validation": 0.9})
    found = re.fullmatch(
        r"data_args.validation: 28 held-out images leave none of class 1 \(labels count from 0\) to train on; "
        r"want a share of at most (\d+) of 31",
        str(caught.value),
    )
    assert found
    most = int(found[1])
    assert split(data, {"validation": most / 31}).train_labels.tolist().count(1) == 1
    with refused("data_args.validation", "1", "class"):
        split(data, {"validation": (most + 1) / 31})


@pytest.mark.parametrize(("limit", "fine"), [(23, False), (24, True)])
def test_the_first_images_of_fashion_mini(limit: int, fine: bool):
    ref = identify("fashion-mini", {"train_limit": limit})
    assert ref.kwargs == {"train_limit": limit}
    if fine:
        assert set(load(ref).train_labels.tolist()) == set(range(10))
        return
    with refused("data_args.train_limit", "23", "8", "24", "show"):
        load(ref)


def test_a_cut_keeps_no_memory_of_the_whole():
    part = split(_numbered(60), {"train_limit": 5})
    assert part.train_images.untyped_storage().nbytes() == 5


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
@example([28, 37, 89])  # whose variance to the power of one half is not its square root
def test_mean_and_std_against_exact_fractions(values: list[int]):
    mean, std = mean_and_std(torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1))
    exact = Fraction(sum(values), 255 * len(values))
    variance = sum((Fraction(value, 255) - exact) ** 2 for value in values) / len(values)
    assert mean[0] == float(exact)
    assert std[0] == (math.sqrt(variance) if variance else 1.0)


def test_channels_stand_apart():
    images = torch.tensor([[0, 10, 255], [255, 10, 255]], dtype=torch.uint8).reshape(2, 3, 1, 1)
    assert mean_and_std(images) == ((0.5, 10 / 255, 1.0), (0.5, 1.0, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_limit": 0}, "data_args.train_limit: 0; want a whole number of images, 1 or more"),
        ({"train_limit": -5}, "data_args.train_limit: -5; want a whole number of images, 1 or more"),
        ({"train_limit": 1.5}, "data_args.train_limit: 1.5; want a whole number of images, 1 or more"),
        ({"train_limit": True}, "data_args.train_limit: True; want a whole number of images, 1 or more"),
        ({"train_limit": "10"}, "data_args.train_limit: '10'; want a whole number of images, 1 or more"),
        ({"train_limit": 10001}, "data_args.train_limit: 10001; the data set has 10000 training images"),
        ({"validation": 1}, "data_args.validation: 1; want a share of the training images, 0 <= v < 1"),
        ({"validation": -0.1}, "data_args.validation: -0.1; want a share of the training images, 0 <= v < 1"),
        ({"validation": float("nan")}, "data_args.validation: nan; want a share of the training images, 0 <= v < 1"),
        ({"validation": "0.1"}, "data_args.validation: '0.1'; want a share of the training images, 0 <= v < 1"),
        (
            {"train_limit": 10, "validation": 0.01},
            "data_args.validation: 0.01 of 10 training images is 0; some must be left in both parts",
        ),
        (
            {"train_limit": 10, "validation": 0.99},
            "data_args.validation: 0.99 of 10 training images is 10; some must be left in both parts",
        ),
        ({"size": 3}, "data_args: unknown 'size'; known: train_limit, validation"),
        ({"validaton": 0.1}, "data_args: unknown 'validaton'; did you mean 'validation'?"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        identify("fashion-mini", arguments)
    assert str(caught.value) == message


def test_a_set_with_its_own_validation_images():
    own = (torch.full((3, 1, 1, 1), 9, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    limited = split(_numbered(10, validation=own), {"train_limit": 4})
    assert torch.equal(limited.validation_images, own[0])
    with refused("data_args.validation", "brings"):
        split(_numbered(10, validation=own), {"validation": 0.5})


def test_official_facts_need_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path))
    ref = identify("cifar100", {"train_limit": 1000, "validation": 0.1})
    assert tuple(facts(ref)) == ((3, 32, 32), 100, 900, 100, 10000, True)


def test_arguments_that_were_not_identified_are_refused_by_name():
    with refused("data", "fashion-min", "fashion-mini"):
        identify("fashion-min")
    assert load(identify("fashion-mini")).outputs == 10
