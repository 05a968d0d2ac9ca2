"""What a planned study would run and cost, as a person reads it."""

from collections import Counter
from collections.abc import Iterator, Sequence

from prunetune.analysis.retention import retention_words
from prunetune.api import Prepared
from prunetune.progress import duration
from prunetune.run.estimate import estimate
from prunetune.study import graph
from prunetune.study.plan import Plan, Remaining
from prunetune.study.together import Together, union

Bound = tuple[str, Plan, Remaining]
"""A title, empty where there is but one; a plan; and what of it is left."""


def outline(prepared: Prepared, jobs: int) -> str:
    """Steps, trainings and cost with `jobs` workers, and the plan's notes; where seeds may be added, least and most."""
    kappas = [f"learning rate {row.learning_rate:g}: {retention_words(row)}" for row in prepared.plan.recipes]
    scaled = _scaled(prepared.plan)
    blocks = [(title, _size(plan), costs(plan, left, jobs)) for title, plan, left in _bounds(prepared)]
    lines = [line for block in blocks for line in block if line]
    return "\n".join([*lines, *scaled, *kappas, *(f"note: {note}" for note in prepared.plan.notes)])


def outline_of_group(group: str, studies: Sequence[Prepared]) -> str:
    """A line for each study, and what they come to together."""
    heads = [_left(study.plan, study.remaining) for study in studies]
    return "\n".join([*heads, f"{group}: {len(studies)} studies", *_together(studies)])


def costs(plan: Plan, remaining: Remaining, jobs: int) -> str:
    """What is left to train, how long that takes with `jobs` workers, and what it takes of the disk."""
    if not remaining.left:
        return _left(plan, remaining)
    expected = estimate(plan, remaining, jobs)
    time = "time unknown without data and device" if expected.seconds is None else f"about {duration(expected.seconds)}"
    return f"{_left(plan, remaining)}; {time} with --jobs {jobs}, {expected.store_bytes / 1e6:.1f} MB of store"


def _together(studies: Sequence[Prepared]) -> Iterator[str]:
    for bounds in zip(*map(_bounds, studies), strict=True):
        titles, plans, remainders = zip(*bounds, strict=True)
        together, left = Together.of(plans), union(remaining.left for remaining in remainders)
        (alone, alone_epochs), (separate, separate_epochs) = together.one_by_one, together.separate
        if titles[0]:
            yield titles[0]
        yield (
            f"distinct trainings: {together.trainings} ({together.epochs} epochs), "
            f"of which {graph.trainings(left)} ({graph.total_epochs(left)} epochs) to run"
        )
        yield (
            f"without sharing between studies they would be {alone} ({alone_epochs} epochs), and as separate "
            f"experiments {separate} ({separate_epochs} epochs)"
        )


def _bounds(prepared: Prepared) -> list[Bound]:
    """The least and the most that a study takes; of a fixed number of seeds the one."""
    least = prepared.plan, prepared.remaining
    if prepared.most is prepared.plan:
        return [("", *least)]
    first, *_, last = prepared.spec.looks
    most = prepared.most, prepared.most.against(prepared.store)
    return [
        (f"the least, where {first} seeds decide every verdict:", *least),
        (f"the most, where no verdict is decided before {last} seeds:", *most),
    ]


def _scaled(plan: Plan) -> list[str]:
    """What `--scale` changed, in a line; nothing where the study was not scaled."""
    was, recipe = plan.spec.scaled, plan.spec.recipe
    if was is None:
        return []
    steps = plan.recipes[0].steps // recipe.epochs
    share = plan.spec.data_args.get("validation")
    held = f", {share:g} of the training images held out" if share else ""
    return [
        f"scaled by {was.factor:g}: {recipe.epochs} epochs for {was.epochs}, {steps} steps an epoch for "
        f"{was.steps_per_epoch}, weight decay {recipe.weight_decay:g} for {was.weight_decay:g}{held}"
    ]


def _left(plan: Plan, remaining: Remaining) -> str:
    trainings = f"{remaining.trainings_left} trainings ({remaining.epochs_left} epochs) to run"
    return f"{plan.spec.name}: {trainings}, {remaining.trainings_cached} cached"


def _size(plan: Plan) -> str:
    kinds = Counter(type(step).__name__ for step in plan.steps)
    steps = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"model {plan.model.name}, data {plan.data.name}: {len(plan.trials)} trials\n"
        f"steps: {steps}\n"
        f"distinct trainings: {plan.trainings} ({plan.epochs} epochs); as separate experiments they would be "
        f"{plan.separate_trainings} ({plan.separate_epochs} epochs)"
    )
