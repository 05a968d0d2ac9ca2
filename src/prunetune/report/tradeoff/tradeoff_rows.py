"""What a pruned model costs and wins: the rows that the verb `prune` leaves, and what they come to in words.

Nothing is measured here. `tradeoff.json` holds all of it, so that a folder can be rendered again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from prunetune.analysis.pairing import percent
from prunetune.core.metric import LOWER, Metric
from prunetune.errors import ConfigError, counted
from prunetune.report.results_files import LATER, decode, json_text, read_object
from prunetune.report.table_format import number

TRADEOFF, SCHEMA_VERSION = "tradeoff.json", 1
# Formats in 8 bits, and how ranges are found.
INT8: dict[str, Literal["static", "dynamic"]] = {"int8-static": "static", "int8-dynamic": "dynamic"}
IN_ONNXRUNTIME = ("onnx", *INT8)  # formats that onnxruntime runs: scored and timed there
GRAPHS = (*IN_ONNXRUNTIME, "pt2")  # formats that hold a network; the others hold weights
SPARSE = "sparse-layers"  # a format of weights that names the layers which run sparse: scored and timed in torch
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
    """A file of the model; `path` is relative to the report, `max_error` against torch on real inputs.

    Of a file that onnxruntime runs, what it scores there on the test examples, and its times on one thread of the
    processor, as many times as fast as the dense network's `onnx` file; of a `sparse-layers` file the same in torch,
    against the dense network there. None stands for what an older file lacks.
    """

    format: str
    path: str
    bytes: int
    max_error: float
    zeros_exact: bool
    compressed_bytes: int | None = field(default=None, metadata=LATER)
    score: float | None = field(default=None, metadata=LATER)
    timings: tuple[Timing, ...] = field(default=(), metadata=LATER)
    int8_weights: int | None = field(default=None, metadata=LATER)  # in 8 bits, of a file of such
    int8_zeros: int | None = field(default=None, metadata=LATER)  # that are zero among these
    sparse_layers: tuple[str, ...] = field(default=(), metadata=LATER)  # names of the layers that run sparse


@dataclass(frozen=True)
class ModelRow:
    """One network: the dense one (sparsity 0) or one that was pruned & fine-tuned.

    Scores are one for each of `seeds`, which did not diverge, accuracies the same where they are that, in percent;
    `held_out` are those on training data that were held out, if any were. All else is of the network of `seed`. MACs
    are of one example; effective ones are those with a weight that is not zero. `shrunk`: what is counted, timed and
    put into graphs is the smaller network in which no channel is zero. Times are with the `sparse_layers`, if any.
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
    seeds: tuple[int, ...] = field(default=(), metadata=LATER)
    held_out: tuple[float, ...] = field(default=(), metadata=LATER)
    sparse_layers: tuple[str, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        """Give a row of an older file its scores, and seeds where it has scores and does not say of which."""
        if not self.scores and self.accuracies is not None:
            object.__setattr__(self, "scores", self.accuracies)
        if len(self.seeds) != len(self.scores):
            object.__setattr__(self, "seeds", tuple(range(len(self.scores))))

    @property
    def label(self) -> str:
        """`dense`, or the sparsity."""
        return percent(self.sparsity) if self.sparsity else "dense"

    @property
    def torch_timings(self) -> tuple[Timing, ...]:
        """All that is known of its times in torch: with dense kernels, and with sparse layers where a file has them."""
        return (*self.timings, *self.sparse_timings)

    @property
    def sparse_timings(self) -> tuple[Timing, ...]:
        """Those of a file with sparse layers; one without is the dense network once more, and faster only by chance."""
        return tuple(timing for file in self.files if file.sparse_layers for timing in file.timings)

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
    """All that one `prune` found; the dense row comes first, then by sparsity. `missing` says what there is not.

    `best` is the sparsity of the network that the page leads with, whose files are copied to `best_files`.
    """

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
    best: float | None = field(default=None, metadata=LATER)
    best_files: tuple[str, ...] = field(default=(), metadata=LATER)  # from the report's folder
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def metric(self) -> Metric:
        """What the networks are scored by."""
        return Metric.of(self.study)

    @property
    def margin(self) -> float:
        """The drop from the dense network up to which scores count as similar: the verdict's."""
        return _rule(self.study, "margin", self.metric.margin)

    @property
    def alpha(self) -> float:
        """The verdict's level."""
        return _rule(self.study, "alpha", 0.05)

    @property
    def dense(self) -> ModelRow | None:
        """The row of the dense network; None when its training diverged."""
        return next((row for row in self.rows if not row.sparsity), None)

    @property
    def pruned(self) -> tuple[ModelRow, ...]:
        """The other rows."""
        return tuple(row for row in self.rows if row.sparsity)


def _rule(study: dict[str, Any], name: str, default: float) -> float:
    """A number of the study's verdict; ConfigError for what is none."""
    rule = study.get("verdict") or {}
    value = rule.get(name, default) if isinstance(rule, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"study.verdict.{name}: is {value!r}; it must be a number")
    return float(value)


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
        *sparse_text(pruned[-1]),
        _size_text(dense, pruned[-1]),
        *onnxruntime_text(found.metric, pruned[-1]),
    ]


def _emptied_text(pruned: Sequence[ModelRow]) -> list[str]:
    """A sentence for every network with layers that lost all their weights."""
    emptied = {row.label: [p.name for p in row.layers if p.total and not p.nonzero and not p.reason] for row in pruned}
    return [
        f"At {label}, no weight of {', '.join(names)} is left: nothing comes through such a layer."
        for label, names in emptied.items()
        if names
    ]


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
    zeros = f"{pattern.capitalize()} zeros"
    here = "here with dense kernels" if any(file.format == SPARSE for file in row.files) else "here"
    no, open_ = (
        ("The smaller network is no faster", "The smaller network is not shown to be faster")
        if row.shrunk
        else (f"{zeros} do not make this network faster", f"{zeros} are not shown to make this network faster")
    )
    sentences = []
    for timing in row.timings:
        what = "Faster" if faster(timing) else no if timing.speedup_high <= NOTABLE else open_
        sentences.append(f"{what} {here}: {ratio(timing)} at {row.label} sparsity, batch {timing.batch}.")
    return sentences


def _size_text(dense: ModelRow, row: ModelRow) -> str:
    raw, compressed = dense.raw_bytes / row.raw_bytes, dense.compressed_bytes / row.compressed_bytes
    plain = f"{raw:.1f}x smaller" if raw >= NOTABLE else "no smaller, as a zero takes the room of any number"
    packed = f"{compressed:.1f}x smaller" if compressed >= NOTABLE else "no smaller either"
    return f"At {row.label} sparsity the weights' file is {plain}; compressed it is {packed}."


def onnxruntime_text(metric: Metric, row: ModelRow) -> list[str]:
    """One sentence for each file of a network that onnxruntime runs: its speed, in 8 bits what rounding does too."""
    files = {file.format: file for file in row.files if file.timings and file.format in IN_ONNXRUNTIME}
    sentences = []
    for name, file in files.items():
        speeds = ", ".join(f"{ratio(timing)} at batch {timing.batch}" for timing in file.timings)
        rounded = ""
        if name in INT8 and file.score is not None and (whole := files["onnx"].score) is not None:
            rounded = f"; 8 bits change its {metric.name} by {metric.text_difference(file.score - whole)}"
        sentences.append(f"In onnxruntime {row.label} {name} against dense onnx: {speeds}{rounded}.")
    return sentences


def sparse_text(row: ModelRow) -> list[str]:
    """A sentence on the network whose layers run sparse where that is faster, if there is a file of it."""
    for file in row.files:
        if file.format == SPARSE and not file.sparse_layers:
            return [f"No layers that run sparse make the {row.label} network surely faster here; its file has none."]
        if file.format == SPARSE and file.timings:
            speeds = ", ".join(f"{ratio(timing)} at batch {timing.batch}" for timing in file.timings)
            layers = counted(len(file.sparse_layers), "layer")
            return [f"With {layers} run sparse, chosen at batch 1, {row.label} against dense in torch: {speeds}."]
    return []


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
