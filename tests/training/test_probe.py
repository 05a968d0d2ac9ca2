"""Which images a criterion is shown."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.data import Dataset
from prunetune.training.batches import probe_batches, probe_indices

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 3)


@settings(deadline=None, max_examples=30)
@given(images=st.integers(1, 90), seed=st.integers(0, 5))
def test_classes_are_dealt_out_in_turn(images: int, seed: int) -> None:
    found = probe_indices(LABELS, images, seed)
    assert len(found) == len(set(found.tolist())) == min(images, 83)
    counts = Counter(LABELS[found].tolist())
    lasting = [counts[label] for label, size in ((0, 50), (1, 30), (2, 3)) if counts[label] < size]
    assert max(lasting, default=0) - min(lasting, default=0) <= 1
    assert all(counts[label] >= min(size, max(lasting, default=0) - 1) for label, size in ((0, 50), (1, 30), (2, 3)))


def test_the_seed_decides_and_fewer_are_the_first_of_more() -> None:
    random = torch.get_rng_state()
    assert torch.equal(probe_indices(LABELS, 30, 1), probe_indices(LABELS, 30, 1))
    assert not torch.equal(probe_indices(LABELS, 30, 1), probe_indices(LABELS, 30, 2))
    assert torch.equal(probe_indices(LABELS, 30, 1)[:7], probe_indices(LABELS, 7, 1))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("count", "sizes"), [(8, [8]), (9, [5, 4]), (20, [7, 7, 6]), (1, [1])])
def test_batches_are_normalised_and_as_equal_as_can_be(count: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (83, 2, 4, 4), generator=generator, dtype=torch.uint8)
    data = Dataset.of("toy", (images, LABELS), (images, LABELS))
    indices = torch.arange(count) * 3
    batches = probe_batches(data, indices, 8, "cpu")
    assert [len(batch.targets) for _, batch in batches] == sizes
    assert torch.equal(torch.cat([batch.targets for _, batch in batches]), LABELS[indices])
    pixels = images.double() / 255
    normal = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(torch.cat([shown for shown, _ in batches]), normal[indices].float())
