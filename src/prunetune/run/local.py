"""Run a plan on this machine: worker processes of one thread each, which need nothing of the user's script."""

import contextlib
import os
import pickle
import queue
import subprocess
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from prunetune.run.claims import EXPIRY
from prunetune.run.drive import Lost, drive
from prunetune.run.events import Blocked, Done, Event, Failed
from prunetune.run.launch import jobs_for, ranks_of, start
from prunetune.run.partial import EVERY
from prunetune.run.schedule import Work
from prunetune.run.store import Store
from prunetune.run.wire import Assignment, receive, send
from prunetune.study.steps import Step

DYING = 5.0  # seconds between the end of a worker's messages and its own

Inbox = queue.SimpleQueue[tuple["Worker", bytes | None]]


class Worker:
    """One worker, and the thread that brings its messages to `inbox` (None when it has ended).

    It is a process, or several `ranks` that share its pipes and train together; torchrun starts them, and ends all when
    one ends. All end when the pipe to them is closed, by whatever death of this process.
    """

    def __init__(self, store: Store, number: int, place: int, ranks: int, inbox: Inbox) -> None:
        self.log = store.root / "logs" / f"{os.getpid()}-{number}.log"
        self.place = place
        self.step: Step | None = None
        self._resources = contextlib.ExitStack()
        self._process = start(store, self.log, place, ranks, self._resources)
        self._listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._listener.start()

    def give(self, assignment: Assignment) -> None:
        """Let the worker do a step; that it has died meanwhile is told by its None in the inbox."""
        self.step = assignment.step
        with contextlib.suppress(BrokenPipeError):
            send(cast(BinaryIO, self._process.stdin), assignment)

    def end(self, grace: float = 0.0) -> int:
        """End the process, at the latest after `grace` seconds, and return its exit status; an empty log is removed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            cast(BinaryIO, self._process.stdin).close()  # ranks that outlive torchrun end by this
        self._listener.join()
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

    def __init__(self, store: Store, limit: int, ranks: int) -> None:
        self.limit = limit
        self._ranks = ranks
        self._store = store
        self._workers: list[Worker] = []
        self._hired = 0
        self._inbox: Inbox = queue.SimpleQueue()

    def begin(self, assignment: Assignment) -> None:
        """Give a step to a worker that is free, or to a new one."""
        (next((worker for worker in self._workers if worker.step is None), None) or self._hire()).give(assignment)

    def wait(self, timeout: float | None) -> Iterator[Event | Lost]:
        """The next message."""
        with contextlib.suppress(queue.Empty):
            worker, message = self._inbox.get(timeout=timeout)
            if message is None:
                yield from self._ended(worker)
            else:
                event = pickle.loads(message)
                if isinstance(event, Done | Failed | Blocked):
                    worker.step = None
                yield event

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

    def _ended(self, worker: Worker) -> Iterator[Lost]:
        """A worker was killed, or could not start."""
        self._workers.remove(worker)
        how = _how_it_ended(worker.end(grace=DYING), worker.log)
        if worker.step is not None:
            yield Lost(worker.step.key, how)


class LocalExecutor:
    """Runs steps on `jobs` workers of one thread each: equal steps give equal bytes whatever `jobs` is.

    A worker is as many processes as devices share a training. Without `jobs` there are as many as `jobs_for` says.
    """

    def __init__(self, jobs: int | None = None, expiry: float = EXPIRY, checkpoint_every: float = EVERY) -> None:
        self.jobs = jobs
        self.checkpoint_every = checkpoint_every  # seconds
        self.expiry = expiry  # seconds after which a silent process of another machine counts as dead

    def run(self, plan: Work, store: Store) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, in processes of this machine that need nothing of the user's script."""
        store.prepare()
        claims = store.claims(self.expiry)
        workers = LocalWorkers(store, self.jobs or jobs_for(plan), ranks_of(plan))
        yield from drive(plan, store, workers, claims, self.checkpoint_every)


def _how_it_ended(status: int, log: Path) -> str:
    """In words: a negative status is a signal, and 9 most often the system out of memory."""
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return how + hint + (f"; see {log}" if log.exists() else "")
