"""What `prunetune prune` does: networks at the sparsities that are asked for, or the best one within a budget."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from prunetune.cli.options import exit_code, progress_of, say, share

if TYPE_CHECKING:
    from prunetune.api import Prepared
    from prunetune.execution.events import Event
    from prunetune.report.tradeoff.tradeoff_rows import ModelFile
    from prunetune.spec.compression import CompressionRequest
    from prunetune.spec.compression_budget import Budget

MaxDrop = Annotated[
    float | None,
    typer.Option(
        parser=share,
        metavar="D",
        help="The most that may be lost, in points of accuracy or the metric's unit: find the best network within it.",
    ),
]
Speedup = Annotated[
    str | None, typer.Option(metavar="X", help="With --max-drop: at least X times as fast as the dense network.")
]
Latency = Annotated[
    str | None, typer.Option(metavar="T", help="With --max-drop: a call with one example takes at most T, e.g. 5ms.")
]
Macs = Annotated[
    str | None, typer.Option(metavar="S", help="With --max-drop: at most this share of the multiply-accumulates.")
]
Size = Annotated[
    str | None, typer.Option(metavar="B", help="With --max-drop: a file of at most so many bytes, e.g. 1MB.")
]
Params = Annotated[
    str | None, typer.Option(metavar="S", help="With --max-drop: at most this share of the parameters is not zero.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would run and the most it can cost.")]


def prune_grid(
    source: str | None,
    changes: Sequence[str],
    asked: "CompressionRequest",
    formats: Sequence[str],
    out: Path | None,
    store: str | None,
    jobs: int | None,
    device: str,
    dry_run: bool,
) -> NoReturn:
    """One network for every sparsity."""
    from prunetune.compression.compress_models import plan_compression, preflight_compression, run_compression

    prepared = plan_compression(source, changes, asked, store=store, device=device, tell=lambda it: say(str(it)))
    if dry_run:
        _say_cost(prepared, jobs)
    folder = preflight_compression(prepared, formats, out)
    with progress_of(prepared, jobs) as progress:
        shipped = run_compression(prepared, folder, formats, jobs=jobs, on_event=progress, command=_command())
    say(f"\n{shipped}\n")
    _say_files(shipped.files, shipped.report.page, shipped.best_files)
    raise typer.Exit(exit_code(shipped.failures, progress.said))


def search_budget(
    source: str | None,
    changes: Sequence[str],
    asked: "CompressionRequest",
    budget: "Budget",
    formats: Sequence[str],
    out: Path | None,
    store: str | None,
    jobs: int | None,
    device: str,
    dry_run: bool,
) -> NoReturn:
    """The smallest or fastest network within a budget; exit code 1 where none is."""
    from prunetune.compression.budget_plan import plan_search, preflight_search
    from prunetune.compression.budget_search import run_search

    search = plan_search(source, changes, asked, budget, store=store, device=device)
    for line in search.left_out:
        say(f"left out: {line}", err=True)
    if dry_run:
        labels = ", ".join(chain.spec.masks[0].label for chain in search.chains)
        say(f"Chains that compete: {labels or 'none'}")
        _say_cost(search.prepared, jobs, "at most ")
    folder = preflight_search(search, formats, out)
    said: set[str] = set()

    @contextmanager
    def follow(part: "Prepared") -> "Iterator[Callable[[Event], None]]":
        with progress_of(part, jobs) as progress:
            yield progress
        said.update(progress.said)

    found = run_search(
        search, folder, formats, jobs=jobs, follow=follow, tell=lambda line: say(line, err=True), command=_command()
    )
    say(f"\n{found.report.text}\n")
    best = found.report.found.best
    rows = [found.report.found.dense, best.network] if best else []
    _say_files([(folder / file.path, file) for row in rows if row for file in row.files], found.report.page)
    raise typer.Exit(exit_code(found.failures, said) or (0 if best else 1))


def _say_cost(prepared: "Prepared", jobs: int | None, most: str = "") -> NoReturn:
    """What is left to run, and nothing more."""
    from prunetune.cli.plan_summary import cost_line
    from prunetune.execution.executors.launch import jobs_for

    say(f"{most}{cost_line(prepared.plan, prepared.remaining, jobs or jobs_for(prepared.plan))}")
    raise typer.Exit


def _say_files(files: "Sequence[tuple[Path, ModelFile]]", page: Path, copies: Sequence[Path] = ()) -> None:
    from prunetune.report.tradeoff.tradeoff_page import file_text

    for path, file in files:
        say(f"Model: {path} ({file_text(file)})")
    if copies:
        say(f"Best: {', '.join(map(str, copies))}")
    say(f"Report: {page}")


def _command() -> str:
    return shlex.join(["prunetune", *sys.argv[1:]])
