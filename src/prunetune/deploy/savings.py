"""What the pattern `channel` would save, and whether the network can shrink at all, before anything is trained."""

from dataclasses import dataclass

import torch
from torch import nn

from prunetune.deploy.forward import Inputs
from prunetune.deploy.shrink import shrink
from prunetune.deploy.sizes import count
from prunetune.sparsity.choose import prune
from prunetune.sparsity.scope import Scope


@dataclass(frozen=True)
class Savings:
    """MACs of one example as the network is, and without the channels that go at `sparsity`."""

    sparsity: float
    macs: int
    macs_left: int

    @property
    def share(self) -> float:
        """The share of the MACs that goes."""
        return 1 - self.macs_left / self.macs if self.macs else 0.0

    def __str__(self) -> str:
        return f"Channels: at sparsity {self.sparsity:g}, {self.share:.1%} of the multiply-accumulates can go"


def channel_savings(
    model: nn.Module,
    sparsity: float,
    example_inputs: Inputs,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> Savings:
    """What shrinking saves when channels are chosen by magnitude; another choice takes as many of each group.

    The surgery is really done, on copies, and the outputs compared. RequestError as `prune` and `shrink` raise it.
    """
    mask = prune(model, sparsity, pattern="channel", scope=scope, example_inputs=example_inputs)
    small = shrink(model, mask, example_inputs)
    return Savings(sparsity, count(model, example_inputs).macs, count(small, example_inputs).macs)


def images_like(shape: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """Drawn images, always the same, that a network can be tried with."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
