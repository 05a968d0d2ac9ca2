"""Choosing the weights to keep: criterion, allocation and pattern put together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunetune.errors import RequestError, unknown
from prunetune.sparsity.allocation import ALLOCATIONS
from prunetune.sparsity.criteria import CRITERIA, Criterion, Evidence
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.patterns import PATTERNS
from prunetune.sparsity.scope import Scope, prunable


def choose(
    weights: Mapping[str, Tensor],
    density: float,
    criterion: Criterion,
    allocation: str = "uniform",
    pattern: str = "unstructured",
    within: Mask | None = None,
    generator: torch.Generator | None = None,
) -> Mask:
    """The mask that keeps the share `density`, in (0, 1], of the original number of `weights`, all prunable.

    Only weights that `within` keeps may be kept; counts still refer to the original numbers. Layers are scored in
    sorted order of names, so that a criterion's draws from `generator` (on the CPU) are the same in any
    order of `weights`.

    RequestError for a density out of range, scores that are not finite (as in a diverged run), a criterion that needs
    more than weights, unknown names, and a density that asks for more weights of a layer than survive in `within`.

    >>> from prunetune.sparsity.criteria import Magnitude
    >>> choose({"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}, 0.5, Magnitude())["w"]
    tensor([False,  True,  True, False])
    """
    if not 0 < density <= 1:
        raise RequestError(f"density: {density} is not a kept share; it must lie in (0, 1]")
    if not weights:
        raise RequestError("scope: nothing is prunable; widen it with include patterns")
    select, allocate = PATTERNS[pattern], ALLOCATIONS[allocation]
    scores = {name: _score(name, weights[name], criterion, generator) for name in sorted(weights)}
    if within is not None:
        scores = {name: _among_survivors(name, score, within) for name, score in scores.items()}
    counts = allocate(scores, density)
    for name, score in scores.items():
        _require_survivors(name, counts[name], int((score > -torch.inf).sum()))
    mask = select(scores, counts)
    return Mask({name: mask[name] for name in weights})


def prune(
    model: nn.Module,
    sparsity: float,
    criterion: str | Criterion = "magnitude",
    allocation: str = "uniform",
    pattern: str = "unstructured",
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> Mask:
    """The mask that prunes the share `sparsity`, in (0, 1), of the prunable weights of `model`. Changes nothing.

    With the uniform allocation a layer of N_l weights keeps round((1 - sparsity) * N_l). Give the mask to `hold` to
    put it into force. The criterion `random` draws from torch's global generator.

    >>> mask = prune(nn.Linear(10, 10), sparsity=0.8)
    >>> mask.kept, mask.total
    (20, 100)
    """
    if not 0 < sparsity < 1:
        raise RequestError(f"sparsity: {sparsity} is not a share of weights to prune; it must lie in (0, 1)")
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in prunable(model, scope)}
    chosen = CRITERIA[criterion]() if isinstance(criterion, str) else criterion
    return choose(weights, 1 - sparsity, chosen, allocation, pattern)


def _score(name: str, weight: Tensor, criterion: Criterion, generator: torch.Generator | None) -> Tensor:
    if missing := sorted(criterion.needs - {"weight"}):
        raise RequestError(
            f"criterion: {type(criterion).__name__} needs {', '.join(missing)}; only weights are at hand"
        )
    score = criterion.score(Evidence(weight.detach().cpu(), generator=generator))
    if score.shape != weight.shape:
        raise RequestError(
            f"criterion: {type(criterion).__name__} scores '{name}' as {tuple(score.shape)}, not {tuple(weight.shape)}"
        )
    if not score.isfinite().all():
        raise RequestError(f"criterion: {type(criterion).__name__} scores '{name}' as NaN or infinite; is it diverged?")
    return score


def _among_survivors(name: str, score: Tensor, within: Mask) -> Tensor:
    if name not in within:
        raise unknown("within", name, within)
    if within[name].shape != score.shape:
        raise RequestError(f"within: '{name}' has shape {tuple(within[name].shape)}, the weight {tuple(score.shape)}")
    return score.masked_fill(~within[name], -torch.inf)


def _require_survivors(name: str, count: int, survivors: int) -> None:
    if count > survivors:
        raise RequestError(f"density: it asks for {count} weights of '{name}' where {survivors} survive in `within`")
