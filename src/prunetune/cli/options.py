"""What verbs have in common: options, how their values are read, and how lines are printed."""

import io
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from prunetune.errors import ConfigError, counted, printable, shown, unknown

if TYPE_CHECKING:
    from prunetune.api import Prepared
    from prunetune.execution.progress import Progress
    from prunetune.execution.runner import Executor as Runs

T = TypeVar("T")
EXECUTORS = ("local", "ray", "slurm")
MOST_JOBS = 1024  # processes: more is a slip, and would bring a machine down


def say(text: object, err: bool = False) -> None:
    """Print lines; what they quote of files and of other machines reaches no terminal as a command to it."""
    typer.echo(printable(text), err=err)


def escape_what_an_encoding_lacks() -> None:
    """Let no line end the program because a stream's encoding (cp1252, ASCII) lacks one of its characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not 1 <= len(text.lstrip("0")) <= 9:
        raise typer.BadParameter(f"{shown(text)} is not a whole number of at least 1")
    return int(text)


def processes(text: str) -> int:
    """A number of processes."""
    if (number := count(text)) > MOST_JOBS:
        raise typer.BadParameter(f"{shown(text)}; at most {MOST_JOBS} processes")
    return number


def shares(text: str) -> tuple[float, ...]:
    """Numbers, with commas between them."""
    return tuple(share(part) for part in entries(text, "0.5,0.9"))


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, with commas between them."""
    return tuple(count(part) for part in entries(text, "1,64"))


def names(text: str) -> tuple[str, ...]:
    """Texts, with commas between them."""
    return entries(text, "a,b")


def entries(text: str, example: str) -> tuple[str, ...]:
    """What stands between commas; a wrong option where that is nothing."""
    found = tuple(part.strip() for part in text.split(","))
    if "" in found:
        raise typer.BadParameter(f"{shown(text)} has an empty entry; must be one entry, or a list such as {example}")
    return found


def joined(lists: Iterable[Sequence[T]] | None) -> list[T]:
    """The entries of an option that takes a list and may be repeated."""
    return [entry for entries in lists or () for entry in entries]


def share(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{shown(text)} is not a number, such as 0.2") from error


def executor_named(
    name: str,
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_training: float | None = None,
    slurm: Sequence[str] = (),
) -> "Runs":
    """The executor called `name`; ConfigError for a name that there is not, or an option that is another one's."""
    if name not in EXECUTORS:
        raise unknown("--executor", name, EXECUTORS)
    if name != "ray" and address is not None:
        raise ConfigError(f"--address: '{address}': only with --executor ray")
    if name != "ray" and gpus_per_training is not None:
        raise ConfigError(f"--gpus-per-training: {gpus_per_training}: only with --executor ray")
    if name != "slurm" and slurm:
        raise ConfigError(f"--slurm: '{slurm[0]}': only with --executor slurm")
    if name == "ray":
        from prunetune.execution.executors.ray import GPU_SHARE, RayExecutor

        return RayExecutor(address, jobs, GPU_SHARE if gpus_per_training is None else gpus_per_training)
    if name == "slurm":
        from prunetune.execution.executors.slurm import SlurmExecutor, read_parameters

        return SlurmExecutor(jobs, read_parameters(slurm))
    from prunetune.execution.executors.local import LocalExecutor

    return LocalExecutor(jobs)


def progress_of(prepared: "Prepared", jobs: int | None) -> "Progress":
    """Say what is about to run and what it will take, and follow it."""
    from prunetune.cli.plan_summary import cost_line
    from prunetune.execution.executors.launch import jobs_for
    from prunetune.execution.progress import Progress
    from prunetune.plan.compile import look_words

    say(cost_line(prepared.plan, prepared.remaining, jobs or jobs_for(prepared.plan)), err=True)
    if look := look_words(prepared.plan):
        say(look, err=True)
    return Progress(prepared.plan, prepared.remaining)


def exit_code(failures: Sequence[str], said: Collection[str] = ()) -> int:
    """The exit code, after a line for everything that failed; for what ends in a reason that was `said`, one for all.

    A step's failure is said when it happens, and every row that it leaves without a result ends in its reason.
    """
    again = [line for line in failures if line.endswith(tuple(said))]
    for line in failures:
        if line not in again:
            say(f"failed: {line}", err=True)
    if again:
        say(f"failed: {counted(len(again), 'result')} missing, for the reasons said above", err=True)
    return 1 if failures else 0


Source = Annotated[
    str | None, typer.Argument(metavar="[SPEC.yaml|PRESET]", help="A spec file or a preset; without it: `quick`.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one field, e.g. recipe.epochs=15 or arms=ticket,reinit. May be repeated.",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        parser=share,
        metavar="S",
        help="Multiply all epochs by S and set the weight decay so that as much of the initial weights is left "
        "(docs/explanation/kappa.md); --set changes the scaled study.",
    ),
]
Epochs = Annotated[int | None, typer.Option(parser=count, metavar="N", help="Of every training; else the spec's.")]
Seeds = Annotated[
    int | None,
    typer.Option(
        parser=count,
        metavar="N",
        help="How many repetitions; one seed is never a verdict. --set seeds=auto adds them where it is undecided.",
    ),
]
StoreDir = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="Where finished steps lie: a folder, or a URL such as s3://bucket/folder for machines that share no "
        "disk; else $PRUNETUNE_STORE, else the user cache.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(parser=processes, metavar="N", help="Trainings at once; else one per core, on a GPU by its memory."),
]
Executor = Annotated[
    str,
    typer.Option(
        metavar="local|ray|slurm",
        help="Where steps run: here, on a Ray cluster, or as Slurm jobs. For ray and slurm the store must be a folder "
        "that all machines share, and --jobs is the number of steps handed over at once.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="With ray: a running cluster's head, or auto; else a local one is started."),
]
GpuShare = Annotated[
    float | None,
    typer.Option(parser=share, metavar="SHARE", help="With ray: a training's share of a GPU; else 0.25."),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="With slurm: of the jobs, e.g. partition=long; may be repeated.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A registered model, or package.module:callable, which is run; arguments by --set model_args.width=8.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Data to train and test on, as in a spec (with --model); arguments by --set data_args.root=DIR.",
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Your trained model: safetensors, or torch.save of tensors; without it a dense one is trained first.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Of a checkpoint that holds several states, the one to take, such as ema or model.state_dict.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
