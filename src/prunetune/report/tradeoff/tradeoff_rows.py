"""What a pruned model costs and wins: the rows that the verb `prune` leaves, and what they come to in words.

Nothing is measured here. `tradeoff.json` holds all of it, so that a folder can be rendered again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prunetune.analysis.pairing import percent
from prunetune.core.metric import LOWER, Metric
from prunetune.errors import counted
from prunetune.report.results_files import decode, json_text, read_object
from prunetune.report.table_format import number

TRADEOFF, SCHEMA_VERSION = "tradeoff.json", 1
GRAPHS = ("onnx", "pt2")  # formats that hold a network; the others hold weights
NOTABLE = 1.05  # a smaller gain is none that anybody would call one


@dataclass(frozen=True)
class Timing:
    """Seconds per call at one batch size, and how many times as fast as the dense network, measured in turns with it.

    `low` and `high` are the quartiles of a call; those of the speed-up bound its median over rounds with 95 %.
    """

    batch: int
    median: float
    low: float
    high: float
    rounds: int
    speedup: float
    speedup_low: float
    speedup_high: float


@dataclass(frozen=True)
class ParameterDensity:
    """One parameter; `reason` says why it is not pruned, and is empty where it is."""

    name: str
    kind: str  # of the module
    total: int
    nonzero: int
    reason: str

    @property
    def density(self) -> float:
        """The share that is not zero."""
        return self.nonzero / self.total if self.total else 1.0


@dataclass(frozen=True)
class ModelFile:
    """A file of the model; `path` is relative to the report, `max_error` against torch on real inputs."""

    format: str
    path: str
    bytes: int
    max_error: float
    zeros_exact: bool


@dataclass(frozen=True)
class ModelRow:
    """One network: the dense one (sparsity 0) or one that was pruned & fine-tuned.

    Scores are one per seed that did not diverge, accuracies the same where they are that, in percent; all else is of
    the network of `seed`. MACs are of one example; effective ones are those with a weight that is not zero. `shrunk`:
    what is counted, timed and put into graphs is the smaller network in which no channel is zero.
    """

    sparsity: float
    density: float  # measured, over the prunable weights
    seed: int
    accuracies: tuple[float, ...] | None  # None where another metric is scored
    parameters: int
    nonzeros: int
    macs: int
    effective_macs: int
    raw_bytes: int
    compressed_bytes: int
    shrunk: bool
    timings: tuple[Timing, ...]
    layers: tuple[ParameterDensity, ...]
    files: tuple[ModelFile, ...]
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Give a row with accuracies, such as one of a file of before there were scores, its scores."""
        if not self.scores and self.accuracies is not None:
            object.__setattr__(self, "scores", self.accuracies)

    @property
    def label(self) -> str:
        """`dense`, or the sparsity."""
        return percent(self.sparsity) if self.sparsity else "dense"

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return fmean(self.scores)

    def score_text(self, metric: Metric) -> str:
        """`91.20`, with the lowest and the highest seed where there are several."""
        low, mean, high = (number(score, metric.digits) for score in (min(self.scores), self.score, max(self.scores)))
        return f"{mean} ({low} to {high})" if len(self.scores) > 1 else mean


@dataclass(frozen=True)
class Tradeoff:
    """All that one `prune` found; the dense row comes first, then by sparsity. `missing` says what there is not."""

    name: str
    model: str
    data: str
    mask: str
    pattern: str
    learning_rate: float
    epochs: int
    rows: tuple[ModelRow, ...]
    missing: tuple[str, ...]
    study: dict[str, Any]
    environment: dict[str, Any]
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def metric(self) -> Metric:
        """What the networks are scored by."""
        return Metric.of(self.study)

    @property
    def dense(self) -> ModelRow | None:
        """The row of the dense network; None when its training diverged."""
        return next((row for row in self.rows if not row.sparsity), None)

    @property
    def pruned(self) -> tuple[ModelRow, ...]:
        """The other rows."""
        return tuple(row for row in self.rows if row.sparsity)


def tradeoff_json(found: Tradeoff) -> str:
    """The content of `tradeoff.json`: strict JSON."""
    return json_text(found) + "\n"


def canonical(found: Tradeoff) -> Tradeoff:
    """The same rows as a reader of `tradeoff.json` gets them."""
    return decode(json.loads(tradeoff_json(found)), Tradeoff, TRADEOFF)


def read_tradeoff(path: Path) -> Tradeoff:
    """Read `tradeoff.json`; ConfigError with one line for a file that is none."""
    return decode(read_object(path, (SCHEMA_VERSION,)), Tradeoff, str(path))


def tradeoff_summary(found: Tradeoff) -> list[str]:
    """What the numbers come to, in sentences: score, time, size."""
    dense, pruned = found.dense, found.pruned
    if dense is None or not pruned:
        return []
    return [
        *_emptied_text(pruned),
        _score_text(found.metric, found.epochs, dense, pruned),
        *_speed_text(found.pattern, pruned),
        _size_text(dense, pruned[-1]),
    ]


def _emptied_text(pruned: Sequence[ModelRow]) -> list[str]:
    """A sentence for every network with layers that lost all their weights."""
    emptied = {row.label: [p.name for p in row.layers if p.total and not p.nonzero and not p.reason] for row in pruned}
    return [
        f"At {label}, no weight of {', '.join(names)} is left: nothing comes through such a layer."
        for label, names in emptied.items()
        if names
    ]


def headline(found: Tradeoff) -> str:
    """What the sparsest network costs and wins, in a few words."""
    dense, pruned = found.dense, found.pruned
    if dense is None or not pruned:
        return "No pruned network: see what is left out"
    row = pruned[-1]
    change = found.metric.text_difference(row.score - dense.score)
    of_metric = "" if found.metric.is_accuracy else f" of {found.metric.axis}"
    packed = dense.compressed_bytes / row.compressed_bytes
    quick = [timing for timing in row.timings if faster(timing)]
    speed = f"at least {max(timing.speedup_low for timing in quick):.2f}x faster" if quick else "no faster"
    return f"{row.label} sparse: {change}{of_metric}, {packed:.1f}x smaller compressed, {speed} here"


def faster(timing: Timing) -> bool:
    """Whether a network is faster than the dense one, beyond doubt and by enough to be called so."""
    return timing.speedup_low > 1 and timing.speedup >= NOTABLE


def _score_text(metric: Metric, epochs: int, dense: ModelRow, pruned: Sequence[ModelRow]) -> str:
    changes = [f"{metric.text_difference(row.score - dense.score)} at {row.label}" for row in pruned]
    seeds = len(dense.scores)
    little = "of a few tenths" if metric.is_accuracy else f"below {metric.amount(metric.margin)}"
    caution = "" if seeds > 1 else f"; one seed, so differences {little} mean little"
    longer = f"after {counted(epochs, 'more epoch')} of training"
    lower = "" if metric.higher_is_better else f" ({LOWER})"
    against = f"{metric.title}{lower} against the dense network's {metric.text(dense.score)}"
    return f"{against}, {longer}: {', '.join(changes)}{caution}."


def _speed_text(pattern: str, pruned: Sequence[ModelRow]) -> list[str]:
    """One sentence for each batch size, on the sparsest network."""
    row = pruned[-1]
    what = "The smaller network is no" if row.shrunk else f"{pattern.capitalize()} zeros do not make this network"
    sentences = []
    for timing in row.timings:
        figures = f"{ratio(timing)} at {row.label} sparsity, batch {timing.batch}"
        sentences.append(f"Faster here: {figures}." if faster(timing) else f"{what} faster here: {figures}.")
    return sentences


def _size_text(dense: ModelRow, row: ModelRow) -> str:
    raw, compressed = dense.raw_bytes / row.raw_bytes, dense.compressed_bytes / row.compressed_bytes
    plain = f"{raw:.1f}x smaller" if raw >= NOTABLE else "no smaller, as a zero takes the room of any number"
    packed = f"{compressed:.1f}x smaller" if compressed >= NOTABLE else "no smaller either"
    return f"At {row.label} sparsity the weights' file is {plain}; compressed it is {packed}."


def ratio(timing: Timing) -> str:
    """A speed-up with its interval: `1.02x [0.98, 1.05]`."""
    return f"{timing.speedup:.2f}x [{timing.speedup_low:.2f}, {timing.speedup_high:.2f}]"


def not_pruned(rows: Sequence[ModelRow]) -> dict[str, list[ParameterDensity]]:
    """Why a parameter is not pruned -> those of the sparsest network."""
    found: dict[str, list[ParameterDensity]] = {}
    for layer in rows[-1].layers if rows else ():
        if layer.reason:
            found.setdefault(layer.reason, []).append(layer)
    return found
