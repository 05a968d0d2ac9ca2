"""Seconds a training against the network's width, the size of the data, jobs and seeds."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.findings import Comparison, Findings, spread
from benchmarks.loops import ours
from benchmarks.material import Setting, origin
from benchmarks.rounds import Options, Variant, compare
from benchmarks.serving import served
from prunetune.api import audit
from prunetune.execution.executors.launch import default_jobs
from prunetune.report.figures.style import colour, drawing_style, standalone

ROUNDS = 3
WIDTHS = (8, 16, 32, 64)
STEPS = (5, 10, 20, 40)  # of batches of 128
SEEDS = (1, 2, 4)
STUDY: dict[str, Any] = {
    "model": "small",
    "data": "fashion-mini",
    "recipe": {"epochs": 2, "batch_size": 64},
    "learning_rates": [0.1],
    "sparsities": [0.5, 0.75],
    "rewind": "1ep",
}
SIZE, COLUMNS = (11.0, 2.8), 4  # inches


class Size(NamedTuple):
    """Of an audit."""

    jobs: int
    seeds: int


def run(options: Options) -> Findings:
    """One training of ResNet-20 alone in its process; whole audits of a small study for jobs and seeds."""
    few, one = (2, 1) if options.quick else (None, None)
    cores = default_jobs()
    jobs = sorted({1, *(2**i for i in range(cores.bit_length()) if 2**i <= cores), cores})
    plain = replace(Setting.of(options), steps=1 if options.quick else 10)
    widths = {str(width): replace(plain, width=width) for width in WIDTHS[:few]}
    sizes = {f"{plain.batch * steps}": replace(plain, steps=steps) for steps in STEPS[:few]}
    return Findings(
        comparisons=(
            _alone("width of resnet20", widths, options),
            _alone("training images of resnet20", sizes, options),
            _audits("jobs", jobs[:one], lambda n: Size(jobs=n, seeds=2), options),
            _audits("seeds", SEEDS[:one], lambda n: Size(jobs=cores, seeds=n), options),
        ),
        notes=(origin(options.root),),
    )


def draw(findings: Findings) -> str:
    """A small panel for each comparison: medians with quartiles, on logarithmic axes."""
    figure = Figure(figsize=SIZE)
    with drawing_style():
        for place, found in enumerate(findings.comparisons, start=1):
            _panel(figure, place, found)
        figure.tight_layout()
    words = " ".join(
        f"{found.title}: " + ", ".join(f"{spread(row.samples).median:.3g} at {row.name}" for row in found.rows) + "."
        for found in findings.comparisons
    )
    return standalone(figure, "growth", "Seconds a training", words)


def training_seconds(setting: Setting) -> Callable[[], float]:
    """Seconds of one training under a mask."""
    rate = ours(setting)
    return lambda: setting.images / rate()


def _alone(title: str, settings: dict[str, Setting], options: Options) -> Comparison:
    with ExitStack() as stack:
        variants = [
            Variant(name, stack.enter_context(served(partial(training_seconds, setting))))
            for name, setting in settings.items()
        ]
        return compare(title, "s a training", variants, options.rounds)


def _audits(title: str, values: Sequence[int], how: Callable[[int], Size], options: Options) -> Comparison:
    study = {**STUDY, "sparsities": [0.5], "data_args": {"train_limit": 64}} if options.quick else STUDY
    numbers = count()
    with TemporaryDirectory() as name:

        def seconds(value: int) -> float:
            folder, size = Path(name) / str(next(numbers)), how(value)
            began = time.perf_counter()
            finished = audit(study, seeds=size.seeds, out=folder / "out", store=folder / "store", jobs=size.jobs)
            return (time.perf_counter() - began) / len({trial.key for trial in finished.results.trials})

        variants = [Variant(str(value), partial(seconds, value)) for value in values]
        return compare(title, "s a training", variants, options.rounds)


def _panel(figure: Figure, place: int, found: Comparison) -> None:
    axes = figure.add_subplot(1, COLUMNS, place)
    places = [float(row.name) for row in found.rows]
    spreads = [spread(row.samples) for row in found.rows]
    medians = [one.median for one in spreads]
    axes.plot(places, medians, color=colour("ticket"), marker="o", markersize=4)
    axes.vlines(places, [one.low for one in spreads], [one.high for one in spreads], color=colour("ticket"))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [row.name for row in found.rows])
    axes.set_yticks(medians, [f"{median:.3g}" for median in medians])
    axes.minorticks_off()
    axes.set_xlabel(found.title)
    if place == 1:
        axes.set_ylabel(found.unit)
