"""How much score each layer alone costs when it is pruned, without retraining: what `prunetune sensitivity` does."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from prunetune.api import Prepared, plan_with_weights, prepare_store, require_overrides, require_writable, under_way
from prunetune.core.metric import Metric
from prunetune.data import load_examples
from prunetune.errors import ConfigError, unknown
from prunetune.execution.events import Event, Failed, Skipped
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.measure_quantities import free_groups
from prunetune.execution.progress import Progress, is_watched
from prunetune.models import draw
from prunetune.plan.compile import narrowed
from prunetune.plan.context import meets_heads
from prunetune.plan.planned_quantities import SENSITIVITIES, PlannedQuantity
from prunetune.report.figures.layers import sensitivity_figure
from prunetune.report.figures.style import standalone
from prunetune.report.ownership import require_ours
from prunetune.report.quantity_tables import in_order, points_lost, sensitivity_table
from prunetune.report.results_files import json_text, write_text
from prunetune.report.table_format import Table, aligned, mean, number
from prunetune.results.quantity_rows import quantities
from prunetune.results.stored import read_stored
from prunetune.rows import Quantity
from prunetune.sparsity.argument_checks import as_path, as_share, require_type
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.scope import Scope, prunable
from prunetune.spec.compression import CompressionRequest, sensitivity_spec
from prunetune.spec.load import SpecSource
from prunetune.steps.quantities import MeasureSensitivity
from prunetune.training.batches import trial_inputs

SCHEMA_VERSION = 1
NAME = "sensitivity"  # of the files
PATTERNS = ("unstructured", CHANNEL)


class LayerLoss(NamedTuple):
    """What one layer, or group of coupled channels, costs at one sparsity."""

    learning_rate: float
    layer: str  # a parameter's name; of a group of channels its module's
    size: int  # prunable weights of the layer, or channels of the group
    sparsity: float
    lost: float | None  # by how much the score is worse, mean over seeds; below 0 a gain; None where none is known
    n: int  # seeds


@dataclass(frozen=True)
class Sensitivity:
    """Score of the trained dense network with one layer pruned at a time, and by how much that is worse."""

    study: Mapping[str, Any]  # the spec, resolved, and what its metric is
    pattern: str
    sparsities: tuple[float, ...]
    images: int  # held out, on which the score is measured
    sizes: Mapping[str, int]  # by layer or group, in the model's order
    measured: tuple[Quantity, ...]  # by learning rate and seed
    failures: tuple[str, ...] = ()

    @property
    def metric(self) -> Metric:
        """What the network is scored by."""
        return Metric.of(self.study)

    @property
    def rows(self) -> tuple[LayerLoss, ...]:
        """By learning rate, layer (in the model's order) and sparsity."""
        return tuple(
            LayerLoss(rate, layer, size, sparsity, mean(lost), len(lost))
            for rate, here in self._by_rate()
            for layer, size in self.sizes.items()
            for sparsity in self.sparsities
            for lost in [points_lost(here, layer, str(sparsity), self.metric)]
        )

    @property
    def dense(self) -> dict[float, float | None]:
        """By learning rate, the score of the whole network on the held-out images, mean over seeds."""
        return {rate: mean(_scores(here)) for rate, here in self._by_rate()}

    def table(self) -> Table:
        """A row for every learning rate and layer, a column for every sparsity."""
        return sensitivity_table(self.measured, tuple(self.sizes), self.metric)

    def to_json(self) -> str:
        """Strict JSON with full digits: the rows, and the scores that they come from, by rate and seed."""
        found = {
            "schema_version": SCHEMA_VERSION,
            "study": self.study,
            "pattern": self.pattern,
            "sparsities": self.sparsities,
            "images": self.images,
            "dense": [self._dense_row(rate, score) for rate, score in self.dense.items()],
            "rows": [row._asdict() for row in self.rows],
            "runs": [
                {
                    "learning_rate": row.learning_rate,
                    "seed": row.seed,
                    "dense": row.values.get("whole"),
                    "layers": {name: row.by_layer.get(name, {}) for name in self.sizes},
                }
                for row in self.measured
            ],
        }
        return json_text(found)

    def __str__(self) -> str:
        if not self.measured:
            return "Nothing was measured."
        metric, data = self.metric, f"{self.images} held-out examples"
        name = "" if metric.is_accuracy else f"{metric.name} "
        dense = (
            f"Dense network, learning rate {rate:g}: {name}{self._score_text(rate)} on {data}, n = {len(here)}."
            for rate, here in self._by_rate()
        )
        table = self.table()
        return "\n".join([*dense, "", table.caption, "", aligned(table)])

    def _score_text(self, rate: float) -> str:
        return f"{number(self.dense[rate], self.metric.digits)} {self.metric.unit}".rstrip()

    def _dense_row(self, rate: float, score: float | None) -> dict[str, float | None]:
        return {"learning_rate": rate, "accuracy": score if self.metric.is_accuracy else None, "score": score}

    def _repr_html_(self) -> str:
        table = self.table()
        head = "".join(f"<th>{escape(column.title)}</th>" for column in table.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
        return f"<table><caption>{escape(table.caption)}</caption><tr>{head}</tr>{body}</table>"

    def _by_rate(self) -> list[tuple[float, list[Quantity]]]:
        rates = sorted({row.learning_rate for row in self.measured})
        return [(rate, [row for row in self.measured if row.learning_rate == rate]) for rate in rates]


def plan_sensitivity(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    asked: CompressionRequest = CompressionRequest(),  # noqa: B008 - frozen
    *,
    pattern: str = PATTERNS[0],
    sparsities: Sequence[float] = (),
    store: str | Path | None = None,
    device: str = "auto",
) -> Prepared:
    """Compile the dense runs of a spec, or of the model or weights of `asked`, and what is measured of them.

    Trains nothing. `sparsities` are by default those of a study's `measure: [sensitivity]`. ConfigError for anything
    that is wrong: nothing held out, weights that do not fit the model, channels that cannot go.
    """
    require_overrides(overrides)
    require_type("sparsities", sparsities, (list, tuple), "a list of shares, such as [0.5, 0.8]")
    if pattern not in PATTERNS:
        raise unknown("pattern", pattern, PATTERNS)
    shares = tuple(sorted({as_share("sparsity", s, "a share of a layer's weights", 0.8) for s in sparsities}))
    spec = sensitivity_spec(source, overrides, asked)
    prepared = plan_with_weights(spec, asked.weights, asked.weights_key, store=store, device=device)
    return _narrowed(prepared, pattern, shares or SENSITIVITIES)


def _narrowed(prepared: Prepared, pattern: str, sparsities: tuple[float, ...]) -> Prepared:
    """Without arms, masks and other measurements. A dense run that is stored is taken without its other moments."""
    dense: dict[tuple[float, int], PlannedQuantity] = {}
    whole = prepared.plan
    heads = meets_heads(draw(whole.model, whole.input_shape, whole.outputs, seed=0)) if pattern == CHANNEL else None
    for planned in whole.quantities:
        if isinstance(planned.step, MeasureSensitivity):
            step = replace(planned.step, pattern=pattern, sparsities=sparsities, heads=heads)
            dense[planned.learning_rate, planned.seed] = replace(planned, of=f"theta_T, {pattern}", step=step)
    plan = narrowed(whole, tuple(dense.values()))
    missing = {key: points for key, points in plan.snapshots.items() if not prepared.store.has(key)}
    plan = replace(plan, snapshots=missing)
    remaining = plan.remaining(prepared.store)
    prepared = replace(prepared, plan=plan, max_plan=plan, remaining=remaining, cached=remaining.cached)
    _sizes(prepared)
    return prepared


def preflight_sensitivity(prepared: Prepared, out: str | Path | None = None) -> Path | None:
    """The folder of the files, if one is given, once it is certain that data, store and folder are to be had."""
    folder = as_path("out", out, "runs/sensitivity") if out is not None else None
    if folder is not None:
        require_ours(folder, [f"{NAME}.json", *_figures(prepared)])
    if prepared.remaining.left:
        load_examples(prepared.plan.data)
    prepare_store(prepared)
    if folder is not None:
        require_writable(folder)
    return folder


def measure_layers(
    prepared: Prepared,
    folder: Path | None = None,
    *,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Sensitivity:
    """Train the dense runs that are left, measure, and write sensitivity.json and figures to `folder`, if one is given.

    `prepared` is what `plan_sensitivity` returned, and `folder` what `preflight_sensitivity` did.
    """
    failures: dict[str, str] = {}
    run = LocalExecutor(jobs).run
    with under_way(prepared), closing(run(prepared.plan, prepared.store)) as events:
        for event in events:
            if isinstance(event, Failed):
                failures[event.key] = event.message
            elif isinstance(event, Skipped):
                failures[event.key] = event.why
            on_event(event)
    measured = quantities(prepared.plan, read_stored(prepared.plan, prepared.store), prepared.store)
    first = next(q.step for q in prepared.plan.quantities if isinstance(q.step, MeasureSensitivity))
    found = Sensitivity(
        study=prepared.spec.resolved() | prepared.spec.metric.described(),
        pattern=first.pattern,
        sparsities=first.sparsities,
        images=int(next((row.values["images"] or 0 for row in measured), 0)),
        sizes=_sizes(prepared),
        measured=measured,
        failures=tuple(failures.values()),
    )
    if folder is not None:
        _write(found, folder)
    return found


def sensitivity(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    data: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    pattern: str = PATTERNS[0],
    sparsities: Sequence[float] = (),
    seeds: int | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Sensitivity:
    """Accuracy of a trained network on held-out images with one layer pruned at a time, without retraining.

    Trains the dense runs that `store` lacks, and no sparse network. Layers are pruned by magnitude.

    >>> import prunetune as pt
    >>> lost = pt.sensitivity("quick", ["recipe.epochs=2"], seeds=1).rows  # doctest: +SKIP

    Args:
        source: A spec's YAML file, a preset's name, a mapping or a Spec.
        overrides: `key=value` texts, as of `--set`. `data_args.validation` must hold out training images.
        model: Without `source`: a registered model, or `package.module:callable`, which is imported and run.
        data: Without `source`: the data, as in a spec.
        weights: A file with the trained weights, in place of a dense run. Images that they were trained on are not
            held out from them.
        weights_key: Of a checkpoint that holds several states, the one to take.
        pattern: `unstructured`, a layer at a time; or `channel`, a group of coupled channels at a time.
        sparsities: Shares of the layer's weights (of the group's channels) to prune, each in (0, 1); else .3 to .95.
        seeds: Dense runs for every learning rate; else the spec's.
        out: A folder for sensitivity.json and sensitivity.svg; without it no files are written.
        store: Where finished steps lie; else $PRUNETUNE_STORE, else the user's cache.
        jobs: Worker processes.
        device: auto, cpu, cuda or mps.
        progress: Whether to show how far the trainings are; None: in a terminal or a notebook.

    Returns:
        The points of accuracy lost by learning rate, layer and sparsity, and the accuracies that they come from.

    Raises:
        ConfigError: For anything that is wrong with what is asked for, one line.
    """
    asked = CompressionRequest(
        model=model,
        data=data,
        weights=as_path("weights", weights, "trained.pt") if weights is not None else None,
        weights_key=weights_key,
        seeds=seeds,
    )
    prepared = plan_sensitivity(
        source, overrides, asked, pattern=pattern, sparsities=sparsities, store=store, device=device
    )
    folder = preflight_sensitivity(prepared, out)
    if not (is_watched() if progress is None else progress):
        return measure_layers(prepared, folder, jobs=jobs)
    with Progress(prepared.plan, prepared.remaining) as display:
        return measure_layers(prepared, folder, jobs=jobs, on_event=display)


def _sizes(prepared: Prepared) -> dict[str, int]:
    """What is pruned alone, in the model's order: weights of layers, or channels of groups. ConfigError for nothing."""
    plan, asked = prepared.plan, prepared.spec.scope
    model, scope = draw(plan.model, plan.input_shape, plan.outputs, seed=0), Scope(asked.include, asked.exclude)
    layers = {name: model.get_parameter(name).numel() for name in prunable(model, scope)}
    if not layers:
        raise ConfigError("scope: nothing of the model is prunable; widen it with include patterns")
    step = plan.quantities[0].step
    if isinstance(step, MeasureSensitivity) and step.pattern == CHANNEL:
        groups = free_groups(model, scope, trial_inputs(plan.data, plan.input_shape))
        names = in_order(groups, [name for name, _ in model.named_parameters()])
        return {name: groups[name].channels for name in names}
    return layers


def _scores(rows: Sequence[Quantity]) -> list[float]:
    """The whole network's, a seed each."""
    return [value for row in rows if (value := row.values.get("whole")) is not None]


def _figures(prepared: Prepared) -> list[str]:
    rates = sorted({planned.learning_rate for planned in prepared.plan.quantities})
    return [_figure(rate, len(rates) > 1) for rate in rates]


def _figure(rate: float, several: bool) -> str:
    """The name of the file of one learning rate."""
    return f"{NAME}-{rate:g}.svg" if several else f"{NAME}.svg"


def _write(found: Sensitivity, folder: Path) -> None:
    write_text(folder / f"{NAME}.json", found.to_json() + "\n")
    for rate, cells in _lost_by_rate(found).items():
        path = folder / _figure(rate, len(found.dense) > 1)
        metric = found.metric
        lost = (
            "points of accuracy lost" if metric.is_accuracy else f"by how much {metric.name} is worse{metric.in_unit}"
        )
        subtitle = f"{lost}, one {'group' if found.pattern == CHANNEL else 'layer'} pruned"
        title = f"Sensitivity at learning rate {rate:g}"
        drawing = sensitivity_figure(path.stem, title, subtitle, cells, metric)
        write_text(path, standalone(drawing.figure, drawing.name, drawing.title, drawing.description))


def _lost_by_rate(found: Sensitivity) -> dict[float, dict[tuple[str, float], float]]:
    by_rate: dict[float, dict[tuple[str, float], float]] = {}
    for row in found.rows:
        if row.lost is not None:
            by_rate.setdefault(row.learning_rate, {})[row.layer, row.sparsity] = row.lost
    return by_rate
