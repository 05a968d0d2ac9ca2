"""What a step reads of its parents' results, and the record of it that its own results carry."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prunetune.errors import DivergedSourceError
from prunetune.sparsity.allocation import Allocate, LayerLosses
from prunetune.sparsity.mask import Mask
from prunetune.steps.quantities import MeasureSensitivity, Quantity, states_read
from prunetune.steps.steps import Connect, Import, Init, Measure, Prune, Step, Train, Weights
from prunetune.steps.transforms import TRANSFORMS
from prunetune.store.layout import MASK, METRICS, StoreReader, state_file
from prunetune.store.store import StoreWriter
from prunetune.training.objective import metric_of


class Inputs:
    """Reads states and masks from a store; `read` maps `KEY/FILE` to the checksum of what was read."""

    def __init__(self, store: StoreWriter) -> None:
        self.store = store
        self.read: dict[str, str] = {}

    def state(self, weights: Weights) -> dict[str, Tensor]:
        """The state as it was stored, before any transform; DivergedSourceError when its training diverged."""
        refuse_diverged(weights.step, self.store)
        self._record(weights.step, state_file(weights.at))
        return self.store.state(weights.step.key, weights.at)

    def second(self, weights: Weights) -> dict[str, Tensor] | None:
        """The state that the weights' transform mixes in, as it was stored; None without one."""
        return self.state(weights.states[1]) if len(weights.states) > 1 else None

    def mask(self, step: Prune | None) -> Mask | None:
        """The mask that `step` chose; None for None."""
        if step is None:
            return None
        self._record(step, MASK)
        return self.store.mask(step.key)

    def allocation(self, step: Prune) -> str | Allocate:
        """What decides on the counts of a mask: its allocation, or the mask that it is to be like."""
        like = self.mask(step.like)
        if like is None:
            losses = self.losses(step)
            return step.allocation if losses is None else losses.counts
        return lambda scores, density: {name: int(like[name].sum()) for name in scores}

    def losses(self, step: Prune) -> LayerLosses | None:
        """What layers or groups of channels lose alone, where the mask's allocation goes by that."""
        measured = step.losses
        if not isinstance(measured, MeasureSensitivity):
            return None
        self._record(measured, METRICS)
        found = self.store.metrics(measured.key)
        metric = metric_of(measured.recipe)
        if found["whole"] is None:
            raise DivergedSourceError(f"diverged source: {measured.weights.step.label} scores nothing finite")
        lost = {
            name: [None if score is None else metric.oriented(found["whole"] - score) for score in scores]
            for name, scores in found["units"].items()
        }
        return LayerLosses(measured.sparsities, lost)

    def _record(self, step: Step, file: str) -> None:
        self.read[f"{step.key}/{file}"] = self.store.manifest(step.key)["files"][file]["sha256"]


def transformed(
    weights: Weights, state: Mapping[str, Tensor], mask: Mask | None, second: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The state after the registered transform that `weights` asks for, drawn by its own seed.

    `second` is the stored state that the transform mixes in, for one that asks for it.
    """
    if weights.transform is None or mask is None:
        return dict(state)
    generator = torch.Generator().manual_seed(weights.transform.seed)
    more = () if second is None else (second,)
    return TRANSFORMS[weights.transform.name](state, mask, generator, *more, **weights.transform.settings)


def refuse_diverged(source: Step, store: StoreReader) -> None:
    """DivergedSourceError when a stored training diverged: nothing can be built on it."""
    if isinstance(source, Train) and store.metrics(source.key)["diverged"]:
        raise DivergedSourceError(f"diverged source: {source.label} at learning rate {source.recipe.learning_rate:g}")


def weights_read(step: Step) -> tuple[Weights, ...]:
    """The states that a step reads."""
    if isinstance(step, Train):
        return step.start.states + ((step.teacher,) if step.teacher else ())
    if isinstance(step, Prune):
        return (step.source,)
    if isinstance(step, Quantity):
        return states_read(step)
    return (step.first, step.second) if isinstance(step, Measure | Connect) else ()


def origin(step: Step) -> Init | Import:
    """The step at the beginning of a chain, which knows the model."""
    while not isinstance(step, Init | Import):
        step = weights_read(step)[0].step
    return step
