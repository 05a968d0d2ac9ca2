"""The default study from nothing to its report, and how much of the machine it keeps busy."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.commands import PRUNETUNE, run_command
from benchmarks.findings import Comparison, Findings, Goal, Measured, spread
from benchmarks.load import Watch
from benchmarks.rounds import Options
from prunetune.execution.executors.launch import default_jobs

ROUNDS = 1
LEAST_BUSY = 0.9
SMALL = ("--set", "recipe.epochs=1", "--set", "sparsities=[0.5]", "--set", "data_args.train_limit=512", "--seeds", "1")


def run(options: Options) -> Findings:
    """`prunetune audit quick` with a worker for each core, each time into an empty store."""
    cores = default_jobs()
    watch, seconds, busy, others = Watch(), [], [], []
    for _ in range(options.rounds):
        with TemporaryDirectory() as name:
            small = SMALL if options.quick else ()
            command = (*PRUNETUNE, "audit", "quick", "--store", "store", "--jobs", str(cores), *small)
            watch.lap()
            cost = run_command(*command, cwd=Path(name))
            others.append(watch.lap())
        seconds.append(cost.wall)
        busy.append(cost.processor / (cost.wall * cores))
    title = f"`prunetune audit quick --jobs {cores}`, from an empty store"
    row = Measured("prunetune audit quick", tuple(seconds), tuple(busy))
    return Findings(
        (Comparison(title, "s", None, (row,), tuple(others)),),
        goals=(Goal(f"share of {cores} cores kept busy", spread(busy).median, least=LEAST_BUSY),),
        notes=("share: processor time of the command and its workers, of all cores' time",),
    )
