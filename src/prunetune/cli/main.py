"""The command line. Everything heavy is imported inside a verb, so that `--help` answers at once."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from prunetune import __version__
from prunetune.cli.audit_verb import audit_studies
from prunetune.cli.bench_kernels_verb import bench_kernels
from prunetune.cli.options import (
    Address,
    Data,
    Device,
    Epochs,
    Executor,
    GpuShare,
    Jobs,
    Model,
    Scale,
    Seeds,
    Set,
    Slurm,
    Source,
    StoreDir,
    WeightsFile,
    WeightsKey,
    count,
    escape_what_an_encoding_lacks,
    joined,
    names,
    say,
    share,
    shares,
)
from prunetune.cli.prune_verb import DryRun, Latency, Macs, MaxDrop, Params, Size, Speedup, prune_grid, search_budget
from prunetune.cli.reading import reading_app, store_app
from prunetune.cli.sensitivity_verb import sensitivity
from prunetune.core.interrupts import Listener, ignore_all, listening
from prunetune.errors import ConfigError, CorruptionError, one_line

UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]  # base of all usage errors; typer exports no name

app = typer.Typer(
    name="prunetune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """What should my sparse network be trained from? Ask `prunetune audit`."""
    if show:
        say(f"prunetune {__version__}")
        raise typer.Exit


@app.command()
def audit(
    source: Source = None,
    changes: Set = None,
    epochs: Epochs = None,
    scale: Scale = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; else runs/NAME, or beside another study's there."),
    ] = None,
    store: StoreDir = None,
    jobs: Jobs = None,
    executor: Executor = "local",
    address: Address = None,
    gpus_per_training: GpuShare = None,
    slurm: Slurm = None,
    device: Device = "auto",
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the trainings' curves there, for TensorBoard (an optional extra)."),
    ] = None,
) -> None:
    """Train the arms, judge the winning property, and write the report.

    Nothing is trained twice: the same command after an interruption goes on, and a second audit only reports.
    A spec that names package.module:callable has that code imported and run, so audit only specs that you trust.

        prunetune audit

        prunetune audit quick --epochs 2 --seeds 2

        prunetune audit quick --set arms=ticket,reinit --set learning_rates=0.1

        prunetune audit quick --set seeds=auto    (5 seeds, and up to 20 where a verdict is undecided)

        prunetune audit my-study.yaml --jobs 8

        prunetune audit paper/a1 --scale 0.1 --seeds 2    (all of its studies, each into a folder of its own)

        prunetune audit my-study.yaml --executor ray --address 10.0.0.1:6379 --store /shared/store
    """
    from prunetune.cli.options import executor_named

    chosen = executor_named(executor, jobs, address, gpus_per_training, slurm or ())
    options = _options(changes, epochs, scale, seeds, store, device, executor)
    raise typer.Exit(audit_studies(source, out, options, jobs, chosen, tensorboard))


@app.command()
def plan(
    source: Source = None,
    changes: Set = None,
    epochs: Epochs = None,
    scale: Scale = None,
    seeds: Seeds = None,
    store: StoreDir = None,
    jobs: Jobs = None,
    executor: Executor = "local",
    address: Address = None,
    gpus_per_training: GpuShare = None,
    slurm: Slurm = None,
    device: Device = "auto",
    simulated: Annotated[
        str | None,
        typer.Option(
            "--simulate",
            metavar="nodes=N,gpus=N|cpus=N[,seconds=S]",
            help="Also say how long the whole study takes on N machines of N GPUs or CPU cores each, one training on "
            "each; S: seconds of a training there, else as stored or timed here.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also count the steps of each kind that the store will hold.")
    ] = False,
) -> None:
    """Show what `audit` with the same arguments would run, how long that takes and what it takes of the disk.

    Trains nothing, but times a few steps of a training.

        prunetune plan my-study.yaml --store DIR    (what that store holds is not counted again)

        prunetune plan paper/fig6-resnet20-cifar10 --simulate nodes=64,gpus=8,seconds=60
    """
    from prunetune.api import plan_study
    from prunetune.cli.options import executor_named
    from prunetune.cli.plan_summary import Machines, foresee, outline, outline_of_group
    from prunetune.execution.executors.launch import jobs_for
    from prunetune.spec.presets import members

    executor_named(executor, jobs, address, gpus_per_training, slurm or ())
    machines = Machines.parse(simulated) if simulated is not None else None
    options = _options(changes, epochs, scale, seeds, store, device, executor)
    if group := members(source or ""):
        if machines:
            raise ConfigError(f"--simulate: '{source}' is a group; simulate one of its studies, such as {group[0]}")
        say(outline_of_group(str(source), [plan_study(name, **options) for name in group]))
        return
    prepared = plan_study(source, **options)
    foreseen = foresee(prepared, machines) if machines else None
    say(outline(prepared, jobs or jobs_for(prepared.plan), verbose))
    if foreseen:
        say(f"\n{foreseen}")


@app.command()
def prune(
    source: Annotated[
        str | None, typer.Argument(metavar="[SPEC.yaml|PRESET]", help="A spec; its arms are ignored. Or --model.")
    ] = None,
    model: Model = None,
    data: Data = None,
    weights: WeightsFile = None,
    weights_key: WeightsKey = None,
    sparsity: Annotated[
        list[Any] | None,
        typer.Option(
            parser=shares,
            metavar="S[,S…]",
            help="Share of the prunable weights to remove, one or a list; may be repeated.",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="How weights are chosen: one_shot (default), iterative, admm or gradual."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="unstructured (default), 2:4, another N:M, or channel.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(parser=count, metavar="N", help="Of every training; else the spec's (150).")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(parser=share, metavar="RATE", help="Of every training; else the spec's, or 0.01.")
    ] = None,
    formats: Annotated[
        list[Any] | None,
        typer.Option(
            "--export",
            parser=names,
            metavar="FORMAT[,FORMAT…]",
            help="onnx, int8-static, int8-dynamic, pt2, bitmask or sparse-layers, one or a list, beside the "
            "safetensors that is always written; may be repeated.",
        ),
    ] = None,
    changes: Set = None,
    scale: Scale = None,
    seeds: Annotated[int | None, typer.Option(parser=count, metavar="N", help="Repetitions; one by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where report and models go; else runs/NAME-pruned, with --max-drop runs/NAME-budget, or beside "
            "another study's there.",
        ),
    ] = None,
    store: StoreDir = None,
    jobs: Jobs = None,
    device: Device = "auto",
    max_drop: MaxDrop = None,
    speedup: Speedup = None,
    latency: Latency = None,
    macs: Macs = None,
    size: Size = None,
    params: Params = None,
    dry_run: DryRun = False,
) -> None:
    """Prune & fine-tune a model, measure what that costs and wins on this machine, and export it.

    Accuracy, non-zeros, MACs, file size and latency of every network; what was not pruned, and why; a report with
    the trade-off; the models as files. Shares its trainings with `audit`.

        prunetune prune --model small --data fashion-mini --epochs 6 --sparsity 0.5,0.9

        prunetune prune --model nets:build --weights trained.pt --data cifar10 --epochs 9 --sparsity 0.8 --export onnx

        prunetune prune study.yaml --mask admm --pattern 2:4

        prunetune prune quick --learning-rate 0.1 --pattern channel --sparsity 0.5 --export pt2

    With --max-drop, finds the smallest or fastest network that loses at most so much, with confidence; exit code 1
    where none does.

        prunetune prune --model small --data fashion-mini --epochs 6 --max-drop 1 --size 30kB

        prunetune prune quick --learning-rate 0.1 --mask one_shot --max-drop 0.5 --speedup 1.5 --dry-run
    """
    from prunetune.compression.exported_files import require_formats
    from prunetune.spec.compression import CompressionRequest
    from prunetune.spec.compression_budget import read_budget

    wanted: list[str] = joined(formats)
    require_formats(wanted)
    targets: dict[Any, str | None] = {
        "speedup": speedup,
        "latency": latency,
        "macs": macs,
        "size": size,
        "params": params,
    }
    budget = read_budget(max_drop, targets)
    asked = CompressionRequest(
        model=model,
        data=data,
        weights=weights,
        weights_key=weights_key,
        sparsities=tuple(joined(sparsity)),
        mask=mask,
        pattern=pattern,
        epochs=epochs,
        learning_rate=learning_rate,
        seeds=seeds,
        scale=scale,
    )
    if budget:
        search_budget(source, changes or (), asked, budget, wanted, out, store, jobs, device, dry_run)
    prune_grid(source, changes or (), asked, wanted, out, store, jobs, device, dry_run)


app.command()(sensitivity)
app.command()(bench_kernels)
app.add_typer(reading_app)
app.add_typer(store_app, name="store")


def _options(
    changes: list[str] | None,
    epochs: int | None,
    scale: float | None,
    seeds: int | None,
    store: str | None,
    device: str,
    executor: str,
) -> dict[str, Any]:
    """What `plan_study` is told beside the study, by audit and plan alike."""
    overrides = [*(changes or ()), *([f"recipe.epochs={epochs}"] if epochs is not None else [])]
    where = {"store": store, "device": device, "remote": executor != "local"}
    return {"overrides": overrides, "scale": scale, "seeds": seeds} | where


def _here() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise ConfigError("working directory: it was deleted; change to a folder that is there") from error


def _end(message: str, code: int) -> NoReturn:
    if message:  # a verb without arguments has shown its help already
        say(f"prunetune: {one_line(message)}", err=True)
    sys.exit(code)


def main() -> None:
    """Entry point: turns a wrong request into one line and exit code 2, and Ctrl-C, SIGTERM and SIGHUP into another and
    128 + the signal's number."""
    with listening() as listener:
        _main(listener)


def _main(listener: Listener) -> NoReturn:
    escape_what_an_encoding_lacks()
    try:
        sys.path.insert(0, _here())  # `package.module:callable` of the user's, as `python -m` would find it
        code = app(standalone_mode=False)
        if code == 128 + signal.SIGINT:  # newer typer turns Ctrl-C into this status by itself, without a word
            raise KeyboardInterrupt
    except UsageError as error:
        _end(error.format_message(), 2)
    except ConfigError as error:
        _end(str(error), 2)
    except CorruptionError as error:
        _end(str(error), 1)
    except OSError as error:  # a path that no file system takes, one that is somebody else's
        _end(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        ignore_all()
        kept = "every finished training is stored, and of a longer one its last checkpoint"
        _end(f"interrupted; {kept}; the same command goes on from here", 128 + (listener.heard or signal.SIGINT))
    sys.exit(code if isinstance(code, int) else 0)
