"""Live progress of an audit: trainings done, the last score, an honest time left."""

import contextlib
import importlib.util
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from prunetune.errors import one_line, printable
from prunetune.execution.events import Cached, Done, Event, Failed, Notice, Skipped, Waiting
from prunetune.execution.events import Progress as EpochDone
from prunetune.execution.training_log import score_of
from prunetune.plan.compile import Plan, Remaining, labels, look_words
from prunetune.steps.steps import Train

LINE_EVERY = 15.0  # seconds between lines where the output is no terminal


class Progress:
    """Consumer of an executor's events: a bar in a terminal or notebook, a line now and then elsewhere.

    Time left is the epochs still to train over the epochs per second since the start, so it includes
    whatever else the machine is doing.
    """

    def __init__(self, plan: Plan, remaining: Remaining, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.drawn = is_drawn(self.console)
        self.metric = plan.spec.metric
        self.labels: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.others: set[str] = set()  # steps that do not train
        self.ended: set[str] = set()
        self.reached: dict[str, int] = {}
        self.epochs_left = 0
        self.trained = 0  # epochs, here and now: a training may go on from a checkpoint
        self.last = ""
        self.started = self.last_line = time.monotonic()
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
        self._say(f"{look_words(plan)}: {remaining.trainings_left} trainings ({remaining.epochs_left} epochs) to run")

    def _expect(self, plan: Plan, remaining: Remaining) -> None:
        self.labels |= labels(plan)
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
        if isinstance(event, EpochDone):
            self._reach(event.key, event.epoch)
            self.trained += 1
        elif isinstance(event, Done | Cached | Skipped | Failed):
            self._reach(event.key, self.epochs.get(event.key, 0))
            self.ended.add(event.key)
        if isinstance(event, Done):
            self._note(event)
        elif isinstance(event, Waiting):
            told = f"waiting for another process ({one_line(event.holder)}): {self._name(event.key)}"
            self._say(f"{told}; done here {event.way_out}")
        elif isinstance(event, Skipped):
            self._say(f"not run: {self._name(event.key)}: {event.why}")
        elif isinstance(event, Failed | Notice):
            self._say(f"{event.kind}: {self._name(event.key)}: {event.message}")
        self._show()

    def time_left(self) -> str:
        """`about 2 min left` of the trainings, or nothing before the first epoch is done; after the last one the count
        of the other steps, whose time nobody knows."""
        if not self.epochs_left and self.others:
            return f"{len(self.ended & self.others)} of {len(self.others)} other steps"
        if not self.trained:
            return ""
        seconds = (time.monotonic() - self.started) / self.trained * self.epochs_left
        return f"about {duration(seconds)} left"

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
            trainings = f"{self.finished} of {len(self.epochs)} trainings"
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


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
