"""Live progress of an audit: trainings done, the last score, an honest time left."""

import contextlib
import importlib.util
import time
from collections import deque
from itertools import pairwise
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from prunetune.errors import counted, one_line, printable
from prunetune.execution.events import SOURCE_FAILED, Cached, Done, Event, Failed, Notice, Skipped, Started, Waiting
from prunetune.execution.events import Progress as EpochDone
from prunetune.execution.training_log import score_of
from prunetune.plan.compile import Plan, Remaining, labels, look_words
from prunetune.steps.steps import Train

LINE_EVERY = 15.0  # seconds between lines where the output is no terminal
BLOCKS = 4  # of the latest epochs, whose rates make a range
RECENT = 32  # epochs of each worker that are looked at, at most


class Pace:
    """How long an epoch takes with all that the machine is doing, from when the latest ones ended.

    The end of the first is where the clock starts: before it workers have imported torch, and that is done once.
    """

    def __init__(self) -> None:
        self.ends: deque[float] = deque(maxlen=100_000)

    def seconds(self, now: float, at_once: int) -> tuple[float, float] | None:
        """From the end of one epoch to that of the next: in the fastest and the slowest block of the latest ones.

        `at_once` trainings run side by side, whose epochs end together: a block has two of each. None before that.
        """
        ends, least = list(self.ends), 2 * at_once
        known = len(ends) - 1
        if known < least:
            return None
        size = max(least, min(known // 5, RECENT * at_once) // (BLOCKS * at_once) * at_once)
        marks = [known - size * block for block in range(min(BLOCKS, known // size), -1, -1)]
        rates = [(ends[last] - ends[first]) / (last - first) for first, last in pairwise(marks)]
        overdue = (now - ends[marks[-2]]) / (known - marks[-2] + 1)  # as if another epoch had ended just now
        return min(rates), max(*rates, overdue)


class Progress:
    """Consumer of an executor's events: a bar in a terminal or notebook, a line now and then elsewhere.

    Time left is a range: what is left of the trainings by the pace of the latest epochs.
    """

    def __init__(self, plan: Plan, remaining: Remaining, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.drawn = is_drawn(self.console)
        self.metric = plan.spec.metric
        self.labels: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.others: set[str] = set()  # steps that do not train
        self.ended: set[str] = set()
        self.said: set[str] = set()  # why steps failed or were not run; what needs such a step is not named after it
        self.reached: dict[str, int] = {}
        self.epochs_left = 0
        self.pace = Pace()
        self.running: set[str] = set()  # trainings
        self.priority: dict[str, int] = {}  # key -> epochs of the longest chain that starts with the step
        self.last = ""
        self.last_line = time.monotonic()
        self.bars = Bars(
            TextColumn("trainings"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[last]}", style="dim"),
            console=self.console,
            transient=True,
            disable=not self.drawn,
        )
        self.bar = self.bars.add_task("", total=None, left="", last="")
        self._expect(plan, remaining)

    @property
    def finished(self) -> int:
        """How many trainings have ended of those that were still to be run."""
        return len(self.ended & self.epochs.keys())

    def more(self, plan: Plan, remaining: Remaining) -> None:
        """Say that seeds are added, and follow what is left of the larger plan."""
        self._expect(plan, remaining)
        trainings, epochs = counted(remaining.trainings_left, "training"), counted(remaining.epochs_left, "epoch")
        self._say(f"{look_words(plan)}: {trainings} ({epochs}) to run")

    def _expect(self, plan: Plan, remaining: Remaining) -> None:
        self.labels |= labels(plan)
        self.priority |= plan.priority
        found = {step.key: step.recipe.epochs for step in remaining.left if isinstance(step, Train)}
        self.epochs_left += sum(epochs for key, epochs in found.items() if key not in self.epochs)
        self.epochs |= found
        self.others |= {step.key for step in remaining.left} - found.keys()
        self.bars.update(self.bar, total=len(self.epochs))

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of a terminal that has gone
            self.bars.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event, and show it when it is worth a look."""
        if isinstance(event, Started) and event.key in self.epochs:
            self.running.add(event.key)
        if isinstance(event, EpochDone):
            self.running.add(event.key)
            self._reach(event.key, event.epoch)
            self.pace.ends.append(time.monotonic())
        elif isinstance(event, Done | Cached | Skipped | Failed):
            self._reach(event.key, self.epochs.get(event.key, 0))
            self.running.discard(event.key)
            self.ended.add(event.key)
        if isinstance(event, Done):
            self._note(event)
        self._tell(event)
        self._show()

    def _tell(self, event: Event) -> None:
        """A line for what a person should know; of steps that one cause keeps from running, one for all."""
        if isinstance(event, Waiting):
            told = f"waiting for another process ({one_line(event.holder)}): {self._name(event.key)}"
            self._say(f"{told}; done here {event.way_out}")
        elif isinstance(event, Skipped):
            if event.why not in self.said:
                self.said.add(event.why)
                self._say(f"not run: what needs a {event.why}")
        elif isinstance(event, Failed):
            if event.error != SOURCE_FAILED:
                self.said.add(event.message)
                self._say(f"failed: {self._name(event.key)}: {event.message}")
        elif isinstance(event, Notice):
            self._say(f"notice: {self._name(event.key)}: {event.message}")

    def time_left(self) -> str:
        """`about 2 to 3 min left` of the trainings, or nothing before two epochs of each worker are known; after the
        last training the count of the other steps, whose time nobody knows."""
        if not self.epochs_left and self.others:
            return f"{len(self.ended & self.others)} of {counted(len(self.others), 'other step')}"
        at_once = max(1, len(self.running))
        seconds = self.pace.seconds(time.monotonic(), at_once)
        if seconds is None:
            return ""
        chain = max((self.priority.get(key, 0) - self.reached.get(key, 0) for key in self.running), default=0)
        epochs = max(self.epochs_left, chain * at_once)  # of a chain no more than one is trained at a time
        return f"about {duration_range(*(one * epochs for one in seconds))} left"

    def _reach(self, key: str, epoch: int) -> None:
        self.epochs_left -= epoch - self.reached.get(key, 0)
        self.reached[key] = epoch

    def _note(self, event: Done) -> None:
        score = score_of(event.metrics)
        if event.key in self.labels and isinstance(score, float):  # along a line they are a list
            self.last = f"{self.labels[event.key]}: {self.metric.text(score)}"

    def _show(self) -> None:
        with contextlib.suppress(OSError):
            self.bars.update(self.bar, completed=self.finished, left=self.time_left(), last=self.last)
        if self.epochs and not self.drawn and time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            trainings = f"{self.finished} of {counted(len(self.epochs), 'training')}"
            so_far = ", ".join(filter(None, [trainings, self.time_left()]))
            self._say("; ".join(filter(None, [so_far, self.last])))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a line that cannot be shown stops nothing
            self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _name(self, key: str) -> str:
        return self.labels.get(key, f"step {key[:12]}")


def is_drawn(console: Console) -> bool:
    """Whether a bar can be drawn and drawn over: in a terminal, or in a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


def is_watched(console: Console | None = None) -> bool:
    """Whether somebody is likely to look on: a terminal, or a notebook."""
    console = console or Console(stderr=True)
    return console.is_terminal or console.is_jupyter


def duration_range(low: float, high: float) -> str:
    """Two durations as a person says them: `40 to 90 s`, `40 s to 3.5 min`, one where they are said alike."""
    first, last = duration(low), duration(high)
    if first == last:
        return first
    number, unit = first.split()
    return f"{number} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `3.5 min`, `2.1 h`, `6 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} days"
