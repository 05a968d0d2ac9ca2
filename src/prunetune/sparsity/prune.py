"""Choosing the weights to keep: criterion, allocation and pattern put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunetune.errors import ConfigError, shown, unknown
from prunetune.sparsity.allocation import ALLOCATIONS, Allocate
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups
from prunetune.sparsity.criteria import CRITERIA, Criterion, Evidence, rounds_of
from prunetune.sparsity.enforce import get_mask, is_held
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.gradients import Batches, Gathered, Loss, gather
from prunetune.sparsity.mask import Mask, keep_top
from prunetune.sparsity.model_state import require_ranks
from prunetune.sparsity.patterns import CHANNEL, PATTERNS, keep_channels, require_density, require_layers, scored
from prunetune.sparsity.scope import Scope, list_parameters, require_prunable
from prunetune.sparsity.torch_prune import masks_in

Look = Callable[[Criterion, Mask | None], Gathered]
"""What a criterion needs beyond the weights, of the network pruned by a mask; see `gradients.gather`."""


def choose(
    weights: Mapping[str, Tensor],
    density: float,
    criterion: Criterion,
    allocation: str | Allocate = "uniform",
    pattern: str = "unstructured",
    within: Mask | None = None,
    generator: torch.Generator | None = None,
    look: Look | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    zeros_last: bool = False,
) -> Mask:
    """The mask that keeps the share `density`, in (0, 1], of the original number of `weights`, all prunable.

    Only weights that `within` keeps may be kept; counts still refer to the original numbers. Layers are scored in
    sorted order of names, so that a criterion's draws from `generator` (on the CPU) are the same in any
    order of `weights`.

    A criterion of n rounds scores n times, each time by what `look` finds under the mask so far, and keeps the share
    ρ0 (density / ρ0)^(r/n) in round r, from ρ0 = the density of `within`, or 1. Under a pattern other than
    `unstructured`, which has no densities in between, it scores once.

    With `zeros_last`, weights that are zero rank behind all others of their layer, whatever the criterion; a layer of
    zeros alone is one that was not trained yet.

    Under the pattern `channel`, `density` is the kept share of the channels of every one of `groups`, and `weights` are
    what `patterns.scored` lists; the mask names biases and batch norms too.

    ConfigError for a density out of range, scores that are not finite (as in a diverged run), a criterion that needs
    more than weights and no `look`, unknown names, and a density that asks for more weights of a layer than survive
    in `within`.

    >>> from prunetune.sparsity.criteria import Magnitude
    >>> choose({"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}, 0.5, Magnitude())["w"]
    tensor([False,  True,  True, False])
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density: {density} is not a kept share; it must lie in (0, 1]")
    if not weights:
        raise ConfigError("scope: nothing is prunable; widen it with include patterns")
    select = PATTERNS[pattern]
    allocate = ALLOCATIONS[allocation] if isinstance(allocation, str) else allocation
    if isinstance(allocation, str):
        require_density(pattern, allocation, density)
    scoring = _Scoring(weights, criterion, generator, look, zeros_last)
    if pattern == "unstructured":
        within = _before_the_last_round(scoring, density, allocate, within)
    scores = scoring.among(within)
    if pattern == CHANNEL and groups is not None:
        return keep_channels(scores, groups, density)
    counts = allocate(scores, density)
    for name, score in scores.items():
        _require_survivors(name, counts[name], _alive(score))
    mask = select(scores, counts)
    for name, score in scores.items():
        _require_alive(name, pattern, score, mask[name])
    return Mask({name: mask[name] for name in weights})


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
) -> Mask:
    """The mask that prunes the share `sparsity`, in (0, 1), of the prunable weights of `model`. Changes nothing.

    With the uniform allocation a layer of N_l weights keeps round((1 - sparsity) * N_l). `apply_mask` puts the
    mask into force. The criterion `random` draws from torch's global generator.

    Weights that are zero already rank last, whatever the criterion. Where a mask is in force (by `apply_mask` or
    `torch.nn.utils.prune`) only weights which that mask keeps may be kept: ConfigError where more are asked for.
    `Mask.emptied` names the layers that lose all their weights.

    A criterion that needs more than weights (`snip`, `grasp`, `taylor`; `synflow` for the shape of an input) is shown
    `batches` of (inputs, targets), a few hundred examples, and takes gradients of `loss`, a function of outputs and
    targets to the batch's mean. The network, its batch-norm buffers and torch's generators stay as they are.

    Under the pattern `channel` (extra `prunetune[channels]`) `sparsity` is the share of channels removed, of every
    group of coupled ones; the network runs `example_inputs` once to show what is coupled. The mask then also names
    biases and batch norms, and `deploy.shrink` can take the channels out.

    >>> mask = compute_mask(nn.Linear(10, 10), sparsity=0.8)
    >>> mask.kept, mask.total
    (20, 100)
    """
    sparsity = _number("sparsity", sparsity)
    if not 0 < sparsity < 1:
        raise ConfigError(f"sparsity: {sparsity} is not a share of weights to prune; it must lie in (0, 1)")
    parameters = dict(model.named_parameters())
    names = require_prunable(model, scope)
    require_layers(pattern, list_parameters(model, scope))
    coupled = (
        channel_groups(model, example_inputs, scope) if pattern == CHANNEL and example_inputs is not None else None
    )
    weights = {name: parameters[name].detach() for name in scored(names, coupled or ())}
    require_ranks(weights)
    chosen = CRITERIA[criterion]() if isinstance(criterion, str) else criterion
    look = _look(model, tuple(weights), batches, loss)
    within = _earlier(model, weights)
    rule = chosen, allocation, pattern, within
    try:
        return choose(weights, 1 - sparsity, *rule, look=look, groups=coupled, zeros_last=pattern != CHANNEL)
    except ConfigError as error:
        held = "the mask that the model holds" if within is not None else ""
        raise ConfigError(str(error).replace("`within`", f"{held}; call remove_mask first")) from error


def _earlier(model: nn.Module, weights: Mapping[str, Tensor]) -> Mask | None:
    """What masks that are in force in the model keep of `weights`; None where there is none of them."""
    earlier = dict(get_mask(model)) if is_held(model) else {}
    for name, keep in masks_in(model).items():
        earlier |= {name: keep != 0, f"{name}_orig": keep != 0}
    if earlier.keys().isdisjoint(weights):
        return None
    found = {name: earlier.get(name) for name in weights}
    return Mask({n: torch.ones(weights[n].shape, dtype=torch.bool) if k is None else k.cpu() for n, k in found.items()})


def _number(field: str, value: float) -> float:
    """A number, or a tensor of one; ConfigError for a text, as argparse hands it over without `type=float`."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"{shown(value)} is a {type(value).__name__}"
        raise ConfigError(f"{field}: {what}; must be a number, such as 0.9") from error


def _look(model: nn.Module, names: tuple[str, ...], batches: Batches | None, loss: Loss) -> Look | None:
    if batches is None:
        return None
    held = tuple(batches)
    return lambda criterion, mask: gather(model, names, criterion, held, loss, mask)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """How the weights of a network are scored, once or several times."""

    weights: Mapping[str, Tensor]
    criterion: Criterion
    generator: torch.Generator | None
    look: Look | None
    zeros_last: bool

    def among(self, within: Mask | None) -> dict[str, Tensor]:
        """Scores in sorted order of names, minus infinity where `within` prunes."""
        looks = self.look if self.criterion.needs > {"weight"} else None
        found = looks(self.criterion, within) if looks is not None else {}
        scores = {name: self._score(name, found.get(name, {})) for name in sorted(self.weights)}
        if within is None:
            return scores
        return {name: _among_survivors(name, score, within) for name, score in scores.items()}

    def _score(self, name: str, found: Mapping[str, Tensor]) -> Tensor:
        kind, weight = type(self.criterion).__name__, self.weights[name].detach().cpu()
        if missing := sorted(self.criterion.needs - {"weight"} - found.keys()):
            what = f"{kind} needs {', '.join(missing)}"
            raise ConfigError(f"criterion: {what}; only weights are at hand without `batches`")
        score = self.criterion.score(Evidence(weight, generator=self.generator, **found))
        if score.shape != weight.shape:
            raise ConfigError(f"criterion: {kind} scores '{name}' as {tuple(score.shape)}, not {tuple(weight.shape)}")
        if not score.isfinite().all():
            raise ConfigError(f"criterion: {kind} scores '{name}' as NaN or infinite; is it diverged?")
        return _zeros_last(score, weight == 0) if self.zeros_last else score


def _zeros_last(score: Tensor, zeros: Tensor) -> Tensor:
    if zeros.all() or not score.is_floating_point():
        return score
    return score.masked_fill(zeros, torch.finfo(score.dtype).min)


def _before_the_last_round(scoring: _Scoring, density: float, allocate: Allocate, within: Mask | None) -> Mask | None:
    """The mask after all the criterion's rounds but one, inside `within`; `within` itself for a single round."""
    rounds = rounds_of(scoring.criterion)
    whole = max(density, within.density) if within is not None else 1.0
    for done in range(1, rounds):
        scores = scoring.among(within)
        counts = allocate(scores, whole * (density / whole) ** (done / rounds))
        # A layer may have fewer survivors than the mean density of `within` says.
        within = keep_top(scores, {name: min(counts[name], _alive(score)) for name, score in scores.items()})
    return within


def _alive(score: Tensor) -> int:
    return int((score > -torch.inf).sum())


def _among_survivors(name: str, score: Tensor, within: Mask) -> Tensor:
    if name not in within:
        raise unknown("within", name, within)
    if within[name].shape != score.shape:
        raise ConfigError(f"within: '{name}' has shape {tuple(within[name].shape)}, the weight {tuple(score.shape)}")
    return score.masked_fill(~within[name], -torch.inf)


def _require_survivors(name: str, count: int, survivors: int) -> None:
    if count > survivors:
        raise ConfigError(f"density: it asks for {count} weights of '{name}' where {survivors} survive in `within`")


def _require_alive(name: str, pattern: str, score: Tensor, kept: Tensor) -> None:
    """A pattern may find too few survivors where it needs them, though the layer has enough."""
    if (score[kept] == -torch.inf).any():
        raise ConfigError(f"pattern: '{pattern}' needs weights of '{name}' in places where none survive in `within`")
