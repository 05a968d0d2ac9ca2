"""Batches: normalised, complete, in the recorded order."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prunetune.core.seeding import epoch_order, order_digest
from prunetune.data import Dataset
from prunetune.training.batches import TrainingBatches
from tests.support.train_makers import COUNT, RECIPE, dataset

CPU = torch.device("cpu")


def batches_of(feed: TrainingBatches, epoch: int) -> list[tuple[Tensor, Tensor]]:
    return [feed.gather(batch) for batch in feed.epoch(epoch)]


def test_normalised_by_hand() -> None:
    images = torch.tensor([[0, 51], [102, 255]]).byte().view(1, 2, 2, 1)  # two channels of two pixels
    data = replace(dataset(), train_images=images, mean=(0.1, 0.5), std=(0.2, 0.25))
    expected = torch.tensor([[-0.5, 0.5], [-0.4, 2.0]]).view(1, 2, 2, 1)
    torch.testing.assert_close(data.preparation(CPU)(images), expected)


def test_the_training_set_has_mean_0_and_deviation_1() -> None:
    data = dataset()
    inputs = data.preparation(CPU)(data.train_images)
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_floating_images_are_used_as_they_are() -> None:
    images = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    data = Dataset.of("given", (images, labels), (images, labels))
    assert torch.equal(data.preparation(CPU)(images), images.float())


def test_an_epoch_has_every_image_once_with_its_label() -> None:
    data = dataset()
    feed = TrainingBatches(data, RECIPE, order_seed=7, augment_seed=8, device=CPU)
    batches = batches_of(feed, 1)
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert feed.steps_per_epoch == 4
    order = epoch_order(7, 1, COUNT)
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.train_labels[order])
    expected = data.preparation(CPU)(data.train_images[order])
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_the_digest_is_of_what_was_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = TrainingBatches(dataset(), RECIPE, order_seed=7, augment_seed=8, device=CPU)
    for epoch in range(2):
        batches_of(feed, epoch)
    assert feed.used.hexdigest() == order_digest(7, 2, COUNT)
    monkeypatch.setattr(
        "prunetune.training.batches.epoch_order", lambda seed, epoch, n: torch.arange(n)
    )  # the classic bug
    unshuffled = TrainingBatches(dataset(), RECIPE, order_seed=7, augment_seed=8, device=CPU)
    for epoch in range(2):
        batches_of(unshuffled, epoch)
    assert unshuffled.used.hexdigest() != order_digest(7, 2, COUNT)


def test_the_data_are_not_changed_by_an_augmented_epoch() -> None:
    data = dataset()
    before = data.train_images.clone()
    batches_of(
        TrainingBatches(data, replace(RECIPE, augment=("crop", "flip")), order_seed=1, augment_seed=2, device=CPU), 0
    )
    assert torch.equal(data.train_images, before)
