"""Patterns: which weights may be kept together: any, N of every M neighbours, or whole channels."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from prunetune.core.registry import Registry
from prunetune.errors import ConfigError
from prunetune.sparsity.allocation import SENSITIVITY
from prunetune.sparsity.channel_coupling import ChannelGroup
from prunetune.sparsity.mask import Mask, keep_top
from prunetune.sparsity.scope import INPUTS_FIRST, ScopeRow
from prunetune.sparsity.selection import largest

Select = Callable[[Mapping[str, Tensor], Mapping[str, int]], Mask]
"""Scores and kept counts per layer to a mask with exactly these counts: the highest scores that the pattern allows."""

CHANNEL = "channel"
TOLERANCE = 1e-9  # of a density written in decimals: 1:3 is 0.333333333


class ParentMaskError(ConfigError):
    """More weights are asked for than survive in the mask that a new one must lie within."""


@dataclass(frozen=True)
class Groups:
    """N:M (Zhou et al. 2021; 2:4 is what NVIDIA's sparse tensor cores take): in every group of M, the N highest scores.

    A group is M neighbours along the inputs of one output. The inputs of a convolution come in the order kernel
    position (row-major), then input channel, the channel running fastest: that of a channels-last matrix product, so
    that with channels in multiples of M a group is M channels at one kernel position. Dimension 1 of a weight is its
    input channels (of a transposed convolution: its outputs); a tensor of one dimension is the inputs of one output.
    Ties go to the earlier input.

    The pattern fixes the density of every layer at N/M, so that it leaves nothing to an allocation.
    """

    kept: int
    size: int

    @classmethod
    def named(cls, name: object) -> Optional["Groups"]:
        """The pattern of a name such as `2:4`, 0 < N < M; None for any other name."""
        found = re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", str(name))
        groups = cls(int(found[1]), int(found[2])) if found else None
        return groups if groups and groups.kept < groups.size else None

    def __str__(self) -> str:
        return f"{self.kept}:{self.size}"

    @property
    def density(self) -> float:
        """The kept share of every layer."""
        return self.kept / self.size

    def __call__(self, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
        """The mask; ConfigError for counts other than N/M of each layer, and for inputs that M does not divide."""
        self.require_shapes({name: tuple(score.shape) for name, score in scores.items()})
        for name, score in scores.items():
            if counts[name] * self.size != score.numel() * self.kept:
                asked = f"{counts[name]} of the {score.numel()} weights of '{name}' were asked for"
                raise ConfigError(f"pattern: '{self}' keeps {self.kept} of every {self.size}, and {asked}")
        return Mask({name: self._of(score.detach().cpu()) for name, score in scores.items()})

    def require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """ConfigError for the layers, all of them, whose number of inputs is no multiple of M."""
        inputs = {name: torch.Size(shape[1:] or shape).numel() for name, shape in shapes.items()}
        odd = [f"'{name}' has {count}" for name, count in inputs.items() if count % self.size]
        if odd:
            what = f"'{self}' needs inputs in groups of {self.size}; {', '.join(odd)}"
            raise ConfigError(f"pattern: {what}: leave {'it' if len(odd) == 1 else 'them'} out with scope.exclude")

    def _of(self, score: Tensor) -> Tensor:
        rows = score.movedim(1, -1) if score.dim() > 1 else score
        best = rows.reshape(-1, self.size).sort(dim=1, descending=True, stable=True).indices[:, : self.kept]
        kept = torch.zeros(score.numel() // self.size, self.size, dtype=torch.bool).scatter_(1, best, True)
        kept = kept.reshape(rows.shape)
        return kept.movedim(-1, 1) if score.dim() > 1 else kept


class Patterns(Registry[Select]):
    """The registered patterns, and every N:M by its name.

    >>> PATTERNS["3:8"], "4:2" in PATTERNS
    (Groups(kept=3, size=8), False)
    """

    def __getitem__(self, name: str) -> Select:
        """The pattern called `name`; ConfigError with the nearest known name when there is none."""
        return Groups.named(name) or super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return Groups.named(name) is not None or super().__contains__(name)


PATTERNS = Patterns("pattern")
"""Patterns by name: scores and kept counts to a mask with these counts; any `N:M` is one."""
PATTERNS.register("2:4")(Groups(2, 4))
PATTERNS.register("1:4")(Groups(1, 4))


@PATTERNS.register("unstructured")
def unstructured(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """Any position: the highest scores of every layer, ties to the lower flat index."""
    return keep_top(scores, counts)


@PATTERNS.register(CHANNEL)
def channel(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """Whole channels (`keep_channels`): what belongs to one is not to be seen in scores and counts of layers."""
    raise ConfigError("pattern: 'channel' needs to see the model run; give example_inputs")


def require_layers(pattern: str, rows: Iterable[ScopeRow]) -> None:
    """ConfigError where the prunable layers of a survey do not have the pattern's groups, with all of them."""
    select = PATTERNS[pattern]
    if not isinstance(select, Groups):
        return
    prunable = [row for row in rows if row.prunable]
    if odd := [f"'{row.name}'" for row in prunable if row.reason == INPUTS_FIRST]:
        what = f"'{pattern}' groups the inputs of one output, which in {', '.join(odd)} are no neighbours (Conv1D)"
        raise ConfigError(f"pattern: {what}: leave {'it' if len(odd) == 1 else 'them'} out with scope.exclude")
    select.require_shapes({row.name: row.shape for row in prunable})


def require_density(pattern: str, allocation: str, density: float) -> None:
    """ConfigError where the pattern fixes the density or the share of every layer, and something else is asked for."""
    select = PATTERNS[pattern]
    if pattern == CHANNEL and allocation not in ("uniform", SENSITIVITY):
        what = f"'{allocation}' has no say under pattern '{pattern}'; it must be 'uniform' or '{SENSITIVITY}'"
        raise ConfigError(f"allocation: {what}")
    if isinstance(select, Groups) and allocation != "uniform":
        raise ConfigError(f"allocation: '{allocation}' has no say under pattern '{pattern}'; it must be 'uniform'")
    if not isinstance(select, Groups):
        return
    if abs(density - select.density) > TOLERANCE:
        only = f"its only sparsity is {1 - select.density:.9g}"
        raise ConfigError(f"pattern: '{pattern}' at sparsity {1 - density:.9g}; {only}")


_SHOWN = 2  # reasons in one line


def kept_channels(group: ChannelGroup, density: float, round_to: int | None = None) -> int:
    """How many of a group's channels stay: round(density * channels), at least one.

    With `round_to` it is the nearest such number, of two the larger, at which the width is a multiple; all of a group
    that is not as wide as one multiple.
    """
    count = max(1, round(density * group.channels))
    if round_to is None:
        return count
    step = round_to // math.gcd(round_to, group.width)  # of a head, of which one is wider than `round_to`, 1
    most = group.channels - group.channels % step
    return min(max((2 * count + step) // (2 * step) * step, step), most) if most else group.channels


def weights_with(group: ChannelGroup) -> int:
    """How many weights of convolutions and linear layers go with all channels of a group."""
    return sum(len(piece.places) * math.prod(piece.shape) // piece.shape[piece.dim] for piece in group.weights)


def scored(names: Iterable[str], groups: Sequence[ChannelGroup]) -> tuple[str, ...]:
    """The weights that channels are judged by, `names` and what else groups have, such as the first convolution's."""
    return tuple(dict.fromkeys([*names, *(piece.parameter for group in groups for piece in group.weights)]))


def keep_channels(
    scores: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    density: float | Sequence[float],
    round_to: int | None = None,
) -> Mask:
    """The mask that keeps the `kept_channels` best channels of every group, ties to the lower number.

    `density` is that of all groups, or one for each.

    `scores` has the full shape of every weight in `scored`; a channel all of whose weights score minus infinity was
    pruned before. The mask names these weights, and of the groups' biases and batch norms whatever has channels that
    could go. ConfigError where more channels are asked for than survive, and where there is nothing to remove.
    """
    require_channels(groups)
    densities = [density] * len(groups) if isinstance(density, float | int) else density
    removed = [~_best(group, scores, own, round_to) for group, own in zip(groups, densities, strict=True)]
    return without(groups, removed, {name: score.shape for name, score in scores.items()})


def require_channels(groups: Sequence[ChannelGroup]) -> None:
    """ConfigError where all groups are kept whole, with the reasons of the first."""
    if all(group.whole for group in groups):
        reasons = [f"'{group.layer}': {group.whole}" for group in groups]
        more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
        why = "; ".join([*reasons[:_SHOWN], *more]) or "it has no convolution or linear layer"
        raise ConfigError(f"pattern: 'channel' finds no channel in this model that could go ({why})")


def channel_scores(group: ChannelGroup, scores: Mapping[str, Tensor]) -> Tensor:
    """What each channel is worth, (channels,) in double precision; minus infinity for one that was pruned before.

    The sum over the group's convolutions and linear layers of the scores of all weights that would go with the channel
    (its filter, the slices of the layers that read it), as a share of the layer's sum of absolute scores, so that
    layers of other sizes and scales count alike.
    """
    worth = torch.zeros(group.channels, dtype=torch.float64)
    alive = torch.zeros(group.channels, dtype=torch.bool)
    for piece in group.weights:
        score = scores[piece.parameter].double()
        survives = score > -torch.inf
        score = score.masked_fill(~survives, 0)
        others = [dim for dim in range(score.dim()) if dim != piece.dim]
        total = score.abs().sum()
        worth.index_add_(0, piece.channels, score.sum(others)[piece.places] / (total if total else 1))
        alive[piece.channels[survives.sum(others)[piece.places] > 0]] = True
    return worth.masked_fill(~alive, -torch.inf)


def without(groups: Sequence[ChannelGroup], removed: Sequence[Tensor], shapes: Mapping[str, Sequence[int]]) -> Mask:
    """The mask in which of each group the channels `removed`, (channels,) of bool, are pruned.

    It names the tensors of `shapes` and every parameter that belongs to a group.
    """
    kept = {name: torch.ones(tuple(shape), dtype=torch.bool) for name, shape in shapes.items()}
    for group, gone in zip(groups, removed, strict=True):
        for piece in group.pieces:
            tensor = kept.setdefault(piece.parameter, torch.ones(piece.shape, dtype=torch.bool))
            tensor.index_fill_(piece.dim, piece.places[gone[piece.channels]], False)
    return Mask(kept)


def _best(group: ChannelGroup, scores: Mapping[str, Tensor], density: float, round_to: int | None) -> Tensor:
    if group.whole:
        return torch.ones(group.channels, dtype=torch.bool)
    worth, count = channel_scores(group, scores), kept_channels(group, density, round_to)
    survivors = int((worth > -torch.inf).sum())
    if count > survivors:
        asked = f"it asks for {count} channels of '{group.layer}'"
        raise ParentMaskError(f"density: {asked} where {survivors} survive in the parent mask")
    return largest(worth, count)
