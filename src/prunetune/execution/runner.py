"""Run a plan on workers of any kind: ready steps are handed out, what workers tell is passed on, and a step whose
worker is lost gets another chance."""

import math
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

from prunetune.core.interrupts import first_calls, raise_lost
from prunetune.errors import ConfigError, CorruptionError, InvariantError
from prunetune.execution.events import Done, Event, Failed, Notice, Skipped, Started, Waiting
from prunetune.execution.executors.protocol import Assignment
from prunetune.execution.scheduler import Schedule, Work
from prunetune.steps.steps import Step, Train
from prunetune.store.leases import Leases
from prunetune.store.store import StoreWriter

ATTEMPTS = 2  # of a step whose worker was lost: once may be chance, twice is the step
LOOK_AGAIN = 0.5  # seconds between two looks for what other processes have done, and whether to stop
SAY_AGAIN = 600.0  # seconds between two lines that say for whom a step waits
GRACE = 10.0  # seconds from Ctrl-C (SIGTERM, SIGHUP) to the end of the epochs under way


class Executor(Protocol):
    """Where and how steps are run."""

    def run(self, plan: Work, store: StoreWriter) -> Generator[Event, None, None]:
        """Do what `store` lacks of the plan, and tell what happens. A failure stops only what needs the failed step.

        What another process is at is left to it, and waited for when nothing else is left. Closing the iterator ends
        the workers; what is stored stays. Ctrl-C, SIGTERM and SIGHUP let trainings end with their epoch and a
        checkpoint, where workers can be asked to, and then have their usual effect; a second Ctrl-C has it at once.
        Raises ConfigError when the store cannot be written to, or the workers are not to be had.
        """
        ...


class WorkerLost(NamedTuple):
    """A step's worker has gone in the middle of it."""

    key: str
    how: str  # `was killed by signal 9`


class Workers(Protocol):
    """Processes, here or elsewhere, that do a step each."""

    @property
    def limit(self) -> int:
        """How many steps they may have at once."""
        ...

    def begin(self, assignment: Assignment) -> None:
        """Let a worker do a step; all that comes of it, its loss too, is told by `wait`."""
        ...

    def wait(self, timeout: float) -> Iterator[Event | WorkerLost]:
        """What has happened since, as soon as there is something; nothing when `timeout` seconds have passed.

        Every step ends in one of Done, Failed, Blocked and Lost.
        """
        ...

    def finish(self) -> bool:
        """Ask trainings to end with their epoch and a checkpoint, which is told as Lost; False where that cannot be."""
        ...

    def end(self) -> None:
        """End all workers, in the middle of any work."""
        ...


def drive(
    plan: Work, store: StoreWriter, workers: Workers, leases: Leases, checkpoint_every: float
) -> Generator[Event, None, None]:
    """Everything that happens until nothing is left to do; workers and leases are ended with it.

    At the end of what Ctrl-C, SIGTERM or SIGHUP has cut short, the signal takes its usual course.
    """
    raise_lost()
    run = _Run(plan, store, workers, leases, checkpoint_every)
    with first_calls(run.stop):
        try:
            yield from run.events()
        finally:
            workers.end()
            leases.close()
    if run.stopped_by is not None:
        signal.raise_signal(run.stopped_by)
        raise KeyboardInterrupt


class _Run:
    """One run of a plan: its schedule and its workers."""

    def __init__(
        self, plan: Work, store: StoreWriter, workers: Workers, leases: Leases, checkpoint_every: float
    ) -> None:
        self._workers = workers
        self._leases = leases
        self._checkpoint_every = checkpoint_every
        self._schedule = Schedule(plan, store, leases)
        self._attempts: Counter[str] = Counter()
        self._waited_for: dict[str, float] = {}  # key -> when that was said
        self.stopped_by: int | None = None  # a signal

    def events(self) -> Iterator[Event]:
        while not self.stopping:
            yield from self._hand_out()
            if not self._schedule.running:
                if not self._schedule.elsewhere:
                    return
                yield from self._waiting()
            for report in self._reports():
                yield from self._lost(report) if isinstance(report, WorkerLost) else self._heard(report)
        yield from self._wind_down()

    def stop(self, number: int) -> None:
        """Hand out nothing more, and let trainings end with their epoch, because of a signal."""
        self.stopped_by = number

    @property
    def stopping(self) -> bool:
        """Whether nothing more is handed out."""
        return self.stopped_by is not None

    def _reports(self) -> list[Event | WorkerLost]:
        """What workers tell next; nothing when it is time for a look at what others have done, or to stop."""
        while not (reports := list(self._workers.wait(LOOK_AGAIN))):
            if self._schedule.elsewhere or self.stopping:
                break
        return reports

    def _wind_down(self) -> Iterator[Event]:
        """Give what is under way the time to end with its epoch, and tell what comes of it."""
        deadline, running = time.monotonic() + GRACE, self._schedule.running
        if not self._workers.finish():
            return
        for step in running.values():
            if isinstance(step, Train):
                until = f"ends with its epoch, or after {GRACE:.0f} s; Ctrl-C again ends it now"
                yield Notice(step.key, f"{step.label} {until}")
        while running and time.monotonic() < deadline:
            for report in self._workers.wait(LOOK_AGAIN):
                if isinstance(report, WorkerLost):
                    self._schedule.again(report.key)  # another day
                else:
                    yield from self._heard(report)

    def _hand_out(self) -> Iterator[Event]:
        """Let steps that are ready begin, as long as there is room for one."""
        steps, limit = self._schedule.take(), self._workers.limit
        while len(self._schedule.running) < limit:
            found = next(steps, None)
            if found is None:
                return
            if isinstance(found, Step):
                yield Started(found.key)
                self._attempts[found.key] += 1
                self._workers.begin(Assignment(found, self._schedule.points(found), self._checkpoint_every))
            else:
                yield found

    def _waiting(self) -> Iterator[Event]:
        """Say of every step that it is waited for, and now and then whether the one that is at it still lives."""
        now = time.monotonic()
        for key in self._schedule.elsewhere:
            if now - self._waited_for.get(key, -math.inf) >= SAY_AGAIN:
                self._waited_for[key] = now
                yield Waiting(key, self._leases.story(key), self._leases.way_out(key))

    def _heard(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Done):
            try:
                self._schedule.done(event.key)
            except (ConfigError, InvariantError, CorruptionError) as error:  # done here, and not to be had by others
                event = Failed(event.key, str(error), type(error).__name__)
        if isinstance(event, Failed):
            yield from self._schedule.fail(self._schedule.running[event.key], event.message, event.error)
        elif isinstance(event, Skipped):
            yield from self._schedule.block(self._schedule.running[event.key], event.why)
        else:
            yield event

    def _lost(self, lost: WorkerLost) -> Iterator[Event]:
        """A worker was killed, or could not start: its step gets another chance on another one."""
        step = self._schedule.running[lost.key]
        if self._attempts[step.key] < ATTEMPTS:
            self._schedule.again(step.key)
            yield Notice(step.key, f"{step.label} is tried again: its worker {lost.how}")
        else:
            message = f"{step.label}: its worker {lost.how}, {ATTEMPTS} times"
            yield from self._schedule.fail(step, message, "WorkerDied")
