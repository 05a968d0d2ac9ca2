"""Choosing the weights to keep: criterion, allocation and pattern put together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunetune.errors import ConfigError, unknown
from prunetune.sparsity.allocation import ALLOCATIONS, Allocate
from prunetune.sparsity.argument_checks import as_share, require_module, require_type, wrong_type
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups
from prunetune.sparsity.criteria import CRITERIA, Criterion, Evidence, rounds_of
from prunetune.sparsity.enforce import get_mask, is_held
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.gradients import Batches, Gathered, Loss, gather
from prunetune.sparsity.mask import Mask, keep_top, keep_top_of_all, own_mask
from prunetune.sparsity.model_state import require_ranks
from prunetune.sparsity.patterns import (
    CHANNEL,
    PATTERNS,
    ParentMaskError,
    keep_channels,
    require_density,
    require_layers,
    scored,
)
from prunetune.sparsity.scope import Scope, list_parameters, require_prunable
from prunetune.sparsity.torch_prune import masks_in

GatherEvidence = Callable[[Criterion, Mask | None], Gathered]
"""What a criterion needs beyond the weights, of the network pruned by a mask; see `gradients.gather`."""


def choose(
    weights: Mapping[str, Tensor],
    density: float,
    criterion: Criterion,
    *,
    allocation: str | Allocate = "uniform",
    pattern: str = "unstructured",
    parent_mask: Mask | None = None,
    generator: torch.Generator | None = None,
    gather_evidence: GatherEvidence | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    round_to: int | None = None,
    group_densities: Sequence[float] | None = None,
    zeros_last: bool = False,
) -> Mask:
    """The mask that keeps the share `density`, in (0, 1], of the original number of `weights`, all prunable.

    Layers are scored in sorted order of names, so that a criterion's draws from `generator` (on the CPU) are the same
    in any order of `weights`.

    A criterion of n rounds scores n times, each time by what `gather_evidence` finds under the mask so far, and keeps
    the share ρ0 (density / ρ0)^(r/n) in round r, from ρ0 = the density of `parent_mask`, or 1. Under a pattern other
    than `unstructured`, which has no densities in between, it scores once.

    Args:
        weights: Layer name to weights of any shape.
        density: The kept share; under the pattern `channel`, of the channels of every group.
        criterion: What ranks the weights of a layer.
        allocation: A name of ALLOCATIONS, or the function itself.
        pattern: A name of PATTERNS, or any `N:M`.
        parent_mask: Only weights that it keeps may be kept; counts still refer to the original numbers.
        generator: Where a criterion draws from; None is torch's global generator.
        gather_evidence: Called with the criterion and the mask so far, where the criterion needs more than weights.
        groups: The coupled channels under the pattern `channel`; `weights` are then what `patterns.scored` lists, and
            the mask names biases and batch norms too.
        round_to: Of what the widths of `groups` are multiples; see `patterns.kept_channels`.
        group_densities: The kept share of each group's channels, where it is not `density` in all.
        zeros_last: Weights that are zero rank behind all others of their layer, whatever the criterion; a layer of
            zeros alone is one that was not trained yet.

    Raises:
        ConfigError: For a density out of range, scores that are not finite (as in a diverged run), a criterion that
            needs more than weights and no `gather_evidence`, and unknown names.
        ParentMaskError: For a density that asks for more weights of a layer than survive in `parent_mask`.

    >>> from prunetune.sparsity.criteria import Magnitude
    >>> choose({"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}, 0.5, Magnitude())["w"]
    tensor([False,  True,  True, False])
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density: {density} is not a kept share; it must lie in (0, 1]")
    if not weights:
        raise ConfigError("scope: nothing is prunable; widen it with include patterns")
    _ = PATTERNS[pattern]  # refuses an unknown name
    allocate = ALLOCATIONS[allocation] if isinstance(allocation, str) else allocation
    if isinstance(allocation, str):
        require_density(pattern, allocation, density)
    scoring = _Scoring(weights, criterion, generator, gather_evidence, zeros_last)
    if pattern == "unstructured":
        parent_mask = _before_the_last_round(scoring, density, allocate, parent_mask)
    scores = scoring.among(parent_mask)
    if pattern == CHANNEL and groups is not None:
        return keep_channels(scores, groups, density if group_densities is None else group_densities, round_to)
    mask = _chosen(scores, density, allocate, pattern)
    return own_mask({name: mask[name] for name in weights})


def _chosen(scores: Mapping[str, Tensor], density: float, allocate: Allocate, pattern: str) -> Mask:
    """The mask of scores, minus infinity where nothing may be kept; ParentMaskError where that would be needed."""
    if allocate is ALLOCATIONS["global"] and pattern == "unstructured":  # one threshold; by counts it would be two
        mask = keep_top_of_all(scores, density)
        counts: Mapping[str, int] = {name: int(kept.count_nonzero()) for name, kept in mask.items()}
    else:
        mask, counts = None, allocate(scores, density)
    for name, score in scores.items():
        _require_survivors(name, counts[name], _alive(score))
    mask = mask or PATTERNS[pattern](scores, counts)
    for name, score in scores.items():
        _require_alive(name, pattern, score, mask[name])
    return mask


def compute_mask(
    model: nn.Module,
    sparsity: float,
    criterion: str | Criterion = "magnitude",
    allocation: str = "uniform",
    pattern: str = "unstructured",
    scope: Scope = Scope(),  # noqa: B008 - frozen
    batches: Batches | None = None,
    loss: Loss = F.cross_entropy,
    example_inputs: ExampleInputs | None = None,
    round_to: int | None = None,
) -> Mask:
    """The mask that prunes the share `sparsity` of the prunable weights of `model`. Changes nothing.

    With the uniform allocation a layer of N_l weights keeps round((1 - sparsity) * N_l) (Liu et al. 2021).
    `apply_mask` puts the mask into force.

    Weights that are zero already rank last, whatever the criterion. Where a mask is in force (by `apply_mask` or
    `torch.nn.utils.prune`) only weights which that mask keeps may be kept. `Mask.emptied` names the layers that lose
    all their weights.

    Args:
        model: Any module; its batch-norm buffers and torch's generators stay as they are.
        sparsity: The share of weights to prune, in (0, 1); under the pattern `channel`, of the channels of every group
            of coupled ones.
        criterion: `magnitude`, `random` (from torch's global generator), `snip`, `grasp`, `synflow` or `taylor`, a
            registered name, or a criterion of your own.
        allocation: How the sparsity is spread over layers: `uniform`, `global`, `erk`, or a registered name.
        pattern: Which weights are kept together: `unstructured`, `N:M` such as `2:4`, `channel` (extra
            `prunetune[channels]`), or a registered name. A mask of channels names biases and batch norms too, and
            `deploy.shrink` can take the channels out.
        scope: Which parameters are prunable; see `list_parameters`.
        batches: Pairs (inputs, targets), a few hundred examples in all, for a criterion that needs gradients (`snip`,
            `grasp`, `taylor`; `synflow` for the shape of an input). Inputs are a tensor of shape (batch, ...), or a
            tuple or dict of such.
        loss: Outputs and targets of a batch to their mean loss, a scalar.
        example_inputs: What the model is called with once under the pattern `channel`, to show which channels are
            coupled: a tensor of shape (batch, ...), or a tuple or dict of such.
        round_to: Under the pattern `channel`, of what the number of channels that a group keeps is a multiple, such as
            8; a group with fewer channels keeps all, and of attention heads the width counts. None rounds nothing.

    Returns:
        A mask with a bool tensor for every prunable parameter, under its name and of its shape, on the CPU.

    Raises:
        ConfigError: For an argument that is not as above, nothing prunable, scores that are not finite, and where a
            mask is in force that keeps fewer weights than asked for.

    >>> mask = compute_mask(nn.Linear(10, 10), sparsity=0.8)
    >>> mask.kept, mask.total
    (20, 100)
    """
    require_module(model)
    sparsity = as_share("sparsity", sparsity, "a share of weights to prune", example=0.9)
    _require_names(allocation, pattern)
    _require_round_to(round_to, pattern)
    names = require_prunable(model, scope)
    require_layers(pattern, list_parameters(model, scope))
    coupled = (
        channel_groups(model, example_inputs, scope) if pattern == CHANNEL and example_inputs is not None else None
    )
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in scored(names, coupled or ())}
    require_ranks(weights)
    try:
        return choose(
            weights,
            1 - sparsity,
            _criterion(criterion),
            allocation=allocation,
            pattern=pattern,
            parent_mask=_mask_in_force(model, weights),
            gather_evidence=_gatherer(model, tuple(weights), batches, loss),
            groups=coupled,
            round_to=round_to,
            zeros_last=pattern != CHANNEL,
        )
    except ParentMaskError as error:
        raise ConfigError(f"{error}, which the model holds; call remove_mask first") from error


def _require_names(allocation: object, pattern: object) -> None:
    require_type("allocation", allocation, str, "a name, such as 'uniform'")
    require_type("pattern", pattern, str, "a name, such as 'unstructured' or '2:4'")


def _require_round_to(round_to: object, pattern: str) -> None:
    if round_to is None:
        return
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise wrong_type("round_to", round_to, "a whole number of at least 1, such as 8")
    if pattern != CHANNEL:
        raise ConfigError(f"round_to: {round_to}; pattern '{pattern}' removes no channels; leave it out")


def _criterion(criterion: str | Criterion) -> Criterion:
    if isinstance(criterion, str):
        return CRITERIA[criterion]()
    if isinstance(criterion, type) or not (hasattr(criterion, "needs") and hasattr(criterion, "score")):
        raise wrong_type("criterion", criterion, "a name, such as 'magnitude', or a criterion, such as Magnitude()")
    return criterion


def _mask_in_force(model: nn.Module, weights: Mapping[str, Tensor]) -> Mask | None:
    """What masks that are in force in the model keep of `weights`; None where there is none of them."""
    earlier = dict(get_mask(model)) if is_held(model) else {}
    for name, keep in masks_in(model).items():
        earlier |= {name: keep != 0, f"{name}_orig": keep != 0}
    if earlier.keys().isdisjoint(weights):
        return None
    found = {name: earlier.get(name) for name in weights}
    return own_mask(
        {n: torch.ones(weights[n].shape, dtype=torch.bool) if k is None else k.cpu() for n, k in found.items()}
    )


def _gatherer(model: nn.Module, names: tuple[str, ...], batches: Batches | None, loss: Loss) -> GatherEvidence | None:
    if batches is None:
        return None
    require_type("batches", batches, Iterable, "pairs (inputs, targets), such as a DataLoader or a list of them")
    if not callable(loss):
        raise wrong_type("loss", loss, "a function of (outputs, targets)")
    pairs = tuple(batches)
    return lambda criterion, mask: gather(model, names, criterion, pairs, loss, mask)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """How the weights of a network are scored, once or several times."""

    weights: Mapping[str, Tensor]
    criterion: Criterion
    generator: torch.Generator | None
    gather_evidence: GatherEvidence | None
    zeros_last: bool

    def among(self, parent_mask: Mask | None) -> dict[str, Tensor]:
        """Scores in sorted order of names, minus infinity where `parent_mask` prunes."""
        gathered: Gathered = {}
        if self.gather_evidence is not None and self.criterion.needs > {"weight"}:
            gathered = self.gather_evidence(self.criterion, parent_mask)
        return {name: self._score(name, gathered.get(name, {}), parent_mask) for name in sorted(self.weights)}

    def _score(self, name: str, gathered: Mapping[str, Tensor], parent_mask: Mask | None) -> Tensor:
        kind, weight = type(self.criterion).__name__, self.weights[name].detach().cpu()
        if missing := sorted(self.criterion.needs - {"weight"} - gathered.keys()):
            what = f"{kind} needs {', '.join(missing)}"
            raise ConfigError(f"criterion: {what}; only weights are at hand without `batches`")
        score = self.criterion.score(Evidence(weight, generator=self.generator, **gathered))
        if score.shape != weight.shape:
            raise ConfigError(f"criterion: {kind} scores '{name}' as {tuple(score.shape)}, not {tuple(weight.shape)}")
        if score.numel() and not all(end.isfinite() for end in score.aminmax()):  # a NaN would be both
            raise ConfigError(f"criterion: {kind} scores '{name}' as NaN or infinite; is it diverged?")
        if self.zeros_last:
            score = _zeros_last(score, weight)
        return score if parent_mask is None else _among_survivors(name, score, parent_mask)


def _zeros_last(score: Tensor, weight: Tensor) -> Tensor:
    others = int(weight.count_nonzero())
    if others in (0, weight.numel()) or not score.is_floating_point():
        return score
    return score.masked_fill(weight == 0, torch.finfo(score.dtype).min)


def _before_the_last_round(
    scoring: _Scoring, density: float, allocate: Allocate, parent_mask: Mask | None
) -> Mask | None:
    """The mask after all the criterion's rounds but one, inside `parent_mask`; that itself for a single round."""
    rounds = rounds_of(scoring.criterion)
    whole = max(density, parent_mask.density) if parent_mask is not None else 1.0
    for done in range(1, rounds):
        scores = scoring.among(parent_mask)
        counts = allocate(scores, whole * (density / whole) ** (done / rounds))
        # A layer may have fewer survivors than the mean density of `parent_mask` says.
        parent_mask = keep_top(scores, {name: min(counts[name], _alive(score)) for name, score in scores.items()})
    return parent_mask


def _alive(score: Tensor) -> int:
    """How many weights may be kept."""
    pruned = score.numel() and score.min() == -torch.inf
    return int((score > -torch.inf).sum()) if pruned else score.numel()


def _among_survivors(name: str, score: Tensor, parent_mask: Mask) -> Tensor:
    if name not in parent_mask:
        raise unknown("parent_mask", name, parent_mask)
    if parent_mask[name].shape != score.shape:
        raise ConfigError(
            f"parent_mask: '{name}' has shape {tuple(parent_mask[name].shape)}, the weight {tuple(score.shape)}"
        )
    return score.masked_fill(~parent_mask[name], -torch.inf)


def _require_survivors(name: str, count: int, survivors: int) -> None:
    if count > survivors:
        asked = f"it asks for {count} weights of '{name}'"
        raise ParentMaskError(f"density: {asked} where {survivors} survive in the parent mask")


def _require_alive(name: str, pattern: str, score: Tensor, kept: Tensor) -> None:
    """A pattern may find too few survivors where it needs them, though the layer has enough."""
    if _alive(score) < score.numel() and (kept & (score == -torch.inf)).any():
        needed = f"'{pattern}' needs weights of '{name}'"
        raise ParentMaskError(f"pattern: {needed} in places where none survive in the parent mask")
