"""What the pattern `channel` would save, and whether the network can shrink at all, before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from prunetune.deploy.channel_surgery import shrink
from prunetune.deploy.forward import Inputs
from prunetune.deploy.sizes import count
from prunetune.sparsity.channel_groups import channel_groups
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope

_LITTLE = 0.1  # a share of the multiply-accumulates below which the reasons are told
_SHOWN = 3


@dataclass(frozen=True)
class Savings:
    """MACs of one example as the network is, and without the channels that go at `sparsity`.

    `whole` has the layers whose channels all stay, and why.
    """

    sparsity: float
    macs: int
    macs_left: int
    whole: Mapping[str, str]

    @property
    def share(self) -> float:
        """The share of the MACs that goes."""
        return 1 - self.macs_left / self.macs if self.macs else 0.0

    def __str__(self) -> str:
        line = f"Channels: at sparsity {self.sparsity:g}, {self.share:.1%} of the multiply-accumulates can go"
        if self.share >= _LITTLE or not self.whole:
            return line
        reasons = [f"'{layer}': {why}" for layer, why in self.whole.items()]
        more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
        return f"{line}; whole stay {'; '.join([*reasons[:_SHOWN], *more])}"


def channel_savings(
    model: nn.Module,
    sparsity: float,
    example_inputs: Inputs,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> Savings:
    """What shrinking saves when channels are chosen by magnitude; another choice takes as many of each group.

    The surgery is really done, on copies, and outputs are compared. ConfigError as `compute_mask` and `shrink` say.
    """
    mask = compute_mask(model, sparsity, pattern="channel", scope=scope, example_inputs=example_inputs)
    small = shrink(model, mask, example_inputs)
    whole = {group.layer: group.whole for group in channel_groups(model, example_inputs, scope) if group.whole}
    return Savings(sparsity, count(model, example_inputs).macs, count(small, example_inputs).macs, whole)


def images_like(shape: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """Drawn images, always the same, that a network can be tried with."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
