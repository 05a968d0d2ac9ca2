"""The pattern `channel`: whole channels go, with all that belongs to them, so that the network can really shrink."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from prunetune.errors import ConfigError
from prunetune.sparsity.channel_groups import ChannelGroup
from prunetune.sparsity.mask import Mask, largest

_SHOWN = 2  # reasons in one line


def kept_channels(channels: int, density: float) -> int:
    """How many of a group's channels stay: round(density * channels), at least one."""
    return max(1, round(density * channels))


def scored(names: Iterable[str], groups: Sequence[ChannelGroup]) -> tuple[str, ...]:
    """The weights that channels are judged by, `names` and what else groups have, such as the first convolution's."""
    return tuple(dict.fromkeys([*names, *(piece.parameter for group in groups for piece in group.weights)]))


def keep_channels(scores: Mapping[str, Tensor], groups: Sequence[ChannelGroup], density: float) -> Mask:
    """The mask that keeps the `kept_channels` best channels of every group, ties to the lower number.

    `scores` has the full shape of every weight in `scored`; a channel all of whose weights score minus infinity was
    pruned before. The mask names these weights, and of the groups' biases and batch norms whatever has channels that
    could go. ConfigError where more channels are asked for than survive, and where there is nothing to remove.
    """
    require_channels(groups)
    removed = [~_best(group, scores, density) for group in groups]
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


def _best(group: ChannelGroup, scores: Mapping[str, Tensor], density: float) -> Tensor:
    if group.whole:
        return torch.ones(group.channels, dtype=torch.bool)
    worth, count = channel_scores(group, scores), kept_channels(group.channels, density)
    survivors = int((worth > -torch.inf).sum())
    if count > survivors:
        what = f"it asks for {count} channels of '{group.layer}' where {survivors} survive in `within`"
        raise ConfigError(f"density: {what}")
    return largest(worth, count)
