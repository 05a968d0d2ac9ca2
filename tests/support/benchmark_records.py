"""A record with figures that are known, and clocks that say what a test wants."""

from collections.abc import Iterable

from benchmarks.findings import Comparison, Findings, Goal, Measured, Record, Table
from benchmarks.load import Clocks, Reader

MACHINE = {"cpu": "Abacus", "cores": 2, "torch": "2.13.0", "os": "Linux", "flags": ["avx2"]}


def record(quick: bool = False, others: tuple[float | None, ...] = (0.01, 0.02)) -> Record:
    """Two variants in two rounds, a goal that is met and one that is not."""
    rows = (Measured("usual", (100.0, 200.0), (0.25, 0.5)), Measured("ours", (300.0, 400.0), (0.75, 0.75)))
    findings = Findings(
        comparisons=(Comparison("Training", "images/s", "usual", rows, others),),
        tables=(Table("Sizes", ("network", "MB"), (("small", "1.5"),)),),
        goals=(Goal("ratio", 2.5, least=1.6), Goal("overhead", 0.05, most=0.03)),
        notes=("images: synthetic",),
    )
    return Record("planted", "2026-01-02T03:04:05+00:00", 2, quick, 0.99, MACHINE, findings)


def clocks(readings: Iterable[tuple[float, float, float]]) -> Reader:
    """A reader that gives (total, idle, ours) one after the other."""
    following = iter(readings)
    return lambda: Clocks(*next(following))
