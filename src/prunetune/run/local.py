"""Run a plan on this machine: worker processes of one thread each, which need nothing of the user's script."""

import contextlib
import os
import pickle
import queue
import subprocess
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from prunetune.run.claims import EXPIRY, Claims
from prunetune.run.events import Blocked, Done, Event, Failed, Notice, Started, Waiting, label
from prunetune.run.launch import start
from prunetune.run.partial import EVERY
from prunetune.run.schedule import Schedule, Work
from prunetune.run.store import Store
from prunetune.run.wire import Assignment, receive, send
from prunetune.study.steps import Step

ATTEMPTS = 2  # of a step whose worker was killed: once may be chance, twice is the step
DYING = 5.0  # seconds between the end of a worker's messages and its own
LOOK_AGAIN = 0.5  # seconds between two looks for what other processes have done

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


class LocalExecutor:
    """Runs steps on `jobs` workers of one thread each: equal steps give equal bytes whatever `jobs` is.

    A worker is as many processes as `devices` share a training.
    """

    def __init__(self, jobs: int, expiry: float = EXPIRY, checkpoint_every: float = EVERY, devices: int = 1) -> None:
        self.jobs = jobs
        self.devices = devices
        self.checkpoint_every = checkpoint_every  # seconds
        self.expiry = expiry  # seconds after which a silent process of another machine counts as dead

    def run(self, plan: Work, store: Store) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, and tell what happens. A failure stops only what needs the failed step.

        What another process is at is left to it, and waited for when nothing else is left. Closing the iterator (or
        Ctrl-C) ends the workers; what is stored stays. Raises RequestError when the store cannot be written to.
        """
        store.prepare()
        run = _Run(plan, store, self.jobs, Claims(store.root, self.expiry), self.checkpoint_every, self.devices)
        try:
            yield from run.events()
        finally:
            run.end()


class _Run:
    """One run of a plan: its schedule and its workers."""

    def __init__(
        self, plan: Work, store: Store, jobs: int, claims: Claims, checkpoint_every: float, devices: int
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._devices = devices
        self._claims = claims
        self._checkpoint_every = checkpoint_every
        self._schedule = Schedule(plan, store, claims)
        self._waited_for: set[str] = set()
        self._workers: list[Worker] = []
        self._hired = 0
        self._attempts: Counter[str] = Counter()
        self._inbox: Inbox = queue.SimpleQueue()

    def events(self) -> Iterator[Event]:
        """Everything that happens until nothing is left to do."""
        while True:
            yield from self._hand_out()
            if all(worker.step is None for worker in self._workers):
                if not self._schedule.elsewhere:
                    return
                yield from self._waiting()
            with contextlib.suppress(queue.Empty):
                worker, message = self._inbox.get(timeout=LOOK_AGAIN if self._schedule.elsewhere else None)
                yield from self._ended(worker) if message is None else self._heard(worker, pickle.loads(message))

    def end(self) -> None:
        """End all workers, and leave what they were at to others."""
        while self._workers:
            self._workers.pop().end()
        self._claims.close()

    def _hand_out(self) -> Iterator[Event]:
        """Give every step that is ready to a worker, as long as one is free."""
        steps = self._schedule.take()
        while self._free() is not None or len(self._workers) < self._jobs:
            found = next(steps, None)
            if found is None:
                return
            if isinstance(found, Step):
                yield Started(found.key)
                self._attempts[found.key] += 1
                points = self._schedule.points(found)
                (self._free() or self._hire()).give(Assignment(found, points, self._checkpoint_every))
            else:
                yield found

    def _waiting(self) -> Iterator[Event]:
        """Say once of every step that it is waited for."""
        for key in self._schedule.elsewhere:
            if key not in self._waited_for:
                self._waited_for.add(key)
                yield Waiting(key, str(self._claims.holder(key) or "another process"))

    def _free(self) -> Worker | None:
        return next((worker for worker in self._workers if worker.step is None), None)

    def _hire(self) -> Worker:
        self._hired += 1
        place = min(set(range(self._jobs)) - {worker.place for worker in self._workers})
        worker = Worker(self._store, self._hired, place, self._devices, self._inbox)
        self._workers.append(worker)
        return worker

    def _heard(self, worker: Worker, event: Event) -> Iterator[Event]:
        step = worker.step
        if step is None or not isinstance(event, Done | Failed | Blocked):
            yield event
            return
        worker.step = None
        if isinstance(event, Done):
            self._schedule.done(step.key)
            yield event
        elif isinstance(event, Failed):
            yield from self._schedule.fail(step, event.message, event.error)
        else:
            yield from self._schedule.block(step, event.why)

    def _ended(self, worker: Worker) -> Iterator[Event]:
        """A worker was killed, or could not start: its step gets another chance on another one."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        how = _how_it_ended(worker.end(grace=DYING), worker.log)
        step = worker.step
        if step is None:
            return
        if self._attempts[step.key] < ATTEMPTS:
            self._schedule.again(step.key)
            yield Notice(step.key, f"{label(step)} is tried again: its worker {how}")
        else:
            yield from self._schedule.fail(step, f"{label(step)}: its worker {how}, {ATTEMPTS} times", "WorkerDied")


def _how_it_ended(status: int, log: Path) -> str:
    """In words: a negative status is a signal, and 9 most often the system out of memory."""
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return how + hint + (f"; see {log}" if log.exists() else "")
