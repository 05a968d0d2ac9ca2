"""What a study of many steps costs beside its trainings: planning, simulating, looking up, listing, reporting."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.findings import Comparison, Findings, Goal, Table, spread
from benchmarks.rounds import Options, Variant, compare
from benchmarks.synthetic import fill, planned
from benchmarks.tables import short
from prunetune.report.write import write_report
from prunetune.run.collect import collect
from prunetune.run.local import LocalExecutor
from prunetune.run.simulate import simulate
from prunetune.run.store import Store
from prunetune.study.plan import Plan, plan

ROUNDS = 1
SIZES = ((20, 1), (20, 15), (20, 147))  # seeds and learning rates
WORKERS = 512  # of the simulation
MOST = 2.0  # times as long a step as at the smallest size: linear, but for what no longer fits the caches


def run(options: Options) -> Findings:
    """A plan of each size, and a store in which all of it is done (a two-layer network; written without waiting)."""
    sizes = ((2, 1), (2, 2)) if options.quick else SIZES
    found = [_at(*size, options.rounds) for size in sizes]
    comparisons = [comparison for comparison, _ in found]
    steps = [count for _, count in found]
    last, first = _each(comparisons[-1], steps[-1]), _each(comparisons[0], steps[0])
    rows = tuple(
        (name, *(short(1e6 * _each(one, count)[name]) for one, count in zip(comparisons, steps, strict=True)))
        for name in first
    )
    worst = max(last[name] / first[name] for name in first)
    header = ("", *(f"{count:,} steps" for count in steps))
    return Findings(
        comparisons=tuple(comparisons),
        tables=(Table("Microseconds a step", header, rows),),
        goals=(Goal(f"time a step at {steps[-1]:,} by that at {steps[0]:,} (worst row)", worst, most=MOST),),
    )


def _at(seeds: int, rates: int, rounds: int) -> tuple[Comparison, int]:
    """All costs at one size, and how many steps it has."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        done, store, empty = planned(seeds, rates), Store(folder / "store"), Store(folder / "empty")
        fill(store, done)
        works = _works(done, store, empty, folder / "report")
        title = f"A study of {len(done.steps):,} steps, {len(done.trials):,} rows"
        return compare(title, "s", works, rounds, alike=False), len(done.steps)


def _works(done: Plan, store: Store, empty: Store, folder: Path) -> Sequence[Variant]:
    folder.mkdir()
    seconds = {step.key: 1.0 for step in done.steps}
    results = collect(done, store, (), {})
    return [
        Variant("plan", _seconds(lambda: plan(done.spec))),
        Variant(f"simulate on {WORKERS} workers", _seconds(lambda: simulate(done.steps, seconds, WORKERS))),
        Variant("look up, nothing stored", _seconds(lambda: done.against(empty))),
        Variant("look up, all stored", _seconds(lambda: done.against(store))),
        Variant("store ls", _seconds(lambda: [str(entry) for entry in store.ls()])),
        Variant("audit finds all done", _seconds(lambda: list(LocalExecutor(1).run(done, store)))),
        Variant("collect the rows", _seconds(lambda: collect(done, store, (), {}))),
        Variant("write the report", _seconds(lambda: write_report(results, folder))),
    ]


def _each(found: Comparison, steps: int) -> dict[str, float]:
    """Seconds a step by row."""
    return {row.name: spread(row.samples).median / steps for row in found.rows}


def _seconds(work: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return timed
