"""The log of a study's trainings and their curves for TensorBoard, written as the events come."""

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prunetune.core.metric import Metric
from prunetune.errors import ConfigError
from prunetune.execution.events import Cached, Done, Event, Failed, Progress, Started
from prunetune.plan.compile import Plan, Remaining, labels
from prunetune.steps.steps import Train
from prunetune.store.layout import StoreReader

TRAINING_LOG = "trainings.log"


def names_of_trainings(plan: Plan) -> Mapping[str, str]:
    """Key -> name of every training of a plan, those too that are no trials."""
    named = labels(plan)  # measurements are named there too
    return {step.key: named.get(step.key, step.label) for step in plan.steps if isinstance(step, Train)}


class TrainingLog:
    """Consumer of an executor's events that appends to `trainings.log` in a folder.

    Columns, with tabs between: time (UTC), name, test score (or `diverged`, or `failed: why`), seconds, key.
    Whole lines are appended, so that processes may share a file.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._path = folder / TRAINING_LOG
        self._names = names_of_trainings(plan)
        self._metric = plan.spec.metric

    def __call__(self, event: Event) -> None:
        """Write a line where a training has ended; a line that the disk does not take stops nothing."""
        if event.key in self._names and isinstance(event, Done | Failed):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = "\t".join((now, self._names[event.key], *_outcome(event, self._metric), event.key)) + "\n"
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line)


def score_of(metrics: Mapping[str, Any]) -> Any:
    """What a training scored on the test data: its accuracy, or the score of another task."""
    accuracy = metrics.get("test_accuracy")
    return metrics.get("score") if accuracy is None else accuracy


def _outcome(event: Done | Failed, metric: Metric) -> tuple[str, str]:
    if isinstance(event, Failed):
        return f"failed: {event.message}", ""
    score = score_of(event.metrics)
    found = "diverged" if event.metrics["diverged"] or score is None else metric.text(score)
    return found, f"{event.seconds:.1f} s"


FLUSH_EVERY = 10  # seconds
LOSS = {"test_loss": "loss/test"}
ACCURACIES = LOSS | {"test_accuracy": "accuracy/test", "validation_accuracy": "accuracy/validation"}
SCORES = LOSS | {"score": "score/test", "validation_score": "score/validation"}  # of a task other than classification


class Curves:
    """Consumer of an executor's events: below `folder`, a folder for each training, under its name.

    `loss/train` is there for every epoch, `loss/test` and `accuracy/test` (percent; `accuracy/validation` too, where
    images are held out) for the last; of another task, `score/test` and `score/validation`. What was stored before and
    has no curves yet is read from the store. A disk that takes no more costs the curves only.

    Raises ConfigError where TensorBoard is missing, or the folder cannot be made.
    """

    def __init__(self, plan: Plan, store: StoreReader, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "--tensorboard needs the extra prunetune[tensorboard]: pip install 'prunetune[tensorboard]'"
            ) from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--tensorboard: cannot write to '{folder}': {error.strerror}") from error
        self._writer = SummaryWriter
        self._store = store
        self._folder = folder
        self._folders: dict[str, Path] = {}
        self._open: dict[str, SummaryWriter] = {}
        self._expect(plan)

    def __call__(self, event: Event) -> None:
        """Write what an event tells of a curve."""
        if event.key not in self._folders:
            return
        with contextlib.suppress(OSError):
            if isinstance(event, Started):  # perhaps again, after an attempt that got further
                self._close(event.key)
            elif isinstance(event, Progress):
                self._add(event.key, "loss/train", event.train_loss, event.epoch)
            elif isinstance(event, Done):
                self._end(event.key, event.metrics)
            elif isinstance(event, Cached) and not self._folders[event.key].exists():
                self._whole(event.key)

    def more(self, plan: Plan, remaining: Remaining) -> None:
        """Follow a larger plan."""
        self._expect(plan)

    def close(self) -> None:
        """Write what is not yet on the disk."""
        for key in [*self._open]:
            with contextlib.suppress(OSError):
                self._close(key)

    def _expect(self, plan: Plan) -> None:
        for key, name in names_of_trainings(plan).items():
            self._folders[key] = self._folder / re.sub(r'[/\\:*?"<>|]', "_", name)

    def _whole(self, key: str) -> None:
        metrics = self._store.metrics(key)
        for epoch, loss in enumerate(metrics["train_loss"], 1):
            self._add(key, "loss/train", loss, epoch)
        self._end(key, metrics)

    def _end(self, key: str, metrics: Mapping[str, Any]) -> None:
        for name, tag in (SCORES if "score" in metrics else ACCURACIES).items():
            if not name.startswith("validation_") or metrics.get(name) is not None:
                self._add(key, tag, metrics[name], metrics["epochs"])
        self._close(key)

    def _add(self, key: str, tag: str, value: float | None, epoch: int) -> None:
        """A point; the first one of an attempt puts those of earlier attempts aside, from its epoch on."""
        if key not in self._open:
            self._open[key] = self._writer(str(self._folders[key]), purge_step=epoch, flush_secs=FLUSH_EVERY)
        self._open[key].add_scalar(tag, math.nan if value is None else value, epoch)

    def _close(self, key: str) -> None:
        if key in self._open:
            self._open.pop(key).close()
