"""Data order: one permutation an epoch, from its own generator, and what is recorded of it."""

import hashlib
import struct

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunetune.core.seeding import OrderDigest, derive, epoch_order, order_digest


@given(st.integers(0, 2**63 - 1), st.integers(0, 500), st.integers(1, 200))
def test_it_is_a_permutation_and_the_same_again(seed: int, epoch: int, n: int) -> None:
    order = epoch_order(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, epoch_order(seed, epoch, n))


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = {tuple(epoch_order(seed, epoch, 100).tolist()) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_the_callers_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch_order(3, 1, 10)
    assert torch.equal(before, torch.get_rng_state())


def test_a_derived_seed_is_the_start_of_sha256() -> None:
    expected = int(hashlib.sha256(b"order/7/0").hexdigest()[:16], 16) // 2
    assert derive("order", 7, 0) == expected < 2**63


def test_digest_by_hand() -> None:
    digest = OrderDigest()
    digest.update(torch.tensor([2, 0]))
    digest.update(torch.tensor([1]))
    assert digest.hexdigest() == hashlib.sha256(struct.pack("<3q", 2, 0, 1)).hexdigest()


def test_digest_of_whole_epochs() -> None:
    indices = [i for epoch in range(3) for i in epoch_order(5, epoch, 10).tolist()]
    assert order_digest(5, 3, 10) == hashlib.sha256(struct.pack("<30q", *indices)).hexdigest()
    assert order_digest(5, 3, 10) != order_digest(6, 3, 10)
