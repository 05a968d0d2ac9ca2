"""Run a plan as Slurm jobs, through submitit: a training is a job, and all else that is ready at once is one more.

Jobs tell what happens in files in the store, which the study reads again and again: JSON, so that reading runs nothing.
"""

import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from prunetune.core.environment import THREADS_PER_TRAINING
from prunetune.core.files import this_host
from prunetune.errors import ConfigError, unknown
from prunetune.execution.events import Done, Event, Failed, Skipped
from prunetune.execution.executors.launch import WORKER_ENVIRONMENT, require_jobs
from prunetune.execution.executors.protocol import Assignment
from prunetune.execution.executors.worker import do
from prunetune.execution.runner import WorkerLost, drive
from prunetune.execution.scheduler import Work
from prunetune.steps.quantities import MeasureBarrier, MeasureBlocks, MeasureCurvature, MeasureSensitivity
from prunetune.steps.steps import Connect, Import, Train
from prunetune.store.checkpoints import EVERY
from prunetune.store.store import Store, StoreWriter

try:
    import submitit
except ImportError as error:
    raise ConfigError("--executor slurm needs the extra prunetune[slurm]: pip install 'prunetune[slurm]'") from error

ENDING = 60.0  # seconds for a job to end by itself after its last step
QUEUED = 100  # steps in the queue at once: clusters limit the jobs of one user
LONG = (
    Train | Connect | Import | MeasureBarrier | MeasureCurvature | MeasureSensitivity | MeasureBlocks
)  # images pass through a network
MINUTES = 240  # of a job, where nothing is said
PARAMETERS: Mapping[str, type] = {
    "account": str,
    "comment": str,
    "constraint": str,
    "exclude": str,
    "gpus_per_node": int,
    "gres": str,
    "mem": str,
    "nodelist": str,
    "partition": str,
    "qos": str,
    "setup": str,
    "time": int,
    "wckey": str,
}
_KINDS = {event.kind: event for event in get_args(Event)}


class SlurmExecutor:
    """Runs steps as Slurm jobs of one CPU, `jobs` steps in the queue at once.

    `parameters` are those of `PARAMETERS`, as `read_parameters` gives them. The store must be a folder that the nodes
    share. `cluster` is `slurm`, or `local` for processes on this machine in place of jobs.
    """

    def __init__(
        self,
        jobs: int | None = None,
        parameters: Mapping[str, str | int] | None = None,
        cluster: str = "slurm",
        checkpoint_every: float = EVERY,
    ) -> None:
        self.jobs = require_jobs(jobs) or QUEUED
        self.parameters = dict(parameters or {})
        self.cluster = cluster
        self.checkpoint_every = checkpoint_every  # seconds

    def run(self, plan: Work, store: StoreWriter) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan. ConfigError where no job can be submitted."""
        store.prepare()
        workers = SlurmWorkers(store, self.jobs, self.parameters, self.cluster)
        yield from drive(plan, store, workers, store.leases(), self.checkpoint_every)


class SlurmWorkers:
    """Jobs in the queue and at work. What has begun is submitted together at the next wait, as an array."""

    poll = 1.0  # seconds between two looks at what jobs have told

    def __init__(self, store: StoreWriter, limit: int, parameters: Mapping[str, str | int], cluster: str) -> None:
        self.limit = limit
        self._root = store.root.resolve()
        self._folder = self._root / "logs" / f"slurm-{this_host()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._executor = _executor(self._folder, parameters, cluster)
        self._begun: list[Assignment] = []
        self._batches: list[Batch] = []
        self._submitted = 0
        self._keep = False

    def begin(self, assignment: Assignment) -> None:
        """Take note of a step."""
        self._begun.append(assignment)

    def wait(self, timeout: float) -> Iterator[Event | WorkerLost]:
        """Submit what has begun, and tell what jobs have told since."""
        self._submit()
        until = time.monotonic() + timeout
        while not (reports := [report for batch in self._batches for report in batch.news()]):
            if time.monotonic() >= until:
                return
            time.sleep(self.poll)
        self._batches = [batch for batch in self._batches if batch.left or not batch.over]
        self._keep |= any(isinstance(report, WorkerLost | Failed) for report in reports)
        yield from reports

    def finish(self) -> bool:
        """Jobs cannot be asked; their checkpoints are those of the last minute."""
        return False

    def end(self) -> None:
        """Cancel what is in the queue or at work; what jobs have printed is kept where something went wrong."""
        under_way = [batch for batch in self._batches if batch.left]
        for batch in under_way:
            with suppress(OSError):
                batch.job.cancel(check=False)
        until = time.monotonic() + ENDING
        while not all(batch.left or batch.job.done() for batch in self._batches) and time.monotonic() < until:
            time.sleep(self.poll)
        if not self._keep and not under_way:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _submit(self) -> None:
        if not self._begun:
            return
        try:
            with self._executor.batch():
                submitted = [self._batch(work) for work in _split(self._begun)]
        except Exception as error:  # submitit passes on what sbatch said in errors of several kinds
            why = " ".join(str(error).split())
            raise ConfigError(f"--executor slurm: no job could be submitted: {why}") from error
        self._batches += submitted
        self._begun = []

    def _batch(self, work: Sequence[Assignment]) -> "Batch":
        self._submitted += 1
        told = self._folder / f"{self._submitted}.jsonl"
        job = self._executor.submit(_work, str(self._root), work, str(told))
        return Batch(job, [assignment.step.key for assignment in work], told)


class Batch:
    """Steps that one job does, and what it has told of them."""

    def __init__(self, job: Any, keys: list[str], told: Path) -> None:
        self.job = job
        self.left = keys
        self.over = False
        self._told = told
        self._read = 0  # bytes

    def news(self) -> Iterator[Event | WorkerLost]:
        """What the job has told since; when it is over, the steps of which it has told no end are lost."""
        self.over = self.job.done()  # asked first: what it told before its end is then all there
        for event in self._events():
            if isinstance(event, Done | Failed | Skipped):
                self.left.remove(event.key)
            yield event
        while self.over and self.left:
            state = f"Slurm job {self.job.job_id}: {self.job.state}"
            yield WorkerLost(self.left.pop(0), f"ended before it was done ({state}; see {self._told.parent})")

    def _events(self) -> Iterator[Event]:
        with suppress(FileNotFoundError), self._told.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self._read += len(line)
                fields = json.loads(line)
                yield _KINDS[fields["kind"]](**fields)


def read_parameters(texts: Sequence[str]) -> dict[str, str | int]:
    """`KEY=VALUE` texts as parameters of a job; ConfigError for what is not passed on or makes no sense."""
    found: dict[str, str | int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--slurm: '{text}' is not KEY=VALUE, such as partition=long")
        if name not in PARAMETERS:
            raise unknown("--slurm", name, PARAMETERS)
        if PARAMETERS[name] is int and not value.isdecimal():
            unit = " of minutes" if name == "time" else ""
            raise ConfigError(f"--slurm: {name}={value}: not a whole number{unit}")
        found[name] = PARAMETERS[name](value)
    return found


def _executor(folder: Path, parameters: Mapping[str, str | int], cluster: str) -> Any:
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("--executor slurm: there is no sbatch here; start the command where jobs can be submitted")
    executor = submitit.AutoExecutor(folder, cluster=cluster)
    exports = [f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()]
    minutes = parameters.get("time", MINUTES)
    others = {f"slurm_{name}": value for name, value in parameters.items() if name not in ("time", "setup")}
    setup = exports + ([parameters["setup"]] if "setup" in parameters else [])
    executor.update_parameters(name="prunetune", timeout_min=minutes, cpus_per_task=1, slurm_setup=setup, **others)
    return executor


def _split(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """What takes its time is a job of its own; all else, of less than a second each, goes into one."""
    long = [[one] for one in assignments if isinstance(one.step, LONG)]
    short = [one for one in assignments if not isinstance(one.step, LONG)]
    return [*long, short] if short else long


def _work(store: str, assignments: Sequence[Assignment], told: str) -> None:
    """In the job: do one step after another, and tell what happens, a line each."""
    torch.set_num_threads(THREADS_PER_TRAINING)
    with Path(told).open("a", encoding="utf-8") as file:

        def tell(event: Event) -> None:
            file.write(json.dumps(asdict(event)) + "\n")
            file.flush()

        for assignment in assignments:
            tell(do(assignment, Store(store), tell))
