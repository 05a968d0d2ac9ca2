"""The verbs that train nothing: they read checkpoints, results, presets and stores."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunetune.cli.options import StoreDir, WeightsKey, joined, names, say, share, shares
from prunetune.errors import ConfigError, counted

if TYPE_CHECKING:
    from prunetune.store.store import StoreWriter

reading_app = typer.Typer()
store_app = typer.Typer(
    help="List, check and clean up the store, where finished trainings and measurements lie.", no_args_is_help=True
)


@reading_app.command()
def correlate(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint: safetensors, or torch.save of tensors.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another checkpoint of the same model.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Count only weights that this mask keeps: bool or 0/1, or the masks of torch.nn.utils.prune.",
        ),
    ] = None,
    p: Annotated[
        list[Any] | None,
        typer.Option(
            "-p",
            parser=shares,
            metavar="SHARE[,SHARE…]",
            help="Share of largest weights to compare, one or a list; may be repeated; else .1 to .5.",
        ),
    ] = None,
    include: Annotated[
        list[Any] | None,
        typer.Option(
            parser=names,
            metavar="PATTERN[,PATTERN…]",
            help="Only tensors whose name matches, one or a list; may be repeated.",
        ),
    ] = None,
    exclude: Annotated[
        list[Any] | None,
        typer.Option(
            parser=names,
            metavar="PATTERN[,PATTERN…]",
            help="Leave out tensors whose name matches, one or a list; may be repeated.",
        ),
    ] = None,
    weights_key: WeightsKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print full digits as JSON.")] = False,
) -> None:
    """Print the weight correlation R_p between two checkpoints of anybody's model.

    R_p is the share of the p largest-magnitude weights that two states have in common. Near p: independent;
    above: correlated. All shared floating tensors of two or more dimensions count, those listed.

        prunetune correlate initial.safetensors trained.safetensors -p 0.1,0.2
    """
    from prunetune.sparsity.correlate_files import correlate_files, correlation_table

    found = correlate_files(
        first, second, mask, joined(p) or [0.1, 0.2, 0.3, 0.4, 0.5], joined(include), joined(exclude), weights_key
    )
    say(json.dumps(found, indent=2, allow_nan=False) if as_json else correlation_table(found))


@reading_app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `audit` or `prune` wrote.")],
    latex: Annotated[
        bool, typer.Option("--latex", help="Write the accuracies of an audit to DIR/table.tex too (needs booktabs).")
    ] = False,
) -> None:
    """Render figures, tables and page again from a folder's results.json, tradeoff.json or budget.json.

    Trains nothing.
    """
    from prunetune.report.tradeoff.budget_page import render_budget_again
    from prunetune.report.tradeoff.budget_rows import BUDGET
    from prunetune.report.tradeoff.tradeoff_page import render_tradeoff_again
    from prunetune.report.tradeoff.tradeoff_rows import TRADEOFF
    from prunetune.report.write_report import LATEX, render_again

    of_prune = (folder / TRADEOFF).exists() or (folder / BUDGET).exists()
    if not of_prune:
        rendered = render_again(folder, latex)
    elif latex:
        raise ConfigError(f"--latex: '{folder}' is of `prune`; only an audit has a table of arms")
    elif (folder / BUDGET).exists():
        rendered = render_budget_again(folder)
    else:
        rendered = render_tradeoff_again(folder)
    say(f"{rendered.text}\n\nReport: {rendered.page}")
    if latex:
        say(f"LaTeX table: {folder / LATEX}")


@reading_app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Folders that `audit` wrote, or their results.json files.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the comparison goes; else runs/comparison.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Mask algorithm of the relation; else the one most dense runs have."),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(parser=share, metavar="S", help="Sparsity of the relation; else the middle one.")
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            metavar="QUANTITY",
            help="Also draw ticket − reinit over this: movement.sign_flips, movement.distance, movement.cosine, "
            "barriers.loss_barrier, barriers.accuracy_barrier (of another metric barriers.score_barrier), "
            "curvature.largest or curvature.trace, of studies whose spec has it in `measure`.",
        ),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="CELL CELL",
            help="Only print the paired differences of two cells: 'ARM MASK', 'dense', or 'STUDY: ARM MASK'.",
        ),
    ] = None,
    between: Annotated[
        bool, typer.Option("--between", help="Only print the paired differences of two studies in every common cell.")
    ] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="By held-out images, and alone: every cell's mean on them.")
    ] = False,
) -> None:
    """Read several studies together: does the paper's explanation of tickets hold over them? Trains nothing.

    prunetune compare runs/one runs/two --out runs/comparison

    prunetune compare runs/one runs/two --x movement.cosine

    prunetune compare studies/fashion-mnist --pair "finetune iterative" "ticket iterative"

    prunetune compare studies/precision studies/fashion-mnist --between
    """
    from prunetune.report.comparison.comparison_rows import cells_text, compare_studies, read_studies

    studies = read_studies(runs)
    if pair or between or held_out:
        if x:
            raise ConfigError("--x: draws regimes; it does not go with --pair, --between or --held-out")
        say(cells_text(studies, pair, between, held_out))
        return
    from prunetune.report.comparison.comparison_page import write_comparison

    written = write_comparison(compare_studies(studies, mask, sparsity, x=x), out or Path("runs") / "comparison")
    say(f"{written.text}\n\nReport: {written.page}")


@reading_app.command()
def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where reports were written; else runs.")
    ] = None,
) -> None:
    """List finished runs, the latest first: study, verdict or network, what to train from, date and folder.

    prunetune runs

    prunetune runs studies
    """
    from prunetune.report.run_folders import RUNS, runs_in, runs_table

    found = runs_in(folder or RUNS)
    say(runs_table(found) if found else f"no run in '{folder or RUNS}'")


@reading_app.command()
def presets() -> None:
    """List the studies that come with prunetune; `audit`, `plan`, `prune` and `sensitivity` take their names.

    prunetune plan paper/fig2-resnet20-cifar10
    """
    from prunetune.spec.presets import summaries

    found = summaries()
    width = max(map(len, found))
    for name, summary in found.items():
        say(f"{name:<{width}}  {summary}")
    say(f"{'paper/all':<{width}}  Group: all of the paper's; so is paper/a1, all studies of one figure.")
    say(f"{'thesis/all':<{width}}  Group: all of the thesis's, kappa set by weight decay and by length.")


@store_app.command("ls")
def store_ls(store: StoreDir = None) -> None:
    """List the finished steps: kind, key, size, time, the study and what the step is in it, and what was found."""
    for entry in _open(store).ls():
        say(str(entry))


@store_app.command("verify")
def store_verify(store: StoreDir = None) -> None:
    """Compare every stored file with its checksum; exit code 1 when something is damaged.

    Nothing is changed: the next audit that needs a damaged step does it again.
    """
    opened = _open(store)
    problems = list(opened.verify())
    for problem in problems:
        say(f"damaged: {problem}")
    say(f"{counted(len(list(opened.ls())), 'step')} read, {len(problems)} damaged")
    raise typer.Exit(1 if problems else 0)


@store_app.command("gc")
def store_gc(
    store: StoreDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Remove this study's finished steps instead, but those that another study needs. Its reports stay.",
        ),
    ] = None,
) -> None:
    """Remove what nobody needs any more, and list it. Finished steps stay, so that no study loses a result.

    That is what killed processes left (temporary files, and checkpoints of trainings that no process is at, so that an
    interrupted training begins anew), steps that were put aside as damaged, and old logs.

        prunetune store gc --study quick --dry-run
    """
    from prunetune.core.amounts import size

    doing, opened = "would remove" if dry_run else "removing", _open(store)
    if study is None:
        freed = opened.gc(dry_run, lambda leftover: say(f"{doing}: {leftover}"))
    else:
        freed, removed = opened.remove_study(study, dry_run, lambda leftover: say(f"{doing}: {leftover}"))
        for needed_by, count in sorted(Counter(removed.kept.values()).items()):
            say(f"kept: {counted(count, 'step')}, needed by {needed_by}")
    say(f"{size(freed)} {'would be freed' if dry_run else 'freed'}")


def _open(store: str | None) -> "StoreWriter":
    """The store to look after; ConfigError for a folder that somebody names and that holds none."""
    from prunetune.api import default_store
    from prunetune.store.cache import open_store
    from prunetune.store.store import Store

    opened = open_store(store or default_store())
    if store and isinstance(opened, Store):
        if not opened.backend.is_there():
            raise ConfigError(f"store: '{opened.root}' is not there; must be the folder that `audit --store` was given")
        opened.require_marked()
    return opened
