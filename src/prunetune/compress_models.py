"""Prune & fine-tune a model, measure what that costs and wins on this machine, and export it: what `prune` does.

The trainings are the steps of a study with the one arm `finetune`, so that they share a store with its audit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunetune.analysis.pairing import percent
from prunetune.api import Prepared, failures_of, plan_with_weights, preflight, run_steps
from prunetune.core.interrupts import raise_lost
from prunetune.data import TrainingData, facts, load_examples
from prunetune.data.examples import Nest, first_tensor, mapped
from prunetune.deploy.channel_surgery import Savings, channel_savings, shrink
from prunetune.deploy.export import LIST, announce_models, export, listed_models, note_model
from prunetune.deploy.latency import Latency, latencies, speedup
from prunetune.deploy.sizes import count, file_sizes
from prunetune.deploy.summary import KEPT, ParameterRow, sparsity_report
from prunetune.errors import ConfigError, one_line, unknown
from prunetune.execution.events import Event
from prunetune.models import build, draw
from prunetune.report.ownership import require_ours
from prunetune.report.run_folders import RUNS
from prunetune.report.tradeoff.tradeoff_page import TradeoffReport, rows_table, write_tradeoff
from prunetune.report.tradeoff.tradeoff_rows import (
    GRAPHS,
    TRADEOFF,
    ModelFile,
    ModelRow,
    ParameterDensity,
    Timing,
    Tradeoff,
    headline,
    read_tradeoff,
)
from prunetune.report.write_report import PAGE
from prunetune.rows import Results, Trial
from prunetune.sparsity.channel_coupling import channel_groups
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.scope import Scope
from prunetune.spec.compression import CompressionRequest, compression_spec
from prunetune.spec.load import SpecSource
from prunetune.steps.steps import Train

__all__ = ["Shipped", "plan_compression", "preflight_compression", "run_compression"]

MODELS = "models"  # the folder of the exported ones, within the report's
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors", "bitmask": ".bitmask.safetensors"}
BATCHES = (1, 64)  # images at a time, of the measured times


@dataclass(frozen=True, repr=False)
class Shipped:
    """A finished prune: the rows, the page that shows them, and what failed."""

    report: TradeoffReport
    failures: tuple[str, ...]

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """The dense network, then one for every sparsity."""
        return self.report.found.rows

    @property
    def files(self) -> tuple[tuple[Path, ModelFile], ...]:
        """The exported models: where they lie, and what was found when they were read back."""
        folder = self.report.page.parent
        return tuple((folder / file.path, file) for row in self.rows for file in row.files)

    def __str__(self) -> str:
        return self.report.text

    def __repr__(self) -> str:
        return f"<Shipped {self.report.found.name}: {headline(self.report.found)}>"

    def _repr_html_(self) -> str:
        """The table of networks, as a notebook shows the result of a cell."""
        table = rows_table(self.report.found)
        head = "".join(f"<th>{escape(column.title)}</th>" for column in table.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
        caption = escape(f"{headline(self.report.found)}. All of it: {self.report.page}")
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Network:
    """A network as it is measured and shipped, with what is known of its trainings."""

    trial: Trial
    scores: tuple[float, ...]
    whole: nn.Module  # with its zeros, in the shapes of the user's model
    mask: Mask | None
    shipped: nn.Module  # `whole`, or the smaller network without its zero channels


def plan_compression(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    asked: CompressionRequest = CompressionRequest(),  # noqa: B008 - frozen
    *,
    store: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[Savings], None] = lambda savings: None,
) -> Prepared:
    """Compile the steps that prune & fine-tune the model of a spec, or of `asked`. Trains nothing.

    Under the pattern `channel` a fresh network is shrunk at every sparsity, and `tell` hears what that saves.
    ConfigError for anything that is wrong, weights that do not fit the model and channels that cannot go included.
    """
    spec = compression_spec(source, overrides, asked)
    prepared = plan_with_weights(spec, asked.weights, asked.weights_key, store=store, device=device)
    for saved in _savings(prepared):
        tell(saved)
    return prepared


def _savings(prepared: Prepared) -> Iterator[Savings]:
    """What goes with the channels at every sparsity, where the pattern is `channel`."""
    plan, spec = prepared.plan, prepared.plan.spec
    if spec.masks[0].pattern != CHANNEL:
        return
    model = draw(plan.model, plan.input_shape, plan.outputs, seed=0)
    scope = Scope(spec.scope.include, spec.scope.exclude)
    images = images_like(plan.input_shape) if facts(plan.data).images else few_of(inputs_of(load_examples(plan.data)))
    for sparsity in spec.sparsities:
        yield channel_savings(model, sparsity, images, scope, spec.masks[0].round_to)


def run_compression(
    prepared: Prepared,
    folder: Path,
    formats: Sequence[str] = (),
    *,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    command: str | None = None,
) -> Shipped:
    """Train what is left, measure every network, and write report and models to `folder`.

    `folder` is what `preflight_compression` returned for the same formats.
    """
    results, _ = run_steps(prepared, folder, jobs, on_event, command)
    measured, failures = _measured(prepared, results)
    spec = prepared.plan.spec
    found = Tradeoff(
        name=spec.name,
        model=spec.model,
        data=spec.data,
        mask=spec.masks[0].label,
        pattern=spec.masks[0].pattern,
        learning_rate=spec.learning_rates[0],
        epochs=spec.recipe.epochs,
        rows=tuple(row for _, row in measured),
        missing=(*missing_of(results), *failures),
        study=results.study,
        environment=results.environment,
    )
    write_tradeoff(found, folder)  # before anything is exported, which may fail in many ways
    rows, failed = exported(prepared, measured, all_formats(formats), folder)
    found = replace(found, rows=rows, missing=(*found.missing, *failed))
    return Shipped(write_tradeoff(found, folder), (*failures_of(results), *failures, *failed))


def preflight_compression(prepared: Prepared, formats: Sequence[str] = (), out: str | Path | None = None) -> Path:
    """The report's folder (None: runs/NAME-pruned), once nothing of somebody else's lies in the place of its files."""
    sparsities = prepared.plan.spec.sparsities
    models = [_model_path(prepared, sparsity, name) for sparsity in sparsities for name in all_formats(formats)]
    default = RUNS / f"{prepared.spec.name}-pruned"
    return preflight(prepared, out, (TRADEOFF, PAGE, *models), listed_files, default=default)


def require_formats(formats: Sequence[str]) -> Sequence[str]:
    """ConfigError for a format that there is not."""
    for name in formats:
        if name not in SUFFIXES:
            raise unknown("--export", name, SUFFIXES)
    return formats


def all_formats(formats: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(["safetensors", *require_formats(formats)]))


def _model_path(prepared: Prepared, sparsity: float, name: str) -> str:
    """Where a model goes, from the report's folder."""
    stem = f"{prepared.spec.model.replace(':', '-').replace('/', '-')}-{100 * sparsity:.12g}"
    return f"{MODELS}/{stem}{SUFFIXES[name]}"


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


def failure_line(what: str, error: Exception) -> str:
    """A line of what failed; of an error that is not ours its kind too."""
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return f"{what}: {kind}{one_line(str(error))}"


def _measured(prepared: Prepared, results: Results) -> tuple[list[tuple[Network, ModelRow]], list[str]]:
    """Every network that trained, measured together, the dense one first; with a line for all that failed."""
    failures: list[str] = []
    sound = [trial for trial in results.trials if not trial.diverged and trial.score is not None]
    images = inputs_of(load_examples(prepared.plan.data))
    networks = [
        network_of(prepared, [trial for trial in sound if trial.sparsity == sparsity], images, failures)
        for sparsity in sorted({trial.sparsity for trial in sound})
    ]
    device = next(trial.step.device for trial in prepared.plan.trials)
    timings = timings_of(networks, mapped(images, lambda tensor: tensor.to(device)))
    rows = zip(networks, timings, strict=True)
    return [(network, row_of(prepared, network, times, images)) for network, times in rows], failures


def inputs_of(data: TrainingData) -> Nest:
    """As many test examples as the largest batch, as a network takes them; repeated where there are fewer."""
    shown = data.test.gather(torch.arange(max(BATCHES)) % len(data.test)).inputs
    return data.preparation(torch.device("cpu"))(shown)


def few_of(inputs: Nest, count: int = 2) -> Nest:
    return mapped(inputs, lambda tensor: tensor[:count])


def network_of(prepared: Prepared, trials: Sequence[Trial], images: Nest, failures: list[str]) -> Network:
    """The network of the first seed, from the store, with the scores of all.

    One whose channels cannot be taken out after all ships whole, with a line in `failures`.
    """
    plan, trial = prepared.plan, min(trials, key=lambda trial: trial.seed)
    step = next(planned.step for planned in plan.trials if planned.step.key == trial.key)
    whole = build(plan.model, plan.input_shape, plan.outputs)
    whole.load_state_dict(prepared.store.state(trial.key))
    whole.eval()
    mask = prepared.store.mask(step.mask.key) if isinstance(step, Train) and step.mask else None
    removes = plan.spec.masks[0].pattern == CHANNEL
    shipped = whole
    if mask and removes:
        try:
            shipped = shrink(whole, mask, few_of(images))
        except Exception as error:  # surgery on a network of somebody's
            failures.append(failure_line(f"{percent(trial.sparsity)}: its channels stay in", error))
    scores = tuple(t.score for t in trials if t.score is not None)
    return Network(trial, scores, whole, mask, shipped)


def timings_of(networks: Sequence[Network], images: Nest) -> list[tuple[Timing, ...]]:
    """The times of all networks at every batch size, each against the first's (the dense one's)."""
    models = {str(i): network.shipped.to(first_tensor(images).device) for i, network in enumerate(networks)}
    by_batch = {batch: latencies(models, few_of(images, batch)) for batch in BATCHES} if models else {}
    found = [tuple(_timing(batch, times["0"], times[name]) for batch, times in by_batch.items()) for name in models]
    for network in networks:
        network.shipped.cpu()
    return found


def _timing(batch: int, dense: Latency, own: Latency) -> Timing:
    return Timing(batch, own.median, own.low, own.high, own.rounds, *speedup(dense, own))


def row_of(
    prepared: Prepared,
    network: Network,
    timings: tuple[Timing, ...],
    images: Nest,
) -> ModelRow:
    trial, counts = network.trial, count(network.shipped, few_of(images))
    sizes = file_sizes(network.shipped.state_dict())
    return ModelRow(
        sparsity=trial.sparsity,
        density=trial.density,
        seed=trial.seed,
        accuracies=network.scores if prepared.plan.spec.metric.is_accuracy else None,
        scores=network.scores,
        parameters=counts.parameters,
        nonzeros=counts.nonzeros,
        macs=counts.macs,
        effective_macs=round(counts.effective_macs),
        raw_bytes=sizes.raw,
        compressed_bytes=sizes.compressed,
        shrunk=network.shipped is not network.whole,
        timings=timings,
        layers=_densities(prepared, network, few_of(images)),
        files=(),
    )


def _densities(prepared: Prepared, network: Network, inputs: Nest) -> tuple[ParameterDensity, ...]:
    """Every parameter of the user's model; of the dense network, none has a reason: nothing was to be pruned."""
    spec = prepared.plan.spec
    scope = Scope(spec.scope.include, spec.scope.exclude)
    rows = sparsity_report(network.whole, network.mask, scope).rows
    by_channel = network.mask and spec.masks[0].pattern == CHANNEL
    whole = _whole_layers(network.whole, inputs, scope) if by_channel else {}
    return tuple(
        ParameterDensity(r.name, r.kind, r.total, r.nonzero, _reason(r, whole) if network.mask else "") for r in rows
    )


def _whole_layers(model: nn.Module, inputs: Nest, scope: Scope) -> dict[str, str]:
    """Why layers keep all their channels, by name."""
    groups = channel_groups(model, inputs, scope)
    return {group.layer: f"its channels stay: {group.whole}" for group in groups if group.whole}


def _reason(row: ParameterRow, whole: Mapping[str, str]) -> str:
    """Why a parameter is not pruned; where the mask keeps all of it since its layer's channels must stay, that."""
    return whole.get(row.name.rpartition(".")[0], row.reason) if row.reason == KEPT else row.reason


def exported(
    prepared: Prepared,
    measured: Sequence[tuple[Network, ModelRow]],
    formats: Sequence[str],
    folder: Path,
    stem: str | None = None,
) -> tuple[tuple[ModelRow, ...], list[str]]:
    """The rows with their exported files, and a line for every file that could not be made; the others are.

    Files have the name `stem`, else that of the model and the sparsity.
    """
    images = few_of(inputs_of(load_examples(prepared.plan.data)))
    rows, failures = [], []
    for network, row in measured:
        made = []
        for name in formats if network.mask else ():
            raise_lost()  # exporters may swallow an exception that is not theirs
            try:
                where = f"{MODELS}/{stem}{SUFFIXES[name]}" if stem else _model_path(prepared, row.sparsity, name)
                made.append(_file(network, images, name, folder, where))
            except Exception as error:  # exporters fail in ways of their own
                failures.append(failure_line(f"export {name} of {row.label}", error))
        rows.append(replace(row, files=tuple(made)))
    return tuple(rows), failures


def _file(network: Network, inputs: Nest, name: str, folder: Path, where: str) -> ModelFile:
    """An exported file: a graph of the network that ships, or weights in the shapes of the user's model."""
    graph = name in GRAPHS and network.shipped is not network.whole
    model, mask = (network.shipped, None) if graph else (network.whole, network.mask)
    target = folder / where
    require_ours(folder, [where], listed_files(folder))
    announce_models(target.parent, [target.name])
    made = export(model, mask, target, inputs)
    note_model(target)
    return ModelFile(name, where, made.bytes, made.max_error, made.zeros_exact)


def missing_of(results: Results) -> tuple[str, ...]:
    """What there is not, in words: a training that diverged, and what needed one that did or failed."""
    diverged = (f"{_place(trial)}: diverged" for trial in results.trials if trial.diverged)
    return (*diverged, *(f"{_place(row)}: {row.why}" for row in results.missing))


def _place(row: Any) -> str:
    return f"{percent(row.sparsity) if row.sparsity else 'dense'}, seed {row.seed}"


def images_like(shape: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """Drawn images, always the same, that a network can be tried with."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
