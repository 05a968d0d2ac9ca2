"""The ledger: how many epochs each row of the study's table rests on, and what it shares with the others."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from prunetune.plan.compile import Plan
from prunetune.plan.measurements import PlannedTrial
from prunetune.rows import DENSE_LONGER, Spent
from prunetune.steps import graph
from prunetune.steps.steps import Import, Init, Step, Train

Cell = tuple[float, str, float, str]  # learning rate, mask ("" for the dense run), sparsity, arm


def ledger(plan: Plan) -> tuple[Spent, ...]:
    """One row per learning rate, mask, sparsity and arm: the epochs that its trials need, summed over seeds.

    Pre-training is dense training from initial weights, whichever rate the row's mask was found at. Mask finding is
    every other training that the row's own rest on: the rounds of iterative pruning, ADMM, the
    parts of gradual pruning.
    """
    rows = sorted(plan.trials, key=_cell)
    owners = _owners(plan.trials)
    return tuple(_spent(cell, list(trials), owners) for cell, trials in groupby(rows, key=_cell))


def _cell(trial: PlannedTrial) -> Cell:
    return trial.learning_rate, trial.mask or "", trial.sparsity, trial.arm


def _owners(trials: Iterable[PlannedTrial]) -> dict[str, list[Cell]]:
    """Whose own training each step is, by its key: more than one cell's where two are the same computation."""
    owners: dict[str, list[Cell]] = {}
    for trial in trials:
        owners.setdefault(trial.step.key, []).append(_cell(trial))
    return owners


def _spent(cell: Cell, trials: Sequence[PlannedTrial], owners: Mapping[str, Sequence[Cell]]) -> Spent:
    rate, mask, sparsity, arm = cell
    before = [step for trial in trials for step in graph.closure([trial.step]) if step != trial.step]
    dense = [step for step in before if _is_dense(step)]
    finding = [step for step in before if isinstance(step, Train) and not _is_dense(step)]
    imported = any(isinstance(step, Import) for step in [*before, trials[0].step])
    notes = [
        "the pre-trained pair is imported" * imported,
        "no arm starts from it: it tests whether the dense run has converged" * (arm == DENSE_LONGER),
        "pre-training is the dense run, shared by every row at its rate" * bool(dense),
        "every step takes a forward pass of the teacher, the dense run, too" * _is_taught(trials[0].step),
        _finding_note(finding, owners),
        _same_note(cell, owners[trials[0].step.key]),
    ]
    return Spent(
        learning_rate=rate,
        mask=mask or None,
        sparsity=sparsity,
        arm=arm,
        pretraining_epochs=graph.total_epochs(dense),
        mask_epochs=graph.total_epochs(finding),
        training_epochs=graph.total_epochs(trial.step for trial in trials),
        note="; ".join(filter(None, notes)),
    )


def _is_dense(step: Step) -> bool:
    """A dense run from initial weights; the first part of a gradual pruning is dense too, and finds a mask."""
    if not isinstance(step, Train) or not isinstance(step.start.step, Init):
        return False
    return step.mask is None and step.penalty is None


def _is_taught(step: Step) -> bool:
    return isinstance(step, Train) and step.teacher is not None


def _finding_note(finding: Iterable[Step], owners: Mapping[str, Sequence[Cell]]) -> str:
    found_by = [owners.get(step.key) for step in finding]
    if not found_by:
        return ""
    if not all(found_by):
        return "mask finding is shared by the arms under this mask"
    names = dict.fromkeys(f"{cells[0][3]} at {cells[0][2]:g}" for cells in found_by if cells)
    return f"mask finding is the trainings of {', '.join(names)}"


def _same_note(cell: Cell, cells: Sequence[Cell]) -> str:
    others = [f"{arm} ({mask})" for _, mask, _, arm in dict.fromkeys(cells) if (arm, mask) != (cell[3], cell[1])]
    return f"the same training as {', '.join(others)}" if others else ""
