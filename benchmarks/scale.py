"""What a study of many steps costs beside its trainings: planning, simulating, looking up, listing, reporting."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.findings import Findings, Goal, Table
from benchmarks.rounds import Options
from benchmarks.synthetic import fill, planned
from benchmarks.tables import short
from prunetune.execution.cost import simulate
from prunetune.execution.executors.local import LocalExecutor
from prunetune.plan.compile import Plan, plan
from prunetune.report.write_report import write_report
from prunetune.results.collect import collect
from prunetune.rows import Results
from prunetune.store.store import Store

ROUNDS = 1
SIZES = ((30, 1), (30, 10), (30, 98))  # seeds and learning rates
WORKERS = 512  # of the simulation
MOST = 2.0  # times as long a step as at the middle size: linear, but for what no longer fits the caches


def run(options: Options) -> Findings:
    """A plan of each size, and a store in which all of it is done; the costs that there are once weigh in the first."""
    sizes = ((2, 1), (2, 2), (2, 3)) if options.quick else SIZES
    found = [_at(*size, options.rounds) for size in sizes]
    steps = [count for count, _ in found]
    rows = [(name, [seconds[name] for _, seconds in found]) for name in found[0][1]]
    last = [(name, short(seconds[-1])) for name, seconds in rows]
    each = [[1e6 * one / count for one, count in zip(seconds, steps, strict=True)] for _, seconds in rows]
    header = ("", *(f"µs a step of {count:,}" for count in steps), f"s for all {steps[-1]:,}")
    table = tuple((name, *map(short, costs), total) for (name, total), costs in zip(last, each, strict=True))
    worst = max(costs[-1] / costs[1] for costs in each)
    return Findings(
        tables=(Table(f"Processor time, rounds: {options.rounds}", header, table),),
        goals=(Goal(f"time a step of {steps[-1]:,} by that of {steps[1]:,} (worst row)", worst, most=MOST),),
    )


def _at(seeds: int, rates: int, rounds: int) -> tuple[int, dict[str, float]]:
    """How many steps such a study has, and the median seconds of each cost."""
    with TemporaryDirectory() as name:
        done, store = planned(seeds, rates), Store(Path(name) / "store")
        fill(store, done)
        timed = [dict(_costs(done, store, Path(name))) for _ in range(rounds)]
    return len(done.steps), {cost: median(one[cost] for one in timed) for cost in timed[0]}


def _costs(done: Plan, store: Store, folder: Path) -> Iterator[tuple[str, float]]:
    """Each cost of the finished study."""
    seconds, empty, report = {step.key: 1.0 for step in done.steps}, Store(folder / "empty"), folder / "report"
    report.mkdir(exist_ok=True)
    yield "plan", _seconds(lambda: plan(done.spec))
    yield f"simulate on {WORKERS} workers", _seconds(lambda: simulate(done.steps, seconds, WORKERS))
    yield "look up, nothing stored", _seconds(lambda: done.remaining(empty))
    yield "look up, all stored", _seconds(lambda: done.remaining(store))
    yield "`store ls`", _seconds(lambda: [str(entry) for entry in store.ls()])
    yield "`audit` that finds all done, and checks it", _seconds(lambda: list(LocalExecutor(1).run(done, store)))
    results: list[Results] = []
    yield "collect the rows, and check their rules", _seconds(lambda: results.append(collect(done, store, (), {})))
    yield "write the report", _seconds(lambda: write_report(results[0], report))


def _seconds(work: Callable[[], object]) -> float:
    """Of processor time: nothing here waits for the disk, and others on the machine do not count."""
    began = time.process_time()
    work()
    return time.process_time() - began
