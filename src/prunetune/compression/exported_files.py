"""The files that `prune` writes of its networks: under which names, read back, and run where they are to run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from prunetune.api import Prepared
from prunetune.compression.measured_networks import Network, failure_line, few_of, inputs_of, sparse_form, timed
from prunetune.core.environment import int8_instructions
from prunetune.core.files import replacing
from prunetune.core.interrupts import raise_lost
from prunetune.data import TrainingData, load_examples
from prunetune.data.examples import Nest
from prunetune.deploy.bitmask import read_bitmask
from prunetune.deploy.export import LIST, announce_models, export, listed_models, note_model
from prunetune.deploy.graph_comparison import Batch, called
from prunetune.deploy.onnx_runtime import OnnxNetwork, onnx_libraries
from prunetune.deploy.quantised import write_int8
from prunetune.deploy.sizes import compressed_size
from prunetune.deploy.sparse_kernels import require_kernels
from prunetune.deploy.sparse_layers import load_sparse
from prunetune.errors import ConfigError, unknown
from prunetune.report.ownership import require_ours
from prunetune.report.tradeoff.tradeoff_rows import (
    GRAPHS,
    IN_ONNXRUNTIME,
    INT8,
    SPARSE,
    TRADEOFF,
    ModelFile,
    ModelRow,
    Timing,
    read_tradeoff,
)
from prunetune.sparsity.patterns import CHANNEL
from prunetune.training.evaluate import evaluate

MODELS = "models"  # the folder of the exported ones, within the report's
BEST, DENSE_STEM = "best", "dense"  # names of files
SUFFIXES = {
    "onnx": ".onnx",
    "int8-static": ".int8-static.onnx",
    "int8-dynamic": ".int8-dynamic.onnx",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
    "bitmask": ".bitmask.safetensors",
    SPARSE: ".sparse.bitmask.safetensors",
}
CALIBRATION = 256  # training examples by which the ranges of `int8-static` are set


def require_formats(formats: Sequence[str]) -> None:
    """ConfigError for a format that there is not, and for one that needs a library that is missing."""
    for name in formats:
        if name not in SUFFIXES:
            raise unknown("--export", name, SUFFIXES)
        if name in IN_ONNXRUNTIME:
            onnx_libraries(f"--export: {name}")


def all_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Those that are written: `safetensors` always, and the `onnx` file that one in 8 bits is made from and beside."""
    rounded = [name for name in formats if name in INT8]
    others = [name for name in formats if name not in INT8] + ["onnx"] * bool(rounded)
    return tuple(dict.fromkeys(["safetensors", *others, *rounded]))


def require_forms(prepared: Prepared, formats: Sequence[str]) -> None:
    """ConfigError for a graph, or for sparse layers, that the networks have not: before anything is trained."""
    task = prepared.spec.task
    for name in formats:
        if name in GRAPHS and task == "detection":
            right = "its networks give a list with an entry for each image; must be bitmask, or left out"
            raise ConfigError(f"--export: '{name}', and the task is detection; {right}")
    if SPARSE in formats:
        require_kernels()
        if all(mask.pattern == CHANNEL for mask in prepared.spec.masks):
            raise ConfigError("--export: 'sparse-layers', and the pattern is channel, which leaves no zeros to skip")


def exported_with(formats: Sequence[str]) -> dict[str, str]:
    """What of this machine and its libraries the files' scores and times hang on, beside what every report says."""
    if not set(IN_ONNXRUNTIME) & set(formats):
        return {}
    found = {"onnxruntime": onnx_libraries().onnxruntime.__version__}
    return found | ({"int8_instructions": int8_instructions()} if set(INT8) & set(formats) else {})


def model_stem(prepared: Prepared, sparsity: float) -> str:
    """The name of a network's files, without a suffix."""
    return f"{prepared.spec.model.replace(':', '-').replace('/', '-')}-{100 * sparsity:.12g}"


def model_paths(stems: Sequence[str], formats: Sequence[str], dense: str) -> list[str]:
    """Where the models go, from the report's folder; of the `dense` network only what onnxruntime runs is written."""
    names = [(stem, name) for stem in stems for name in all_formats(formats)]
    names += [(dense, name) for name in all_formats(formats) if name in IN_ONNXRUNTIME]
    return [f"{MODELS}/{stem}{SUFFIXES[name]}" for stem, name in names]


def listed_files(folder: Path) -> frozenset[str]:
    """The models in a report's folder that are ours, from that folder."""
    return frozenset(f"{MODELS}/{name}" for name in listed_models(folder / MODELS)) | _models_of_report(folder)


def _models_of_report(folder: Path) -> frozenset[str]:
    """Those that an earlier report lists and that have the size it says, where no list of models was kept yet."""
    try:
        rows = read_tradeoff(folder / TRADEOFF).rows if not (folder / MODELS / LIST).exists() else ()
    except ConfigError:
        return frozenset()
    sizes = {file.path: file.bytes for row in rows for file in row.files}
    return frozenset(path for path, size in sizes.items() if _size(folder / path) == size)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def exported(
    prepared: Prepared,
    measured: Sequence[tuple[Network, ModelRow]],
    stems: Sequence[str],
    formats: Sequence[str],
    folder: Path,
) -> tuple[tuple[ModelRow, ...], list[str]]:
    """The rows with their exported files, and a line for every file that could not be made; the others are.

    Files have the names `stems`, one a network. What onnxruntime runs is scored there on the test examples, and timed
    in turns, on one thread of the processor.
    """
    dense = next((network for network, _ in measured if network.mask is None), None)
    exporter = _Exporter(prepared, folder, dense)
    rows, failures = [], []
    for (network, row), stem in zip(measured, stems, strict=True):
        made: dict[str, ModelFile] = {}
        for name in formats if network.mask else [name for name in formats if name in IN_ONNXRUNTIME]:
            raise_lost()  # exporters may swallow an exception that is not theirs
            try:
                made[name] = exporter.file(network, name, f"{MODELS}/{stem}{SUFFIXES[name]}", made.get("onnx"))
            except Exception as error:  # exporters fail in ways of their own
                failures.append(failure_line(f"export {name} of {row.label}", error))
        rows.append(replace(row, files=tuple(made.values())))
    return exporter.timed(rows), failures


class _Exporter:
    """Writes one file after the other, and keeps those that are timed together: in onnxruntime, and in torch."""

    def __init__(self, prepared: Prepared, folder: Path, dense: Network | None) -> None:
        self._prepared, self._folder = prepared, folder
        self._data = load_examples(prepared.plan.data)
        self._images = inputs_of(self._data)
        self._in_onnxruntime: dict[str, nn.Module] = {}
        self._in_torch: dict[str, nn.Module] = {}
        self._dense = dense

    def file(self, network: Network, name: str, where: str, source: ModelFile | None) -> ModelFile:
        """A file of the format `name`; `source` is the network's `onnx` file, which one in 8 bits is made from."""
        target = self._folder / where
        require_ours(self._folder, [where], listed_files(self._folder))
        announce_models(target.parent, [target.name])
        made = self._int8 if name in INT8 else self._sparse if name == SPARSE else self._exported
        file = replace(made(network, name, where, source), compressed_bytes=compressed_size(target))
        note_model(target)
        if name == SPARSE:
            running = load_sparse(network.whole, target)
            if file.sparse_layers:  # without any it is the dense network, which is timed already
                self._in_torch[where] = running
        elif name in IN_ONNXRUNTIME:
            running = OnnxNetwork(target, called(network.shipped, Batch.of(few_of(self._images))))
            self._in_onnxruntime[where] = running
        else:
            return file
        return replace(file, score=self._score(network, running))

    def _exported(self, network: Network, name: str, where: str, _: ModelFile | None) -> ModelFile:
        """A graph of the network that ships, or weights in the shapes of the user's model."""
        graph = name in GRAPHS and network.shipped is not network.whole
        model, mask = (network.shipped, None) if graph else (network.whole, network.mask)
        made = export(model, mask, self._folder / where, few_of(self._images))
        return ModelFile(name, where, made.bytes, made.max_error, made.zeros_exact)

    def _sparse(self, network: Network, name: str, where: str, _: ModelFile | None) -> ModelFile:
        """The weights with the names of the layers that run sparse, read back."""
        found = network.sparse or sparse_form(network.whole, self._images)
        target = self._folder / where
        made = export(found.model if found else network.whole, None, target)
        weights, names = read_bitmask(target)
        zeros_exact = not any(weights[name][~kept].any() for name, kept in (network.mask or {}).items())
        error = found.max_error if found else 0.0
        return ModelFile(name, where, made.bytes, error, zeros_exact, sparse_layers=names)

    def _int8(self, network: Network, name: str, where: str, source: ModelFile | None) -> ModelFile:
        if source is None:
            raise ConfigError("it is made from the onnx file, which there is not")
        onnx, target, ranges = self._folder / source.path, self._folder / where, INT8[name]
        examples = calibration_examples(self._data)
        with replacing(target) as temporary:
            found = write_int8(temporary, onnx, ranges, network.shipped, few_of(self._images), examples)
        return ModelFile(
            format=name,
            path=where,
            bytes=target.stat().st_size,
            max_error=found.max_error,
            zeros_exact=source.zeros_exact and found.zeros_exact,
            int8_weights=found.weights,
            int8_zeros=found.zeros,
        )

    def _score(self, network: Network, running: nn.Module) -> float:
        step = next(trial.step for trial in self._prepared.plan.trials if trial.step.key == network.trial.key)
        return evaluate(running, self._data.test, self._data, step.recipe, "cpu").value

    def timed(self, rows: Sequence[ModelRow]) -> tuple[ModelRow, ...]:
        """The rows with their files' times, each against the dense network in the same runtime; none without that."""
        onnx = [file.path for row in rows for file in row.files if not row.sparsity and file.format == "onnx"]
        times = self._against(onnx, self._in_onnxruntime)
        if self._in_torch and self._dense:
            times |= self._against([""], {"": self._dense.shipped} | self._in_torch)
        return tuple(
            replace(row, files=tuple(replace(file, timings=times.get(file.path, ())) for file in row.files))
            for row in rows
        )

    def _against(self, dense: Sequence[str], running: Mapping[str, nn.Module]) -> dict[str, tuple[Timing, ...]]:
        """The times of what runs, measured in turns, the dense one first; nothing where that is missing."""
        order = [*dense, *(path for path in running if path not in dense)] if dense else []
        return dict(zip(order, timed([running[path] for path in order], self._images), strict=True))


def calibration_examples(data: TrainingData) -> Nest:
    """Training examples without augmentation, evenly spread over all of them, which may be sorted by class."""
    count = min(CALIBRATION, len(data.train))
    places = torch.arange(count) * len(data.train) // count
    return data.preparation(torch.device("cpu"))(data.train.reader([places], 0)(places).inputs)


def forget_best(folder: Path) -> None:
    """Remove what an earlier `prune` called the best: this one may find another network, or none."""
    for path in set(model_paths([BEST], tuple(SUFFIXES), DENSE_STEM)) & listed_files(folder):
        (folder / path).unlink(missing_ok=True)


def copies_as_best(row: ModelRow, folder: Path) -> tuple[str, ...]:
    """Copy the files of the best network to the name `best`: where they then lie, from the report's folder."""
    copies = [f"{MODELS}/{BEST}{SUFFIXES[file.format]}" for file in row.files]
    for file, where in zip(row.files, copies, strict=True):
        require_ours(folder, [where], listed_files(folder))
        announce_models(folder / MODELS, [Path(where).name])
        with replacing(folder / where) as temporary:
            temporary.write_bytes((folder / file.path).read_bytes())
        note_model(folder / where)
    return tuple(copies)
