"""Prune & fine-tune a model, measure what that costs and wins on this machine, and export it: what `prune` does.

The trainings are the steps of a study with the one arm `finetune`, so that they share a store with its audit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from prunetune.analysis.pairing import percent
from prunetune.api import Prepared, failures_of, plan_with_weights, preflight, run_steps, under_way
from prunetune.compression.exported_files import (
    BEST,
    all_formats,
    copies_as_best,
    exported,
    exported_with,
    forget_best,
    listed_files,
    model_paths,
    model_stem,
    require_formats,
    require_forms,
)
from prunetune.compression.measured_networks import Network, few_of, inputs_of, network_of, row_of, timings_of
from prunetune.data import facts, load_examples
from prunetune.data.examples import mapped
from prunetune.deploy.channel_surgery import Savings, channel_savings
from prunetune.execution.events import Event
from prunetune.models import draw
from prunetune.report.run_folders import RUNS
from prunetune.report.tradeoff.best_network import best_network
from prunetune.report.tradeoff.budget_page import BudgetReport
from prunetune.report.tradeoff.tradeoff_page import TradeoffReport, write_tradeoff
from prunetune.report.tradeoff.tradeoff_rows import TRADEOFF, ModelFile, ModelRow, Tradeoff
from prunetune.report.write_report import PAGE
from prunetune.rows import Results
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.scope import Scope
from prunetune.spec.compression import CompressionRequest, compression_spec
from prunetune.spec.load import SpecSource

__all__ = ["Shipped", "plan_compression", "preflight_compression", "run_compression"]


@dataclass(frozen=True, repr=False)
class Shipped:
    """A finished prune: the rows, the page that shows them, and what failed."""

    report: TradeoffReport | BudgetReport
    failures: tuple[str, ...]

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """The dense network, then one for every sparsity; of a search within a budget the one that is returned."""
        return self.report.rows

    @property
    def files(self) -> tuple[tuple[Path, ModelFile], ...]:
        """The exported models: where they lie, and what was found when they were read back."""
        folder = self.report.page.parent
        return tuple((folder / file.path, file) for row in self.rows for file in row.files)

    @property
    def best_files(self) -> tuple[Path, ...]:
        """Where copies of the best network's files lie; of a search within a budget, the returned one's files."""
        return tuple(self.report.page.parent / path for path in self.report.best_files)

    def __str__(self) -> str:
        return self.report.text

    def __repr__(self) -> str:
        return f"<Shipped {self.report.found.name}: {self.report.headline}>"

    def _repr_html_(self) -> str:
        """The table of networks, as a notebook shows the result of a cell."""
        table = self.report.table
        head = "".join(f"<th>{escape(column.title)}</th>" for column in table.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
        caption = escape(f"{self.report.headline}. All of it: {self.report.page}")
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
    with under_way(prepared):
        results, _ = run_steps(prepared, folder, jobs, on_event, command)
        return _measured_and_exported(prepared, results, folder, formats)


def _measured_and_exported(prepared: Prepared, results: Results, folder: Path, formats: Sequence[str]) -> Shipped:
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
        environment=results.environment | exported_with(formats),
    )
    write_tradeoff(found, folder)  # before anything is exported, which may fail in many ways
    forget_best(folder)
    stems = [model_stem(prepared, row.sparsity) for _, row in measured]
    rows, failed = exported(prepared, measured, stems, all_formats(formats), folder)
    found = replace(found, rows=rows, missing=(*found.missing, *failed))
    if best := best_network(found):
        found = replace(found, best=best.sparsity, best_files=copies_as_best(best, folder))
    return Shipped(write_tradeoff(found, folder), (*failures_of(results), *failures, *failed))


def preflight_compression(prepared: Prepared, formats: Sequence[str] = (), out: str | Path | None = None) -> Path:
    """The report's folder (None: runs/NAME-pruned), once nothing of somebody else's lies in the place of its files.

    ConfigError for a format that there is not, that lacks its library, or that the task's networks have no form of.
    """
    require_formats(formats)
    require_forms(prepared, formats)
    stems = [model_stem(prepared, sparsity) for sparsity in prepared.plan.spec.sparsities]
    models = model_paths([*stems, BEST], formats, model_stem(prepared, 0.0))
    default = RUNS / f"{prepared.spec.name}-pruned"
    return preflight(prepared, out, (TRADEOFF, PAGE, *models), listed_files, default=default)


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


def missing_of(results: Results) -> tuple[str, ...]:
    """What there is not, in words: a training that diverged, and what needed one that did or failed."""
    diverged = (f"{_place(trial)}: diverged" for trial in results.trials if trial.diverged)
    return (*diverged, *(f"{_place(row)}: {row.why}" for row in results.missing))


def _place(row: Any) -> str:
    return f"{percent(row.sparsity) if row.sparsity else 'dense'}, seed {row.seed}"


def images_like(shape: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """Drawn images, always the same, that a network can be tried with."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
