"""`trainings.log`: a line for every training that ended here, for whoever looks at a long study from outside."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from prunetune.run.events import Done, Event, Failed, label
from prunetune.study.labels import labels
from prunetune.study.plan import Plan
from prunetune.study.steps import Train

DIARY = "trainings.log"


def names_of_trainings(plan: Plan) -> Mapping[str, str]:
    """Key -> name of every training of a plan, those too that are no trials."""
    return {step.key: label(step) for step in plan.steps if isinstance(step, Train)} | labels(plan)


class Diary:
    """Consumer of an executor's events that appends to `trainings.log` in a folder.

    Columns, with tabs between: time (UTC), name, test accuracy (or `diverged`, or `failed: why`), seconds, key.
    Whole lines are appended, so that processes may share a file.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._path = folder / DIARY
        self._names = names_of_trainings(plan)

    def __call__(self, event: Event) -> None:
        """Write a line where a training has ended; a line that the disk does not take stops nothing."""
        if event.key in self._names and isinstance(event, Done | Failed):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = "\t".join((now, self._names[event.key], *_outcome(event), event.key)) + "\n"
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line)


def _outcome(event: Done | Failed) -> tuple[str, str]:
    if isinstance(event, Failed):
        return f"failed: {event.message}", ""
    accuracy = event.metrics["test_accuracy"]
    found = "diverged" if event.metrics["diverged"] or accuracy is None else f"{accuracy:.2f} %"
    return found, f"{event.seconds:.1f} s"
