"""Memory of a worker, and bytes of a stored training against what the plan has estimated."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.findings import Findings, Goal, Table
from benchmarks.loops import ours
from benchmarks.material import Setting, origin
from benchmarks.rounds import Options
from benchmarks.serving import served
from prunetune.api import plan_study, preflight, run_study
from prunetune.execution.cost import estimate

ROUNDS = 1
MOST_OFF = 0.2
MODELS = ("resnet20", "vgg11", "mobilenetv2")
STUDIES: Mapping[str, Mapping[str, Any]] = {
    "small, as in quick": {"model": "small", "sparsities": [0.5, 0.75, 0.875, 0.9375], "learning_rates": [0.01, 0.1]},
    "resnet20, five rounds": {"model": "resnet20", "sparsities": {"per_round": 0.15, "rounds": 5}},
}
COMMON: Mapping[str, Any] = {
    "data": "fashion-mini",
    "data_args": {"train_limit": 128},
    "recipe": {"epochs": 2},
    "arms": ["ticket", "reinit", "rewind", "finetune"],
    "rewind": "1ep",
    "seeds": 1,
}


class Stored(NamedTuple):
    """A finished study's bytes: of its files, of the disk's blocks that they and their folders take, as estimated."""

    trainings: int
    files: int
    blocks: int
    estimated: int


def run(options: Options) -> Findings:
    """Peak resident set of a worker that trains, and the stores of two studies."""
    found = {name: _stored({**COMMON, **_few(study, options.quick)}) for name, study in _studies(options).items()}
    return Findings(
        tables=(_resident(options), _table(found)),
        goals=tuple(
            Goal(f"store on disk to estimate, {name}", one.blocks / one.estimated, 1 - MOST_OFF, 1 + MOST_OFF)
            for name, one in found.items()
        ),
        notes=(origin(options.root),),
    )


def peak_resident(setting: Setting) -> Callable[[], int]:
    """Bytes of the largest resident set so far, of a process that trains under a mask."""
    training = ours(setting)

    def after_training() -> int:
        training()
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

    return after_training


def _resident(options: Options) -> Table:
    rows = []
    for model in MODELS[: 1 if options.quick else None]:
        with served(partial(peak_resident, Setting.of(options, model))) as resident:
            rows.append((model, f"{resident() / 1e6:.0f}"))
    return Table("Largest resident set of a worker, batch 128, images in memory", ("network", "MB"), tuple(rows))


def _studies(options: Options) -> dict[str, Mapping[str, Any]]:
    return dict(list(STUDIES.items())[: 1 if options.quick else None])


def _few(study: Mapping[str, Any], quick: bool) -> Mapping[str, Any]:
    return {**study, "sparsities": [0.5], "learning_rates": [0.1]} if quick else study


def _stored(study: Mapping[str, Any]) -> Stored:
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepared = plan_study(study, store=folder / "store")
        estimated = estimate(prepared.plan, prepared.remaining, jobs=1).store_bytes
        run_study(prepared, preflight(prepared, folder / "out"))
        found = [path.stat() for path in (folder / "store" / "steps").rglob("*")]
        files = sum(one.st_size for one in found if S_ISREG(one.st_mode))
        blocks = sum(512 * one.st_blocks for one in found)
        return Stored(prepared.plan.trainings, files, blocks, estimated)


def _table(found: Mapping[str, Stored]) -> Table:
    return Table(
        "The store, kB a training",
        ("study", "trainings", "estimated", "files", "on disk", "on disk to estimate"),
        tuple(
            (
                name,
                str(one.trainings),
                *(f"{total / one.trainings / 1e3:.1f}" for total in (one.estimated, one.files, one.blocks)),
                f"{one.blocks / one.estimated:.2f}",
            )
            for name, one in found.items()
        ),
    )
