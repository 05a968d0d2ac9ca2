"""When a study ends, and when it has the answer at the asked sparsity, by the order of its steps: simulated."""

from collections.abc import Iterator
from itertools import chain

from benchmarks.findings import Findings, Table
from benchmarks.rounds import Options
from benchmarks.tables import short
from prunetune.execution.cost import simulate
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps import graph
from prunetune.steps.steps import Step

ROUNDS = 1
PRESETS = ("quick", "paper/fig6-resnet20-cifar10")
WORKERS = (2, 8, 16, 64, 512)
LISTED, LONGEST, ANSWER = "as listed", "longest chain first", "answer first"


def run(options: Options) -> Findings:
    """Two presets on more and more workers."""
    presets = PRESETS[: 1 if options.quick else None]
    names = (LISTED, LONGEST, ANSWER)
    header = ("study", "workers", "no order can beat", *(f"end, {n}" for n in names), *(f"answer, {n}" for n in names))
    rows = chain.from_iterable(rows_of(name, plan(load_spec(name))) for name in presets)
    return Findings(
        tables=(Table("Time in trainings of the study's recipe, all other steps free", header, tuple(rows)),),
        notes=(
            f"{LISTED}: as the grid is written, seed by seed; {LONGEST}: of the steps that could run, always that with "
            f"the longest chain below it; {ANSWER}: the same, after all that the asked sparsity needs, as plans are",
        ),
    )


def rows_of(name: str, planned: Plan) -> Iterator[tuple[str, ...]]:
    """A row for each number of workers."""
    seconds = {step.key: graph.epochs_of(step) / planned.spec.recipe.epochs for step in planned.steps}
    for workers in WORKERS:
        found = [simulate(steps, seconds, workers) for steps in orders(planned).values()]
        bound = max(found[0].shared_evenly, found[0].chain_seconds)
        ends, answers = [one.makespan for one in found], [one.end_of(planned.answer) for one in found]
        yield (name, str(workers), *map(short, (bound, *ends, *answers)))


def orders(planned: Plan) -> dict[str, tuple[Step, ...]]:
    """The steps of a plan in each order, parents first in all."""
    rows = (*planned.trials, *planned.correlations, *planned.trajectory, *planned.connections)
    listed = graph.closure([row.step for row in rows])
    return {LISTED: listed, LONGEST: graph.by_priority(listed, planned.priority), ANSWER: planned.steps}
