"""Invariants between the trainings of a study (docs/reference/design.md), recomputed from the stored files.

Each rule yields one finding per comparison it made: None, or what is wrong.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Generator, Tensor

from prunetune.core.seeding import derive
from prunetune.errors import counted
from prunetune.execution.inputs import weights_read
from prunetune.execution.invariants import masked
from prunetune.models import build
from prunetune.plan.compile import Plan
from prunetune.plan.measurements import PlannedTrial
from prunetune.results.stored import Stored, stale_input
from prunetune.rows import DENSE, DENSE_LONGER, Invariant
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.steps.steps import Init, Prune, Step, Train, Weights
from prunetune.steps.transforms import TRANSFORMS
from prunetune.store.layout import Manifest, StoreReader

Findings = Iterator[str | None]
KEPT_STATES = 8  # in memory at once: those of one seed and rate


@dataclass(frozen=True)
class Row:
    """A stored training of the study's table, with what it measured."""

    trial: PlannedTrial
    metrics: Mapping[str, Any]

    def __str__(self) -> str:
        trial = self.trial
        under = f" under {trial.mask} at sparsity {trial.sparsity:g}" if trial.mask else ""
        return f"{trial.arm}{under}, learning rate {trial.learning_rate:g}, seed {trial.seed}"


class Study:
    """The stored part of a plan, its states and masks read from the store when they are asked for."""

    def __init__(self, plan: Plan, stored: Stored, store: StoreReader) -> None:
        self.plan = plan
        self.stored = stored
        self.store = store
        finished = [trial for trial in plan.trials if isinstance(trial.step, Train) and trial.step.key in stored]
        rows = [Row(trial, stored[trial.step.key].metrics) for trial in finished]
        self.rows = sorted(rows, key=lambda row: (_same_ground(row), _same_cell(row)))
        self.arms = {arm.label: arm for arm in plan.spec.arms}
        self._own_masks = {name for name, arm in plan.spec.named_arms.items() if not arm.shares_mask}
        self._own_recipes = {name for name, arm in plan.spec.named_arms.items() if not arm.shares_recipe}
        self._dense = {_ground(trial): trial.step for trial in plan.trials if trial.arm == DENSE}
        self._first = {_ground(c): c.step.first for c in plan.correlations if c.pair == "theta_0/theta_T"}
        self._model = build(plan.model, plan.input_shape, plan.outputs)
        self.state = lru_cache(maxsize=KEPT_STATES)(self._state)
        self.mask = lru_cache(maxsize=KEPT_STATES)(self._mask)

    def theta_0(self, row: Row) -> Weights:
        """The initial weights that the row's dense run started from."""
        return self._first[_ground(row.trial)]

    def has_theta_0(self, row: Row) -> bool:
        """Whether they are known: a user may give a trained state alone."""
        return _ground(row.trial) in self._first

    def theta_0_prime(self, row: Row) -> Weights:
        """The independent second draw of the row's seed, by its definition: a mix of it may be all that uses it."""
        plan = self.plan
        return Weights(Init(plan.model, plan.input_shape, plan.outputs, derive(row.trial.seed, "reinit")))

    def has_own_mask(self, row: Row) -> bool:
        """Whether it is a control that is about the mask."""
        return row.trial.mask is not None and row.trial.arm in self._own_masks

    def has_own_recipe(self, row: Row) -> bool:
        """Whether it is trained for another number of epochs, or at other rates, than the arms."""
        return row.trial.arm == DENSE_LONGER or (row.trial.mask is not None and row.trial.arm in self._own_recipes)

    def theta_t(self, row: Row) -> Weights:
        """The final state of the dense run at the row's seed and learning rate."""
        return Weights(self._dense[_ground(row.trial)])

    def layer_counts(self, row: Row) -> dict[str, int]:
        """How many weights of every layer the row's mask keeps, by the mask's file."""
        return {name: int(kept.sum()) for name, kept in self.mask(row.trial.step.mask.key).items()}  # type: ignore[union-attr]

    def masked_start(self, row: Row, weights: Weights) -> dict[str, Tensor]:
        """These weights from the store, zero where the row's mask prunes."""
        step = row.trial.step
        mask = self.mask(step.mask.key) if isinstance(step, Train) and step.mask else None
        return masked(self.state(weights), mask, self._model)

    def _state(self, weights: Weights) -> dict[str, Tensor]:
        return self.store.state(weights.step.key, weights.at, self._manifest(weights.step.key))

    def _mask(self, key: str) -> Mask:
        return self.store.mask(key, self._manifest(key))

    def _manifest(self, key: str) -> Manifest | None:
        """None where it is damaged: the store says how when the file is read."""
        return self.stored[key].manifest if key in self.stored else None


def compare(plan: Plan, stored: Stored, store: StoreReader) -> tuple[Invariant, ...]:
    """Every rule, with the number of comparisons that it made and those that failed."""
    study = Study(plan, stored, store)
    checked = [(rule, list(rule(study))) for rule in _RULES]
    return tuple(
        Invariant(rule.__name__.replace("_", " "), str(rule.__doc__), len(found), tuple(filter(None, found)))
        for rule, found in checked
    )


def arms_share_their_mask(study: Study) -> Findings:
    """Arms that are compared have the same mask, bit for bit; controls that are about the mask are left out."""
    sharing = [row for row in study.rows if row.trial.mask and not study.has_own_mask(row)]
    yield from _all_equal(sharing, _same_cell, lambda row: row.metrics["mask_digest"], "its mask is another one")


def arms_share_layer_counts(study: Study) -> Findings:
    """A control with a mask of its own keeps as many weights of every layer as the arms that it is compared with."""
    masked_rows = [row for row in study.rows if isinstance(row.trial.step, Train) and row.trial.step.mask]
    for _, group in groupby(masked_rows, key=_same_cell):
        rows = list(group)
        if any(map(study.has_own_mask, rows)):
            rows.sort(key=study.has_own_mask)
            yield from _all_equal(rows, _same_cell, study.layer_counts, "its mask keeps other numbers of weights")


def arms_share_data_order(study: Study) -> Findings:
    """All trainings of a seed, a learning rate and as many epochs, the dense run too, see data in the same order."""
    order = "its data come in another order"
    yield from _all_equal(_converged(study), _same_ground, lambda row: row.metrics["data_order_digest"], order)


def arms_share_steps(study: Study) -> Findings:
    """All trainings of a seed, a learning rate and as many epochs, the dense run too, take as many optimizer steps."""
    number = "it took another number of steps"
    yield from _all_equal(_converged(study), _same_ground, lambda row: row.metrics["steps"], number)


def dense_longer_is_dense_for_longer(study: Study) -> Findings:
    """The longer dense run starts bit-equal to the dense run and takes `pretraining.longer` times its steps."""
    dense = {_ground(row.trial): row.metrics for row in _of(study, DENSE)}
    for row in _of(study, DENSE_LONGER):
        if shorter := dense.get(_ground(row.trial)):
            yield _not_longer(row, shorter, study.plan.spec.pretraining.longer)


def ticket_starts_at_theta_0(study: Study) -> Findings:
    """`ticket` starts bit-equal to the dense run's initial weights, under the mask."""
    for row in _of(study, "ticket"):
        same = digest_tensors(study.masked_start(row, study.theta_0(row))) == row.metrics["start_digest"]
        yield None if same else f"{row}: did not start from theta_0"


def reinit_does_not(study: Study) -> Findings:
    """`reinit` starts from weights that differ from the dense run's initial ones in every layer under the mask."""
    for row in filter(study.has_theta_0, _of(study, "reinit")):
        theirs, initial = (study.masked_start(row, w) for w in (row.trial.step.start, study.theta_0(row)))  # type: ignore[union-attr]
        mask = study.mask(row.trial.step.mask.key)  # type: ignore[union-attr]
        layers = [name for name, kept in mask.items() if kept.dim() >= 2 and kept.any()]  # vectors start as constants
        same = [name for name in layers if torch.equal(theirs[name], initial[name])]
        yield f"{row}: '{same[0]}' starts as in theta_0" if same else None


def rewind_starts_at_theta_k(study: Study) -> Findings:
    """`rewind` starts bit-equal to an earlier state of the dense run itself, under the mask."""
    for row in _of(study, "rewind"):
        start = row.trial.step.start  # type: ignore[union-attr]
        dense = study.theta_t(row).step
        if isinstance(dense, Train):  # of a user's pair, only the user knows what theta_k was
            own = (start.step == dense and start.at is not None) or start == study.theta_0(row)
            same = digest_tensors(study.masked_start(row, start)) == row.metrics["start_digest"]
            yield None if own and same else f"{row}: did not start from the dense run's own earlier state"


def finetune_starts_at_theta_t(study: Study) -> Findings:
    """`finetune` starts bit-equal to the dense run's own final state, under the mask."""
    for row in _of(study, "finetune"):
        same = digest_tensors(study.masked_start(row, study.theta_t(row))) == row.metrics["start_digest"]
        yield None if same else f"{row}: did not start from the dense run's final state"


def finetune_chain_starts_where_its_mask_was_found(study: Study) -> Findings:
    """`finetune_chain` starts bit-equal to the state that its mask was chosen from, under the mask."""
    for row in _of(study, "finetune_chain"):
        same = digest_tensors(study.masked_start(row, row.trial.step.mask.source)) == row.metrics["start_digest"]  # type: ignore[union-attr]
        yield None if same else f"{row}: did not start from the state that its mask was chosen from"


def scratch_long_spends_the_whole_budget(study: Study) -> Findings:
    """`scratch_long` trains for as many epochs as the dense run, the finding of its mask and an arm take together."""
    for row in _of(study, "scratch_long"):
        trainings = {*_ancestors(row.trial.step.mask), study.theta_t(row).step}  # type: ignore[union-attr]
        found = [study.stored[step.key].metrics for step in trainings if isinstance(step, Train)]
        spent = sum(metrics["epochs"] for metrics in found) + study.plan.spec.recipe.epochs
        took = row.metrics["epochs"]
        yield (
            None
            if row.metrics["diverged"] or took == spent
            else f"{row}: took {counted(took, 'epoch')} and not {spent}"
        )


def mixed_starts_as_its_alpha_says(study: Study) -> Findings:
    """`mixed` starts from alpha parts of the dense run's initial weights and the rest of `reinit`'s, under the mask."""
    mixes = [row for row in study.rows if row.trial.mask and study.arms[row.trial.arm].kind == "mixed"]
    for row in filter(study.has_theta_0, mixes):
        alpha = study.arms[row.trial.arm].settings["alpha"]
        same = _digest_of_mix(study, row, alpha) == row.metrics["start_digest"]
        yield None if same else f"{row}: did not start from {alpha:g} parts of theta_0 and the rest of theta_0'"


def masks_come_from_sound_runs(study: Study) -> Findings:
    """No mask was chosen from a training that diverged."""
    for step in study.plan.steps:
        if isinstance(step, Prune) and step.key in study.stored:
            yield _diverged(step, study.stored)


def results_rest_on_what_is_stored(study: Study) -> Findings:
    """Every result was made from the very files that are now stored under its parents."""
    for step in study.plan.steps:
        if step.key in study.stored:
            changed = stale_input(study.stored, step.key)
            yield f"{step.label}: its input {changed} is another one now" if changed else None


_RULES: tuple[Callable[[Study], Findings], ...] = (
    arms_share_their_mask,
    arms_share_layer_counts,
    arms_share_data_order,
    arms_share_steps,
    dense_longer_is_dense_for_longer,
    ticket_starts_at_theta_0,
    reinit_does_not,
    rewind_starts_at_theta_k,
    finetune_starts_at_theta_t,
    finetune_chain_starts_where_its_mask_was_found,
    scratch_long_spends_the_whole_budget,
    mixed_starts_as_its_alpha_says,
    masks_come_from_sound_runs,
    results_rest_on_what_is_stored,
)


def _all_equal(
    rows: Iterable[Row], same: Callable[[Row], Any], value: Callable[[Row], Any], otherwise: str
) -> Findings:
    """Compare every row of a group (neighbours in `rows`) with the group's first."""
    for _, group in groupby(rows, key=same):
        first, *others = group
        for row in others:
            yield None if value(row) == value(first) else f"{row}: {otherwise} than that of: {first}"


def _digest_of_mix(study: Study, row: Row, alpha: float) -> str | None:
    """Of the start that `alpha` asks for; None where what it needs is not stored, so that nothing can be made of it."""
    parts = [end for share, end in ((alpha, study.theta_0(row)), (1 - alpha, study.theta_0_prime(row))) if share]
    if not all(weights.step.key in study.stored for weights in parts):
        return None
    first, *others = (study.masked_start(row, weights) for weights in parts)
    mixed = TRANSFORMS["mixed"](others[0], {}, Generator(), first, alpha=alpha) if others else first
    return digest_tensors(mixed)


def _not_longer(row: Row, shorter: Mapping[str, Any], times: int) -> str | None:
    if row.metrics["start_digest"] != shorter["start_digest"]:
        return f"{row}: did not start as the dense run did"
    ended = not (row.metrics["diverged"] or shorter["diverged"])
    if ended and row.metrics["steps"] != times * shorter["steps"]:
        return f"{row}: took {row.metrics['steps']} steps, not {times} times the dense run's {shorter['steps']}"
    return None


def _converged(study: Study) -> list[Row]:
    """The trainings that ended, by the recipe that all share: those with a recipe of their own have other rules."""
    return [row for row in study.rows if not (row.metrics["diverged"] or study.has_own_recipe(row))]


def _ancestors(step: Step) -> set[Step]:
    """All steps that a step rests on."""
    found: set[Step] = set()
    waiting = list(step.parents)
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting.extend(parent.parents)
    return found


def _of(study: Study, arm: str) -> list[Row]:
    return [row for row in study.rows if row.trial.arm == arm]


def _diverged(step: Prune, stored: Stored) -> str | None:
    for source in (weights.step for weights in weights_read(step)):
        if isinstance(source, Train) and source.key in stored and stored[source.key].metrics["diverged"]:
            rate = source.recipe.learning_rate
            return f"{step.label}: diverged source: {source.label} at learning rate {rate:g}"
    return None


def _ground(planned: Any) -> tuple[float, int]:
    """The learning rate and the seed of a planned trial or correlation."""
    return planned.learning_rate, planned.seed


def _same_ground(row: Row) -> tuple[float, int]:
    return _ground(row.trial)


def _same_cell(row: Row) -> tuple[Any, ...]:
    return *_ground(row.trial), row.trial.mask or "", row.trial.sparsity
