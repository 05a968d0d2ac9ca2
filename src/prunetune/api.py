"""A whole audit from Python: spec -> plan -> trainings -> measurements -> verdict -> report."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prunetune.errors import RequestError
from prunetune.report.verdict import Verdict
from prunetune.report.write import Report, write_report
from prunetune.run.collect import collect
from prunetune.run.diary import Diary
from prunetune.run.events import Event
from prunetune.run.local import LocalExecutor
from prunetune.run.store import Store
from prunetune.study.plan import Plan, Remaining, plan
from prunetune.study.results import Results
from prunetune.study.spec import Spec, load_spec
from prunetune.train.data import load

GPU_MEMORY = 12 * 10**9  # bytes of a GPU for each of the trainings that share it, unless --jobs says how many

Source = str | Path | Mapping[str, Any] | None


@dataclass(frozen=True)
class Prepared:
    """A study that is planned and compared with a store, and not yet run."""

    spec: Spec
    plan: Plan
    store: Store
    remaining: Remaining
    device: str


@dataclass(frozen=True)
class Audit:
    """A finished audit: the verdicts, what they rest on, and the page that shows them."""

    report: Report
    results: Results
    lines: tuple[str, ...] = ()  # one for every line of connectivity that failed

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict per learning rate and mask algorithm."""
        return self.report.verdicts

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for everything that failed and every breach."""
        return (*failures_of(self.results), *self.lines)

    def __str__(self) -> str:
        return self.report.text


def prepare(
    source: Source = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int | None = None,
    store: str | Path | None = None,
    device: str = "auto",
) -> Prepared:
    """Read the spec, compile it to steps, and look up which of them `store` already holds. Trains nothing.

    `source` is a preset's name, a YAML file, a mapping, or None for the embedded default; `overrides` are
    `key=value` texts. Raises RequestError for anything wrong in them.
    """
    changed = [*overrides, *([f"seeds={seeds}"] if seeds is not None else [])]
    spec = load_spec(source, changed)
    resolved = resolve_device(device, spec.devices)
    planned = plan(spec, device=resolved)
    opened = Store(store if store is not None else default_store())
    return Prepared(spec, planned, opened, planned.against(opened), resolved)


def ready(prepared: Prepared, out: str | Path | None = None) -> Path:
    """The report's folder, once it is certain that data, store and folder are to be had: before anything runs."""
    if prepared.remaining.trainings_left:
        load(prepared.plan.data)
    prepared.store.prepare()
    folder = Path(out) if out is not None else Path("runs") / prepared.spec.name
    _check_writable(folder)
    return folder


def conduct(
    prepared: Prepared,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    command: str | None = None,
) -> Audit:
    """Run what is left of a prepared study on `jobs` worker processes, judge it, and write the report to `out`.

    `command` is what somebody typed to ask for it; the page shows it.
    """
    folder = ready(prepared, out)
    results, failures = run_steps(prepared, folder, jobs, on_event, command)
    lines = [
        f"connectivity of {c}: {failures[c.step.key]}" for c in prepared.plan.connections if c.step.key in failures
    ]
    return Audit(write_report(results, folder), results, tuple(lines))


def run_steps(
    prepared: Prepared, folder: Path, jobs: int | None, on_event: Callable[[Event], None], command: str | None
) -> tuple[Results, dict[str, str]]:
    """Run what is left of a study and collect its rows; with them, why a step failed, by the step's key.

    Every training that ends is written down in `folder`.
    """
    diary = Diary(prepared.plan, folder)
    failures: dict[str, str] = {}
    cached = set(prepared.remaining.cached)
    executor = LocalExecutor(jobs or jobs_for(prepared), devices=prepared.spec.devices)
    with closing(executor.run(prepared.plan, prepared.store)) as events:
        for event in events:
            if event.kind == "failed":
                failures[event.key] = event.message
            elif event.kind == "done":
                cached.discard(event.key)  # what was damaged and made again was not there before
            diary(event)
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


def audit(
    source: Source = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] = lambda event: None,
) -> Audit:
    """Answer for one study what a sparse network should be trained from; nothing that `store` holds is trained again.

    >>> import prunetune as pt
    >>> verdict = pt.audit("quick", ["recipe.epochs=2"], seeds=2)  # doctest: +SKIP
    """
    return conduct(
        prepare(source, overrides, seeds=seeds, store=store, device=device), out=out, jobs=jobs, on_event=on_event
    )


def default_store() -> Path:
    """`$PRUNETUNE_STORE`, else a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PRUNETUNE_STORE") or Path(cache) / "prunetune" / "store")


def default_jobs() -> int:
    """One worker per core that this process may use: each training has one thread."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_for(prepared: Prepared) -> int:
    """Trainings at once: one per core; on GPUs as many as fit into their memory, and one per core at most.

    One for as many cores or GPUs as share a training, where these are several.
    """
    devices = prepared.spec.devices
    if prepared.device != "cuda":
        return max(1, default_jobs() // devices)
    gpus = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    if devices > 1:
        return len(gpus) // devices
    return min(default_jobs(), sum(max(1, memory // GPU_MEMORY) for memory in gpus))


def resolve_device(name: str, devices: int = 1) -> str:
    """`auto` is the best kind of device at hand; a RequestError where there are not as many of a kind as asked for."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        here = ", ".join(device for device, there in present.items() if there)
        raise RequestError(f"device: '{name}' is not available here; use auto or one of: {here}")
    count = {"cpu": devices, "cuda": torch.cuda.device_count(), "mps": 1}[name]
    if devices > count:
        raise RequestError(f"devices: {devices}; must be at most {count}, the devices of kind '{name}' here")
    return name


def _check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written before hours are spent, and not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"out: cannot write to '{folder}': {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise RequestError(f"out: cannot write to '{folder}': permission denied")
