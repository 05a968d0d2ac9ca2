"""Batched augmentation against the same done image by image."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunetune.training.augment import AUGMENTATIONS, EpochAugmentation, augmented, crop, flip
from tests.support.refusals import refused
from tests.support.train_makers import slow_crop, slow_flip

CPU = torch.device("cpu")


def changed(images: Tensor, names: tuple[str, ...], seed: int, epoch: int) -> Tensor:
    """The images as a whole epoch."""
    draws = EpochAugmentation(names, seed, epoch, len(images), CPU).draws(0, len(images))
    return augmented(images, names, draws)


def noise(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(1, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(0)).byte()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(3, 9), st.integers(3, 9), st.integers(0, 1000))
def test_crop_and_flip_image_by_image(n: int, channels: int, height: int, width: int, seed: int) -> None:
    images = noise(n, channels, height, width)
    source = torch.Generator().manual_seed(seed)
    corners, chosen = (AUGMENTATIONS[name].draw(n, source) for name in ("crop", "flip"))
    expected = torch.stack([slow_crop(im, *c) for im, c in zip(images, corners.tolist(), strict=True)])
    assert torch.equal(crop(images, corners), expected)
    expected = torch.stack([slow_flip(im) if c else im for im, c in zip(images, chosen.tolist(), strict=True)])
    assert torch.equal(flip(images, chosen), expected)


def test_crop_by_hand() -> None:
    image = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    moved = {
        (4, 4): [[1, 2], [3, 4]],
        (5, 4): [[3, 4], [0, 0]],
        (4, 3): [[0, 1], [0, 3]],
        (0, 0): [[0, 0], [0, 0]],
    }
    for corner, expected in moved.items():
        assert crop(image, torch.tensor([corner]))[0, 0].tolist() == expected


def test_the_images_given_are_not_changed() -> None:
    images = noise(3, 1, 4, 4)
    before = images.clone()
    result = changed(images, ("crop", "flip"), 0, 0)
    result.zero_()
    assert torch.equal(images, before)


def test_draws_cover_all_shifts_and_about_half_the_flips() -> None:
    source = torch.Generator().manual_seed(3)
    corners = Counter(map(tuple, AUGMENTATIONS["crop"].draw(8100, source).tolist()))
    assert set(corners) == {(row, column) for row in range(9) for column in range(9)}
    assert max(corners.values()) < 160  # 100 expected, deviation 10
    assert 4700 < int(AUGMENTATIONS["flip"].draw(10_000, source).sum()) < 5300


def test_a_batch_uses_the_draws_of_its_place_in_the_epoch() -> None:
    images = noise(10, 2, 6, 6)
    names = ("crop", "flip")
    epoch = EpochAugmentation(names, 4, 2, 10, CPU)
    parts = [augmented(images[i:j], names, epoch.draws(i, j)) for i, j in ((0, 4), (4, 8), (8, 10))]
    assert torch.equal(changed(images, names, 4, 2), torch.cat(parts))


def test_draws_of_one_do_not_depend_on_the_other() -> None:
    images = noise(40, 1, 6, 6)
    crops = changed(images, ("crop",), 4, 2)
    assert torch.equal(changed(images, ("crop", "flip"), 4, 2), changed(crops, ("flip",), 4, 2))


@pytest.mark.parametrize(("seed", "epoch"), [(5, 2), (4, 3)])
def test_seed_and_epoch_change_the_draws(seed: int, epoch: int) -> None:
    images = noise(40, 1, 6, 6)
    first, other = (changed(images, ("crop",), *pair) for pair in ((4, 2), (seed, epoch)))
    assert not torch.equal(first, other)


def test_unknown_augmentation() -> None:
    with refused("augment", "flop", "flip"):
        EpochAugmentation(("flop",), 0, 0, 1, CPU)
