"""`train_limit` and `validation`, and the figures of what is left."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunetune.errors import RequestError
from prunetune.train.data import Dataset, facts, identify, load
from prunetune.train.data.base import mean_and_std
from prunetune.train.data.cut import cut


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
        with pytest.raises(RequestError, match=r"^data_args"):
            cut(_numbered(count), cuts)
        return
    part = cut(_numbered(count), cuts)
    trained, validated = part.train_images.flatten().tolist(), part.validation_images.flatten().tolist()
    assert len(validated) == held
    assert sorted(trained + validated) == list(range(used))
    assert part.train_labels.tolist() == [number % 2 for number in trained]
    assert part.validation_labels.tolist() == [number % 2 for number in validated]


def test_the_held_out_images_never_change():
    """A literal: another draw would silently change every study that holds images out."""
    assert cut(_numbered(20), {"validation": 0.25}).validation_images.flatten().tolist() == [2, 3, 15, 17, 19]


def test_the_held_out_images_are_spread():
    held = cut(_numbered(200), {"validation": 0.5}).validation_images.flatten().tolist()
    assert 30 < sum(number < 100 for number in held) < 70


def test_a_cut_keeps_no_memory_of_the_whole():
    part = cut(_numbered(60), {"train_limit": 5})
    assert part.train_images.untyped_storage().nbytes() == 5


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
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
    with pytest.raises(RequestError) as caught:
        identify("fashion-mini", arguments)
    assert str(caught.value) == message


def test_a_set_with_its_own_validation_images():
    own = (torch.full((3, 1, 1, 1), 9, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    limited = cut(_numbered(10, validation=own), {"train_limit": 4})
    assert torch.equal(limited.validation_images, own[0])
    with pytest.raises(RequestError, match="brings its own validation images"):
        cut(_numbered(10, validation=own), {"validation": 0.5})


def test_official_facts_need_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path))
    ref = identify("cifar100", {"train_limit": 1000, "validation": 0.1})
    assert tuple(facts(ref)) == ((3, 32, 32), 100, 900, 100, 10000)


def test_arguments_that_were_not_identified_are_refused_by_name():
    with pytest.raises(RequestError, match=r"^data: unknown 'fashion-min'; did you mean 'fashion-mini'\?$"):
        identify("fashion-min")
    assert load(identify("fashion-mini")).outputs == 10
