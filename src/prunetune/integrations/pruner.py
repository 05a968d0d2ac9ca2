"""What the callbacks share: prune once, when the epoch has come, and prove at the end that zeros are zero."""

from collections.abc import Mapping

from torch import Tensor, nn

from prunetune.errors import ConfigError, InvariantError, given
from prunetune.sparsity.criteria import Criterion
from prunetune.sparsity.enforce import apply_mask, get_mask, is_held
from prunetune.sparsity.mask import Mask, as_mask
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope


class Pruner:
    """Prunes the model as it is at the start of `epoch`, counted from 0, and holds its zeros from there on.

    Either `sparsity`, with the arguments of `pt.compute_mask`, or a ready `mask` under the names of the model that is
    trained. What is pruned already, by `pt.apply_mask`, an earlier training, a checkpoint or another callback, stays
    so: of those weights more are removed where this asks for more, and ConfigError where it asks for fewer; weights of
    which this says nothing keep their mask. Gradients are masked too, so that clipping by norm, which trainers do by
    default or by an argument, counts kept weights alone.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        criterion: str | Criterion = "magnitude",
        allocation: str = "uniform",
        pattern: str = "unstructured",
        scope: Scope = Scope(),  # noqa: B008 - frozen
        *,
        mask: Mapping[str, Tensor] | None = None,
        epoch: int = 0,
    ) -> None:
        if (sparsity is None) == (mask is None):
            raise ConfigError("sparsity: give either a sparsity or a ready mask, and not both")
        self._ready = as_mask(mask) if mask is not None else None
        self._sparsity = sparsity
        self._criterion, self._allocation, self._pattern, self._scope = criterion, allocation, pattern, scope
        self._epoch = epoch
        self._mask: Mask | None = None
        self._done = self._waits = False

    def _begin(self, model: nn.Module, stored: Mapping[str, Tensor] | None = None) -> None:
        """Put a checkpoint's mask in force; without one, whatever is in force stays. Gradients are masked by it."""
        mask = stored if stored is not None else in_force(model)
        if mask is not None:
            apply_mask(model, mask, gradients=True)
        self._mask = in_force(model)
        self._done = self._waits = False

    def _prune_in(self, epoch: float, model: nn.Module) -> None:
        self._waits = epoch < self._epoch
        if self._done or self._waits:
            return
        apply_mask(model, merged(in_force(model) or {}, self._choose(model)), gradients=True)
        self._mask, self._done = get_mask(model), True

    def _choose(self, model: nn.Module) -> Mapping[str, Tensor]:
        if self._sparsity is not None:
            return compute_mask(
                model,
                self._sparsity,
                criterion=self._criterion,
                allocation=self._allocation,
                pattern=self._pattern,
                scope=self._scope,
            )
        return given(self._ready, "either a sparsity or a mask was given")

    def _end(self, model: nn.Module) -> None:
        if self._mask is None or self._waits:
            raise ConfigError(f"epoch: training ended before epoch {self._epoch}, so that nothing was pruned")
        require_zeros(model, self._mask)


def merged(earlier: Mapping[str, Tensor], asked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`asked`, and of `earlier` what it does not name; ConfigError where it keeps weights that `earlier` prunes."""
    for name in asked.keys() & earlier.keys():
        if back := int((asked[name].bool().cpu() & ~earlier[name].cpu()).sum()):
            raise ConfigError(
                f"mask: it keeps {back} weights of '{name}' that are pruned already; call remove_mask first"
            )
    return {**earlier, **asked}


def in_force(model: nn.Module) -> Mask | None:
    """The mask that is held in `model`, None when there is none."""
    return get_mask(model) if is_held(model) else None


def measured_density(model: nn.Module, mask: Mask) -> float:
    """The share of non-zero weights among all that `mask` speaks about, counted in the model."""
    return sum(int(model.get_parameter(name).count_nonzero()) for name in mask) / mask.total


def require_zeros(model: nn.Module, mask: Mask) -> None:
    """InvariantError naming the first weight of `model` in which a pruned position is not zero."""
    for name, keep in mask.items():
        weight = model.get_parameter(name).detach()
        if revived := int(weight[~keep.to(weight.device)].count_nonzero()):
            raise InvariantError(f"{name}: {revived} pruned weights are no longer zero; was the mask released?")
