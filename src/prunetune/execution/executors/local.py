"""Run a plan on this machine: worker processes of one thread each, which need nothing of the user's script."""

import contextlib
import os
import pickle
import queue
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from prunetune.core.files import this_owner
from prunetune.execution.events import Done, Event, Failed, Skipped
from prunetune.execution.executors.launch import jobs_for, ranks_of, require_jobs, start
from prunetune.execution.executors.protocol import Assignment, nudge, receive, send
from prunetune.execution.runner import WorkerLost, drive
from prunetune.execution.scheduler import Work
from prunetune.steps.steps import Step
from prunetune.store.checkpoints import EVERY
from prunetune.store.leases import EXPIRY
from prunetune.store.store import StoreWriter

KILLED = -9  # the exit status of a process that SIGKILL has ended
DYING = 5.0  # seconds between the end of a worker's messages and its own
SILENCE = 3600.0  # seconds of work without one batch, after which a worker hangs; that of a slow model takes minutes

Inbox = queue.SimpleQueue[tuple["Worker", bytes | None]]


class Worker:
    """One worker, and the thread that brings its messages to `inbox` (None when it has ended).

    It is a process, or several `ranks` that share its pipes and train together; torchrun starts them, and ends all when
    one ends. All end when the pipe to them is closed, by whatever death of this process.
    """

    def __init__(self, store: StoreWriter, number: int, place: int, ranks: int, inbox: Inbox) -> None:
        self.log = store.root / "logs" / f"{this_owner()}-{os.getpid()}-{number}.log"
        self.place = place
        self.step: Step | None = None
        self.silent = 0.0  # seconds since the last message, as long as there was somebody to hear it
        self._resources = contextlib.ExitStack()
        self._process = start(store, self.log, place, ranks, self._resources)
        self._listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._listener.start()

    def give(self, assignment: Assignment) -> None:
        """Let the worker do a step; that it has died meanwhile is told by its None in the inbox."""
        self.step, self.silent = assignment.step, 0.0
        with contextlib.suppress(BrokenPipeError):
            send(cast(BinaryIO, self._process.stdin), assignment)

    def finish(self) -> None:
        """Ask the worker to end with its epoch."""
        with contextlib.suppress(BrokenPipeError):
            nudge(cast(BinaryIO, self._process.stdin))

    def end(self, grace: float = 0.0) -> int:
        """End the process, at the latest after `grace` seconds, and return its exit status; an empty log is removed.

        One that waits for a disk that is gone cannot be ended: it is left to itself after a while.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            cast(BinaryIO, self._process.stdin).close()  # ranks, which outlive torchrun, end by this
        self._listener.join(DYING)
        if self._listener.is_alive():
            return KILLED
        self._process.wait()
        cast(BinaryIO, self._process.stdout).close()
        self._resources.close()
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()
        return self._process.returncode

    def _listen(self, inbox: Inbox) -> None:
        stream = cast(BinaryIO, self._process.stdout)
        while (message := receive(stream)) is not None:
            inbox.put((self, message))
        inbox.put((self, None))


class LocalWorkers:
    """Up to `limit` workers of `ranks` processes each, hired as they are needed; each does one step after another."""

    def __init__(self, store: StoreWriter, limit: int, ranks: int = 1) -> None:
        self.limit = limit
        self._ranks = ranks
        self._store = store
        self._workers: list[Worker] = []
        self._hired = 0
        self._inbox: Inbox = queue.SimpleQueue()

    def begin(self, assignment: Assignment) -> None:
        """Give a step to a worker that is free, or to a new one."""
        (next((worker for worker in self._workers if worker.step is None), None) or self._hire()).give(assignment)

    def wait(self, timeout: float) -> Iterator[Event | WorkerLost]:
        """The next message, after the loss of workers that have been silent for long. A sign of life tells nothing, nor
        does one that was given up."""
        heard = self._hear(timeout)
        for worker in [worker for worker in self._busy() if worker.silent > SILENCE]:
            worker.end()
            yield from self._lost(worker, f"gave no sign of life for {SILENCE / 60:.0f} min")
        if heard is None or heard[0] not in self._workers or heard[1] == b"":
            return
        worker, message = heard
        if message is None:
            yield from self._ended(worker)
        else:
            event = pickle.loads(message)
            if isinstance(event, Done | Failed | Skipped):
                worker.step = None
            if self._ranks > 1 and isinstance(event, Failed | Skipped):  # its ranks may be anywhere in the step
                self._workers.remove(worker)
                worker.end()
            yield event

    def finish(self) -> bool:
        """Ask those that are at a step to end with their epoch."""
        for worker in self._busy():
            worker.finish()
        return True

    def end(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().end()

    def _hire(self) -> Worker:
        self._hired += 1
        place = min(set(range(self.limit)) - {worker.place for worker in self._workers})
        worker = Worker(self._store, self._hired, place, self._ranks, self._inbox)
        self._workers.append(worker)
        return worker

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.step is not None]

    def _hear(self, timeout: float) -> tuple[Worker, bytes | None] | None:
        """A worker's next message, or None after a while.

        Silence is counted in time of this process: should all have been asleep, or stopped, nobody was silent.
        """
        began, heard = time.monotonic(), None
        with contextlib.suppress(queue.Empty):
            heard = self._inbox.get(timeout=timeout)
        waited = min(time.monotonic() - began, timeout)
        for worker in self._workers:
            worker.silent += waited
        if heard is not None:
            heard[0].silent = 0.0
        return heard

    def _ended(self, worker: Worker) -> Iterator[WorkerLost]:
        """A worker was killed, or could not start, or has ended as it was asked to."""
        yield from self._lost(worker, _how_it_ended(worker.end(grace=DYING), worker.log))

    def _lost(self, worker: Worker, how: str) -> Iterator[WorkerLost]:
        self._workers.remove(worker)
        if worker.step is not None:
            yield WorkerLost(worker.step.key, how)


class LocalExecutor:
    """Runs steps on `jobs` workers of one thread each: equal steps give equal bytes whatever `jobs` is.

    A worker is as many processes as devices share a training. Without `jobs` there are as many as `jobs_for` says.
    """

    def __init__(self, jobs: int | None = None, expiry: float = EXPIRY, checkpoint_every: float = EVERY) -> None:
        self.jobs = require_jobs(jobs)
        self.checkpoint_every = checkpoint_every  # seconds
        self.expiry = expiry  # seconds after which a silent process of another machine counts as dead

    def run(self, plan: Work, store: StoreWriter) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, in processes of this machine that need nothing of the user's script."""
        store.prepare()
        leases = store.leases(self.expiry)
        workers = LocalWorkers(store, self.jobs or jobs_for(plan), ranks_of(plan))
        yield from drive(plan, store, workers, leases, self.checkpoint_every)


def _how_it_ended(status: int, log: Path) -> str:
    """In words: a negative status is a signal, and 9 most often the system out of memory."""
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = " (out of memory?)" if status == KILLED else ""
    return how + hint + (f"; see {log}" if log.exists() else "")
