"""How far ADMM's weights still were from a sparse network: what the trainings that found the masks measured."""

from prunetune.run.shelves import Shelves
from prunetune.study.plan import Plan, PlannedTrial
from prunetune.study.results import Residuals
from prunetune.study.steps import Prune, Train


def residuals(plan: Plan, store: Shelves) -> tuple[Residuals, ...]:
    """A row for every mask of the study, at every rate and seed, whose weights were trained under the ADMM penalty."""
    found: dict[tuple[float, str, float, int], Train] = {}
    for trial in plan.trials:
        step = _penalised(trial)
        if step is not None and trial.mask is not None and store.has(step.key):
            found[trial.learning_rate, trial.mask, trial.sparsity, trial.seed] = step
    return tuple(Residuals(*place, tuple(store.metrics(step.key)["residuals"])) for place, step in found.items())


def _penalised(trial: PlannedTrial) -> Train | None:
    """The training whose final weights the trial's mask was chosen from, if it had a penalty."""
    mask = trial.step.mask if isinstance(trial.step, Train) else None
    source = mask.source.step if isinstance(mask, Prune) else None
    return source if isinstance(source, Train) and source.penalty is not None else None
