"""A whole audit from Python: spec -> plan -> trainings -> measurements -> verdict -> report."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from prunetune.analysis.verdict import Verdict
from prunetune.core.files import user_cache
from prunetune.data import load_examples
from prunetune.errors import ConfigError, unknown
from prunetune.execution.events import Event
from prunetune.execution.executors.local import LocalExecutor
from prunetune.execution.progress import Progress, is_watched
from prunetune.execution.runner import Executor
from prunetune.execution.training_log import TRAINING_LOG, TrainingLog
from prunetune.models import build
from prunetune.plan.compile import Plan, Remaining, every_cell, plan, step_names
from prunetune.report.answer import answers
from prunetune.report.ownership import require_ours
from prunetune.report.run_folders import RUNS, report_folder, study_digest
from prunetune.report.write_report import REPORT_FILES, Report, notebook_report, write_report
from prunetune.results.collect import collect, failed_measurements
from prunetune.rows import Correlation, Results, Trial
from prunetune.sparsity.argument_checks import require_type, wrong_type
from prunetune.sparsity.model_files import load_weights, read_state
from prunetune.spec.load import SpecSource, load_spec
from prunetune.spec.study import Spec
from prunetune.store.cache import CachedStore, open_store
from prunetune.store.store import StoreWriter
from prunetune.store.studies import StoredStudy

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Prepared:
    """A study that is planned and compared with a store, and not yet run."""

    spec: Spec
    plan: Plan  # where seeds may be added: with those so far
    max_plan: Plan  # with all that may be added; `plan` itself where their number is fixed
    device: str
    store: StoreWriter
    remaining: Remaining
    cached: frozenset[str]  # keys of the steps of `max_plan` that were stored before anything ran


@dataclass(frozen=True, repr=False)
class Audit:
    """A finished audit: the verdicts, what they rest on, and the page that shows them."""

    report: Report
    results: Results
    failed_measurements: tuple[str, ...] = ()  # one line for every measurement that failed

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict per learning rate and mask algorithm."""
        return self.report.verdicts

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for everything that failed and every breach."""
        return (*failures_of(self.results), *self.failed_measurements)

    def to_dataframe(self, rows: Literal["trials", "correlations"] = "trials") -> "DataFrame":
        """A pandas DataFrame with a row for every trial, or R_p, and the columns of its CSV (docs/reference/store.md).

        Raises ConfigError without pandas, or for other `rows`.
        """
        kinds: dict[str, type[Trial | Correlation]] = {"trials": Trial, "correlations": Correlation}
        if not isinstance(rows, str) or rows not in kinds:
            raise unknown("rows", rows, kinds)
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ConfigError("to_dataframe needs pandas: pip install pandas, or 'prunetune[notebook]'") from error
        columns = [field.name for field in fields(kinds[rows])]
        found: Sequence[Trial | Correlation] = getattr(self.results, rows)
        return DataFrame([[getattr(row, name) for name in columns] for row in found], columns=columns)

    def __str__(self) -> str:
        return self.report.text

    def __repr__(self) -> str:
        return f"<Audit of {self.results.study.get('name', 'a study')}: {str(self).splitlines()[0]}>"

    def _repr_html_(self) -> str:
        """The verdict cards, the recommendation and the accuracy figures, as a notebook shows the result of a cell."""
        return notebook_report(self.results, self.report.page)


def plan_study(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    remote: bool = False,
    scale: float | None = None,
) -> Prepared:
    """Read the spec, compile it to steps, and look up which of them `store` already holds. Trains nothing.

    `source` is a preset's name, a YAML file, a mapping, a Spec, or None for the embedded default; `overrides` are
    `key=value` texts; `scale` makes the study shorter or longer at equal κ (docs/explanation/kappa.md). `remote` steps
    run on other machines, so that `device` need not be here. Raises ConfigError for anything wrong.
    """
    require_overrides(overrides)
    require_type("store", store, (str, os.PathLike, NoneType), "a folder or a URL")
    changed = [*overrides, *([f"seeds={seeds}"] if seeds is not None else [])]
    spec = load_spec(source, changed, scale)
    if remote and spec.devices > 1:
        raise ConfigError(f"devices: {spec.devices}; must be 1: only the local executor trains on several at once")
    device = device if remote and device == "cuda" else resolve_device(device, spec.devices)
    planned = plan(spec, device)
    opened = open_store(store if store is not None else default_store())
    if remote and isinstance(opened, CachedStore):
        raise ConfigError(f"store: '{store or default_store()}' is a URL; steps run elsewhere need a shared folder")
    remaining = planned.remaining(opened)
    if len(spec.looks) == 1:
        return Prepared(spec, planned, planned, device, opened, remaining, remaining.cached)
    max_plan = plan(spec, device, every_cell(spec, spec.looks[-1]))
    return Prepared(spec, planned, max_plan, device, opened, remaining, max_plan.remaining(opened).cached)


def plan_with_weights(
    spec: Spec, weights: Path | None, weights_key: str | None, *, store: str | Path | None, device: str
) -> Prepared:
    """`plan_study` of a spec whose dense run is a user's, once it is certain that the weights fit the model.

    Without `weights`, `plan_study` alone. ConfigError for a file that cannot be read or does not fit.
    """
    if weights is None:
        return plan_study(spec, store=store, device=device)
    state = read_state(weights, "--weights", weights_key)
    prepared = plan_study(spec, store=store, device=device)
    model = build(prepared.plan.model, prepared.plan.input_shape, prepared.plan.outputs)
    load_weights(model, state, weights, "--weights")
    return prepared


def preflight(
    prepared: Prepared,
    out: str | Path | None = None,
    files: Sequence[str] = REPORT_FILES,
    listed: Callable[[Path], Collection[str]] = lambda folder: (),
    *,
    default: Path | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Path:
    """The report's folder, once it is certain that data, store and folder are to be had: before anything runs.

    That is `out`, else `default` (runs/NAME) or, where another study's report lies there, a folder beside it
    (`report_folder`, to which `asked` goes). ConfigError also where one of `files`, which will be written there, is
    somebody else's; those that are `listed` in the folder are known to be ours.
    """
    folder = report_folder(out, default or RUNS / prepared.spec.name, prepared.spec, asked)
    require_ours(folder, (*files, TRAINING_LOG), listed(folder))
    if prepared.remaining.trainings_left:
        load_examples(prepared.plan.data)
    prepare_store(prepared, asked)
    require_writable(folder)
    return folder


def prepare_store(prepared: Prepared, asked: Mapping[str, Any] | None = None) -> None:
    """Make the store ready, and write down there which steps are the study's; ConfigError where that cannot be."""
    prepared.store.prepare()
    prepared.store.note_study(_stored(prepared, asked))


def under_way(prepared: Prepared, asked: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """While this is open `store gc --study` refuses the study. `asked` is what `preflight` was given."""
    return prepared.store.under_way(_stored(prepared, asked))


def _stored(prepared: Prepared, asked: Mapping[str, Any] | None) -> StoredStudy:
    names = step_names(prepared.max_plan)
    steps = {step.key: names.get(step.key, "") for step in prepared.max_plan.steps}
    return StoredStudy(prepared.spec.name, study_digest(prepared.spec, asked), steps)


def run_study(
    prepared: Prepared,
    folder: Path,
    *,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_more: Callable[[Plan, Remaining], None] = lambda planned, remaining: None,
    command: str | None = None,
    executor: Executor | None = None,
) -> Audit:
    """Run what is left of a prepared study, judge it, and write the report to `folder`, which `preflight` returned.

    Steps run on `executor`, else on `jobs` worker processes of this machine. Where the spec lets seeds be added, they
    are, a batch at a time to the rates and masks whose verdict is open, until none is or the most are reached;
    `on_more` is told of each larger plan. After a failure none are added. `command` is what somebody typed to ask for
    it; the page shows it.
    """
    with under_way(prepared):
        while True:
            results, failures = run_steps(prepared, folder, jobs, on_event, command, executor)
            larger = None if failures else _with_more_seeds(prepared, results)
            if larger is None:
                break
            prepared = larger
            on_more(prepared.plan, prepared.remaining)
        return Audit(write_report(results, folder), results, failed_measurements(prepared.plan, failures))


def run_steps(
    prepared: Prepared,
    folder: Path,
    jobs: int | None,
    on_event: Callable[[Event], None],
    command: str | None,
    executor: Executor | None = None,
) -> tuple[Results, dict[str, str]]:
    """Run what is left of a study and collect its rows; with them, why a step failed, by the step's key.

    Every training that ends is written down in `folder`.
    """
    training_log = TrainingLog(prepared.plan, folder)
    failures: dict[str, str] = {}
    cached = set(prepared.cached)
    executor = executor or LocalExecutor(jobs)
    with closing(executor.run(prepared.plan, prepared.store)) as events:
        for event in events:
            if event.kind == "failed":
                failures[event.key] = event.message
            elif event.kind == "done":
                cached.discard(event.key)  # what was damaged and made again was not there before
            training_log(event)
            on_event(event)
    results = collect(prepared.plan, prepared.store, cached, failures)
    if command is not None:
        results = replace(results, environment={**results.environment, "command": command})
    return results, failures


def failures_of(results: Results) -> tuple[str, ...]:
    """One line for every row that failed (not: that a diverged source made impossible) and every breach."""
    missing = (f"{m.arm} {m.mask} seed {m.seed}: {m.why}" for m in results.missing if m.failed)
    breaches = (f"{rule.name}: {breach}" for rule in results.invariants for breach in rule.breaches)
    return (*missing, *breaches)


def _with_more_seeds(prepared: Prepared, results: Results) -> Prepared | None:
    """The study with the next batch of seeds where a verdict is open; None where none is, or has the most."""
    looks = prepared.spec.looks
    if len(looks) == 1:
        return None
    counts = every_cell(prepared.spec, looks[0])
    for verdict in answers(results).verdicts:
        following = len(verdict.looks) - (not verdict.open)
        counts[verdict.learning_rate, verdict.mask] = looks[min(following, len(looks) - 1)]
    larger = plan(prepared.spec, prepared.device, counts)
    if len(larger.trials) == len(prepared.plan.trials):
        return None
    made = {trial.key for trial in results.trials if not trial.cached}
    return replace(prepared, plan=larger, remaining=larger.remaining(prepared.store), cached=prepared.cached - made)


def audit(
    source: SpecSource = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
    executor: Executor | None = None,
    scale: float | None = None,
    progress: bool | None = None,
) -> Audit:
    """Answer for one study what a sparse network should be trained from; nothing that `store` holds is trained again.

    Steps run on `jobs` processes of this machine, or on an executor such as `RayExecutor("auto")`. `progress` shows how
    far the trainings are, on the standard error or in the notebook; None: where that is a terminal or a notebook.

    >>> import prunetune as pt
    >>> verdict = pt.audit("quick", ["recipe.epochs=2"], seeds=2)  # doctest: +SKIP
    """
    require_followers(on_event, executor)
    remote = not isinstance(executor, LocalExecutor | None)
    prepared = plan_study(source, overrides, seeds=seeds, store=store, device=device, remote=remote, scale=scale)
    folder = preflight(prepared, out)
    with followed(prepared, on_event, progress) as (follow, more):
        return run_study(prepared, folder, jobs=jobs, on_event=follow, on_more=more, executor=executor)


@contextmanager
def followed(
    prepared: Prepared, on_event: Callable[[Event], None], progress: bool | None
) -> Iterator[tuple[Callable[[Event], None], Callable[[Plan, Remaining], None]]]:
    """What is to be told of events and of larger plans: `on_event`, and a display if `progress` asks for one."""
    if not (is_watched() if progress is None else progress):
        yield on_event, lambda planned, remaining: None
        return
    with Progress(prepared.plan, prepared.remaining) as display:

        def follow(event: Event) -> None:
            display(event)
            on_event(event)

        yield follow, display.more


def require_followers(on_event: object, executor: object) -> None:
    """ConfigError for what cannot be told of events, and for what does not run steps."""
    if not callable(on_event):
        raise wrong_type("on_event", on_event, "a function that takes an Event")
    if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "run", None))):
        raise wrong_type("executor", executor, "an executor, such as RayExecutor('auto'), or None")


def require_overrides(overrides: object) -> None:
    """ConfigError for one text, whose letters would be taken for overrides, and for what is no list of texts."""
    require_type("overrides", overrides, (list, tuple), right := "a list of texts, such as ['recipe.epochs=15']")
    for override in cast(Sequence[object], overrides):
        require_type("overrides", override, str, right)


def default_store() -> str | Path:
    """`$PRUNETUNE_STORE`, a folder or a URL, else a folder of the user's cache."""
    return os.environ.get("PRUNETUNE_STORE") or user_cache() / "store"


def resolve_device(name: str, devices: int = 1) -> str:
    """`auto` is the best kind of device at hand; a ConfigError where there are not as many of a kind as asked for."""
    require_type("device", name, str, "auto, cpu, cuda or mps")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        here = ", ".join(device for device, there in present.items() if there)
        raise ConfigError(f"device: '{name}' is not available here; use auto or one of: {here}")
    count = {"cpu": devices, "cuda": torch.cuda.device_count(), "mps": 1}[name]
    if devices > count:
        raise ConfigError(f"devices: {devices}; must be at most {count}, the devices of kind '{name}' here")
    return name


def require_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written before hours are spent, and not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot write to '{folder}': {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"out: cannot write to '{folder}': permission denied")
