"""Invariants of every step, checked while it runs (docs/reference/design.md): a breach is an error, not a warning.

Each rule is a small function of a step and of what came out of it, that says what is wrong with it or None. The
decorator raises InvariantError with that; a rule that holds returns its name, which is stored with the step's metrics.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor, nn

from prunetune.errors import InvariantError
from prunetune.sparsity.allocation import LayerLosses
from prunetune.sparsity.channel_coupling import ChannelGroup
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.patterns import kept_channels
from prunetune.steps.steps import Connect, Prune, Step, Train
from prunetune.training.evaluate import PathScores
from prunetune.training.loop import Trained
from prunetune.training.recipe import TrainingTime

State = Mapping[str, Tensor]
P = ParamSpec("P")
RULES: dict[str, str] = {}  # name of a rule -> what it means, in the order of a step's life

SURELY_MOVED = 20  # so many distinct weights stay in place under a random permutation once in 20! draws


def rule(name: str, meaning: str) -> Callable[[Callable[P, str | None]], Callable[P, str]]:
    """File a check under a name. It tells what is wrong with a step, or None; filed, it raises or returns the name."""
    RULES[name] = meaning

    def decorate(check: Callable[P, str | None]) -> Callable[P, str]:
        @wraps(check)
        def checked(*args: P.args, **kwargs: P.kwargs) -> str:
            if wrong := check(*args, **kwargs):
                raise InvariantError(f"{cast(Step, args[0]).label}: {name}: {wrong}")
            return name

        return checked

    return decorate


@rule(
    "initialiser seeded",
    "The seed decides the initial weights: drawn twice they are equal, and another seed gives others.",
)
def initialiser_seeded(step: Step, first: State, again: State, other: State) -> str | None:
    """Compare two draws by the step's seed and one by another; constant tensors such as biases may agree."""
    if digest_tensors(first) != digest_tensors(again):
        return "two draws by the same seed differ; weights must come from torch's global CPU generator alone"
    drawn = [name for name, tensor in first.items() if tensor.dim() >= 2]
    if all(torch.equal(first[name], other[name]) for name in drawn):
        return "two draws by different seeds are the same; the seed does not reach the initialiser"
    return None


@rule(
    "start as stored", "A training starts from the stored weights under its mask, bit for bit, and from zero elsewhere."
)
def starts_as_stored(step: Step, start_digest: str, stored: State, mask: Mask | None, model: nn.Module) -> str | None:
    """Compare the live state before the first optimizer step with the files, masked here once more."""
    expected = digest_tensors(masked(stored, mask, model))
    return (
        None if start_digest == expected else "the weights before the first step are not the stored ones under the mask"
    )


@rule("zeros stay zero", "Pruned weights are exactly zero after every optimizer step.")
def zeros_stay(step: Step, trained: Trained, mask: Mask) -> str | None:
    """The count that the training kept at every step, and the final state itself."""
    if trained.revived:
        return f"{trained.revived} pruned positions were found non-zero after optimizer steps"
    left = sum(int((trained.state[name][~kept] != 0).sum()) for name, kept in mask.items())
    return f"{left} pruned positions are not zero in the final state" if left else None


@rule("density", "The density measured after the last step is the mask's.")
def density_is_the_masks(step: Step, trained: Trained, mask: Mask) -> str | None:
    """A kept weight that is exactly zero by itself counts as kept: it was free to move."""
    measured = trained.density
    if measured is None or round(measured * mask.total) > mask.kept:
        return f"density {measured} after the last step, {mask.kept} of {mask.total} weights are kept by the mask"
    idle = sum(int((trained.state[name][kept] == 0).sum()) for name, kept in mask.items())
    if round(measured * mask.total) not in (mask.kept, mask.kept - idle):
        return f"density {measured} after the last step; {mask.kept} weights are kept and {idle} of them are zero"
    return None


@rule(
    "snapshots are copies",
    "States that are kept share no memory with the live network, and those for rewinding are not its end.",
)
def snapshots_are_copies(
    step: Step, trained: Trained, points: Collection[TrainingTime], model: nn.Module
) -> str | None:
    """Aliased rewinds: theta_k that followed the training to theta_T, and would make `rewind` another `finetune`."""
    states = [dict(model.state_dict()), trained.state, *trained.snapshots.values()]
    if sum(map(len, map(_memories, states))) > len(set[int]().union(*map(_memories, states))):
        return "a kept state shares memory with the live network or with another state"
    if missing := set(points) - set(trained.snapshots):
        return f"no state was kept at {min(map(str, missing))}"
    for point, state in trained.snapshots.items():
        taken = point.step(trained.steps // max(trained.epochs, 1))
        if taken == 0 and digest_tensors(state) != trained.start_digest:
            return f"the state at {point} is not the start"
        still = all(torch.equal(state[name], trained.state[name]) for name, _ in model.named_parameters())
        if taken < trained.steps and still:
            return f"the state at {point} is the final one, though the training went on after it"
    return None


@rule("ranks agree", "The devices that share a training end with the same weights, bit for bit.")
def ranks_agree(step: Step, trained: Trained) -> str | None:
    """Replicas that drift apart train another network each, and only one of them is stored."""
    return f"{trained.diverged_ranks} ranks have other weights than the first" if trained.diverged_ranks else None


@rule("source finite", "A mask is chosen from finite weights, never from a diverged training.")
def source_is_finite(step: Step, weights: State) -> str | None:
    """A second look after the `diverged` flag: weights that are not numbers rank anywhere."""
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    return f"'{broken[0]}' holds weights that are not finite; the training that left them diverged" if broken else None


@rule("mask nested", "A round's mask keeps only weights that the round before kept.")
def mask_is_nested(step: Step, mask: Mask, within: Mask) -> str | None:
    """`within` is the previous round's mask."""
    revived = sum(int((kept & ~within[name]).sum()) for name, kept in mask.items())
    return f"{revived} weights are kept that the previous mask prunes" if revived else None


@rule(
    "mask counts",
    "A mask keeps round(density · N) weights: of every layer (uniform), or in all. Under N:M, N in every group; under "
    "`channel`, that share of the channels of every coupled group, at least one, in all its layers alike.",
)
def mask_counts(
    step: Prune,
    mask: Mask,
    groups: Sequence[ChannelGroup] | None = None,
    densities: Sequence[float] | None = None,
    losses: LayerLosses | None = None,
) -> str | None:
    """N is the original number of weights, whatever earlier rounds have pruned."""
    if groups is not None:
        return next(_wrong_channels(step, densities or [step.density] * len(groups), mask, groups), None)
    if losses is not None:
        asked = losses.counts(mask, step.density)
        wrong = (name for name, kept in mask.items() if int(kept.sum()) != asked[name])
        return next(
            (f"'{name}' keeps other than the {asked[name]} weights that were asked for" for name in wrong), None
        )
    sizes = {name: (int(kept.sum()), kept.numel()) for name, kept in mask.items()}
    if step.allocation != "uniform":
        sizes = {"all layers": (mask.kept, mask.total)}
    for name, (kept, total) in sizes.items():
        if kept != round(step.density * total):
            return f"'{name}' keeps {kept} of {total} weights; {round(step.density * total)} were asked for"
    return _uneven_group(step.pattern, mask) if ":" in step.pattern else None


@rule("shuffle permutes", "The shuffle control holds each layer's surviving values in another order, and nothing else.")
def shuffle_permutes(step: Train, plain: State, shuffled: State, mask: Mask) -> str | None:
    """Shuffles of a copy: values permuted somewhere, and the training started from the unshuffled ones."""
    for name, tensor in plain.items():
        before, after = tensor, shuffled[name]
        if name in mask:
            kept = mask[name]
            before, after = tensor[kept].sort().values, shuffled[name][kept].sort().values
            if len(before.unique()) >= SURELY_MOVED and torch.equal(tensor[kept], shuffled[name][kept]):
                return f"'{name}' is not permuted"
        if not torch.equal(before, after):
            return f"'{name}' holds other values than before the shuffle"
    return None


@rule(
    "signs kept",
    "The sign_reinit control starts from theta_0' with the signs of theta_0 in every weight, and nothing else changed.",
)
def signs_are_kept(step: Train, plain: State, start: State, signs: State) -> str | None:
    """Signs that were never taken over, or magnitudes with them. Biases and other vectors have no part in it."""
    for name, tensor in plain.items():
        weight = tensor.dim() >= 2 and tensor.is_floating_point()
        expected = torch.where(torch.signbit(signs[name]), -tensor.abs(), tensor.abs()) if weight else tensor
        if not torch.equal(start[name], expected):
            return f"'{name}' is not the second draw with the signs of theta_0" if weight else f"'{name}' is changed"
    return None


@rule(
    "mixed as asked",
    "The mixed control starts from alpha·theta_0 + √(1 − alpha²)·theta_0' wherever the two draws differ, and from what "
    "they have in common elsewhere.",
)
def mixed_as_asked(step: Train, plain: State, start: State, other: State, alpha: float) -> str | None:
    """An alpha that is ignored; constants (scales, running statistics) that are mixed; weights that are not."""
    for name, own in plain.items():
        drawn = own != other[name] if own.is_floating_point() else torch.zeros_like(own, dtype=torch.bool)
        expected = alpha * other[name][drawn].double() + (1 - alpha**2) ** 0.5 * own[drawn].double()
        rounding = torch.finfo(own.dtype if own.is_floating_point() else torch.float32)
        room = rounding.eps * expected.abs() + rounding.tiny  # one rounding
        if bool(((start[name][drawn].double() - expected).abs() > room).any()):
            return f"'{name}' is not {alpha:g} parts of theta_0 and the rest of theta_0'"
        if not torch.equal(start[name][~drawn], own[~drawn]):
            return f"'{name}' is changed where both draws agree"
    return None


@rule(
    "ends are twins",
    "The two ends of a line are trainings from one start under one mask, which saw the data in different orders.",
)
def ends_are_siblings(step: Connect, first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """A sibling run that is the training itself would prove any network connected; one from elsewhere, none."""
    for digest, what in (("start_digest", "start"), ("mask_digest", "mask")):
        if first.get(digest) != second.get(digest):
            return f"its ends have not the same {what}"
    return "its ends saw the same data order" if first["data_order_digest"] == second["data_order_digest"] else None


@rule("zeros on the line", "Pruned weights are exactly zero in every network on the line between two finals.")
def zeros_on_the_line(step: Connect, line: PathScores) -> str | None:
    """Counted in the live network that is scored."""
    for alpha, revived in zip(line.alpha, line.revived, strict=True):
        if revived:
            return f"{revived} pruned positions are not zero at alpha = {alpha:g}"
    return None


def masked(state: State, mask: Mask | None, model: nn.Module) -> dict[str, Tensor]:
    """The stored state with zeros where the mask prunes, under every name of a tied weight; not `Mask.apply`'s code."""
    if mask is None:
        return dict(state)
    kept = {other: mask[name] for name, others in tied_names(model, mask).items() for other in others}
    return {name: torch.where(kept[name], t, torch.zeros_like(t)) if name in kept else t for name, t in state.items()}


def tied_names(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """For each parameter, all the names under which the state dict holds it."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    own = dict(parameters)
    return {name: [other for other, parameter in parameters if parameter is own[name]] for name in names}


def _uneven_group(pattern: str, mask: Mask) -> str | None:
    """The first layer with a group of M inputs, channels running fastest, that keeps another number than N."""
    few, size = map(int, pattern.split(":"))
    for name, kept in mask.items():
        inputs = kept.flatten(2).transpose(1, 2) if kept.dim() > 2 else kept
        uneven = int((inputs.flatten().unfold(0, size, size).sum(1) != few).sum())
        if uneven:
            return f"'{name}': {uneven} groups of {size} inputs do not keep {few}"
    return None


def _wrong_channels(
    step: Prune, densities: Sequence[float], mask: Mask, groups: Sequence[ChannelGroup]
) -> Iterator[str]:
    """What is wrong with the groups of coupled channels, looked up in the mask's own bits."""
    for group, density in zip(groups, densities, strict=True):
        kept = torch.zeros(group.channels, dtype=torch.bool)
        along = [(piece, _any_along(mask[piece.parameter], piece.dim)[piece.places]) for piece in group.pieces]
        for piece, seen in along:
            kept[piece.channels] |= seen
        if torn := [piece.parameter for piece, seen in along if not torch.equal(seen, kept[piece.channels])]:
            yield f"'{torn[0]}' keeps other channels than '{group.layer}', with which it is coupled"
        asked = kept_channels(group, density, step.round_to)
        if not group.whole and int(kept.sum()) != asked:
            yield f"'{group.layer}' keeps {int(kept.sum())} of {group.channels} channels; {asked} were asked for"
    for name, tensor in mask.items():
        sides = [_any_along(tensor, dim).sum() for dim in range(tensor.dim())]
        if int(tensor.sum()) != torch.stack(sides).prod():
            yield f"'{name}' has holes in the channels that are kept"


def _any_along(tensor: Tensor, dim: int) -> Tensor:
    """Whether anything is kept at each position of a dimension."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1).any(1)


def _memories(state: State) -> set[int]:
    """The distinct pieces of memory that a state lies in."""
    return {tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()}
