"""Run a plan on this machine: worker processes of one thread each, which need nothing of the user's script."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from prunetune.run.claims import EXPIRY, Claims
from prunetune.run.events import Blocked, Done, Event, Failed, Notice, Started, Waiting, label
from prunetune.run.partial import EVERY
from prunetune.run.schedule import Schedule, Work
from prunetune.run.store import Store
from prunetune.run.wire import Assignment, nudge, receive, send
from prunetune.study.steps import Step, Train

ATTEMPTS = 2  # of a step whose worker was killed: once may be chance, twice is the step
KILLED = -9  # the exit status of a process that SIGKILL has ended
DYING = 5.0  # seconds between the end of a worker's messages and its own
LOOK_AGAIN = 0.5  # seconds between two looks for what other processes have done, and at who is silent
SILENCE = 3600.0  # seconds of work without one batch, after which a worker hangs; that of a slow model takes minutes
GRACE = 10.0  # seconds from Ctrl-C to the end of the epochs under way

# The worker sees exactly the modules that this process sees; -P keeps the current folder from coming first.
_BOOT = "import sys; store, log, *sys.path[:] = sys.argv[1:]; from prunetune.run.worker import main; main(store, log)"
WORKER_ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM")},
    # glibc keeps freed memory for the next step's activations instead of asking the system for it anew each time
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most it accepts
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}

Inbox = queue.SimpleQueue[tuple["Worker", bytes | None]]


class Worker:
    """One worker process, and the thread that brings its messages to `inbox` (None when it has ended)."""

    def __init__(self, store: Store, number: int, inbox: Inbox) -> None:
        self.log = store.root / "logs" / f"{os.getpid()}-{number}.log"
        self.step: Step | None = None
        self.silent = 0.0  # seconds since the last message, as long as there was somebody to hear it
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(store.root), str(self.log), *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | WORKER_ENVIRONMENT,
        )
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
        self._listener.join(DYING)
        if self._listener.is_alive():
            return KILLED
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, pipe).close()
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()
        return self._process.returncode

    def _listen(self, inbox: Inbox) -> None:
        stream = cast(BinaryIO, self._process.stdout)
        while (message := receive(stream)) is not None:
            inbox.put((self, message))
        inbox.put((self, None))


class LocalExecutor:
    """Runs steps on `jobs` worker processes of one thread each: equal steps give equal bytes whatever `jobs` is."""

    def __init__(self, jobs: int, expiry: float = EXPIRY, checkpoint_every: float = EVERY) -> None:
        self.jobs = jobs
        self.checkpoint_every = checkpoint_every  # seconds
        self.expiry = expiry  # seconds after which a silent process of another machine counts as dead

    def run(self, plan: Work, store: Store) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, and tell what happens. A failure stops only what needs the failed step.

        What another process is at is left to it, and waited for when nothing else is left. Closing the iterator ends
        the workers; what is stored stays. Ctrl-C lets trainings end with their epoch and a checkpoint before it raises
        KeyboardInterrupt; a second one raises it at once. Raises RequestError when the store cannot be written to.
        """
        store.prepare()
        run = _Run(plan, store, self.jobs, Claims(store.root, self.expiry), self.checkpoint_every)
        try:
            with _first_interrupt(run.stop):
                yield from run.events()
            if run.stopping:
                raise KeyboardInterrupt
        finally:
            run.end()


class _Run:
    """One run of a plan: its schedule and its workers."""

    def __init__(self, plan: Work, store: Store, jobs: int, claims: Claims, checkpoint_every: float) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims
        self._checkpoint_every = checkpoint_every
        self._schedule = Schedule(plan, store, claims)
        self._waited_for: set[str] = set()
        self._workers: list[Worker] = []
        self._hired = 0
        self._attempts: Counter[str] = Counter()
        self._inbox: Inbox = queue.SimpleQueue()
        self.stopping = False

    def events(self) -> Iterator[Event]:
        """Everything that happens until nothing is left to do, or the run is stopped."""
        while not self.stopping:
            yield from self._hand_out()
            if not self._busy():
                if not self._schedule.elsewhere:
                    return
                yield from self._waiting()
            yield from self._listen()
        yield from self._wind_down()

    def stop(self) -> None:
        """Hand out nothing more, and let trainings end with their epoch."""
        self.stopping = True

    def end(self) -> None:
        """End all workers, and leave what they were at to others."""
        while self._workers:
            self._workers.pop().end()
        self._claims.close()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.step is not None]

    def _listen(self) -> Iterator[Event]:
        """What the next message tells, or a long silence; nothing when it is time for another look."""
        while True:
            heard = self._hear()
            hung = [worker for worker in self._busy() if worker.silent > SILENCE]
            for worker in hung:
                worker.end()
                yield from self._lost(worker, f"gave no sign of life for {SILENCE / 60:.0f} min")
            if heard is not None:
                worker, message = heard
                yield from self._ended(worker) if message is None else self._heard(worker, pickle.loads(message))
            if heard is not None or hung or self._schedule.elsewhere or self.stopping:
                return

    def _hear(self) -> tuple[Worker, bytes | None] | None:
        """A worker's next message, or None after a while. A sign of life is none, nor is the word of one given up.

        Silence is counted in time of this process: should all have been asleep, or stopped, nobody was silent.
        """
        began, heard = time.monotonic(), None
        with contextlib.suppress(queue.Empty):
            heard = self._inbox.get(timeout=LOOK_AGAIN)
        waited = min(time.monotonic() - began, LOOK_AGAIN)
        for worker in self._workers:
            worker.silent += waited
        if heard is not None:
            heard[0].silent = 0.0
        return heard if heard is not None and heard[0] in self._workers and heard[1] != b"" else None

    def _wind_down(self) -> Iterator[Event]:
        """Give what is under way the time to end with its epoch, and tell what comes of it."""
        deadline = time.monotonic() + GRACE
        for worker in self._busy():
            worker.finish()
            if isinstance(worker.step, Train):
                yield Notice(
                    worker.step.key,
                    f"{label(worker.step)} ends with its epoch, or after {GRACE:.0f} s; Ctrl-C again ends it now",
                )
        while self._busy() and time.monotonic() < deadline:
            if (heard := self._hear()) is None:
                continue
            worker, message = heard
            if message is not None:
                yield from self._heard(worker, pickle.loads(message))
            else:
                self._workers.remove(worker)
                worker.end(grace=DYING)

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
        worker = Worker(self._store, self._hired, self._inbox)
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
        """A worker was killed, or could not start."""
        yield from self._lost(worker, _how_it_ended(worker.end(grace=DYING), worker.log))

    def _lost(self, worker: Worker, how: str) -> Iterator[Event]:
        """A worker is no more: its step gets another chance on another one."""
        self._workers.remove(worker)
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
    hint = " (out of memory?)" if status == KILLED else ""
    return how + hint + (f"; see {log}" if log.exists() else "")


@contextlib.contextmanager
def _first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`, the next one is as ever. Nothing changes in another thread than the main one, or
    where Ctrl-C is put to another use."""
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def first(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        stop()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
