"""Seeds for each purpose, derived from a study's, and the order of images: a permutation an epoch, one for a seed."""

import hashlib

import torch
from torch import Tensor


def derive(*parts: object) -> int:
    """A seed for what `parts` name: the first 63 bits of SHA-256 of their texts, joined by `/`.

    A study derives one for each purpose from each of its own seeds: `derive(seed, "init")`.

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "reinit")
    (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator of its own, seeded by `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


def epoch_order(order_seed: int, epoch: int, n: int) -> Tensor:
    """The permutation of 0 .. n-1 for `epoch`, counted from 0: int64, shape (n,)."""
    return torch.randperm(n, generator=generator("order", order_seed, epoch))


class OrderDigest:
    """SHA-256 over the example indices in the order in which they were used, each as 8 little-endian bytes."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, indices: Tensor) -> None:
        """Take in the next indices, int64 of shape (count,) on any device."""
        self._sha256.update(indices.cpu().numpy().astype("<i8").tobytes())

    def hexdigest(self) -> str:
        """64 hexadecimal digits for all indices so far."""
        return self._sha256.hexdigest()


def order_digest(order_seed: int, epochs: int, n: int) -> str:
    """The digest that a training of `epochs` whole epochs on `n` images must record."""
    digest = OrderDigest()
    for epoch in range(epochs):
        digest.update(epoch_order(order_seed, epoch, n))
    return digest.hexdigest()
