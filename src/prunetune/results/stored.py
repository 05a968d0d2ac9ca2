"""The finished steps of a plan, read from the store once: their lists of files and what they measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetune.errors import CorruptionError
from prunetune.plan.compile import Plan
from prunetune.steps.steps import Measure
from prunetune.store.layout import Manifest, StoreReader, changed_input


@dataclass(frozen=True)
class StoredStep:
    """A step's files, inputs, environment, seconds and measurements, once read (docs/reference/store.md)."""

    manifest: Manifest
    metrics: Mapping[str, Any]


Stored = Mapping[str, StoredStep]  # by the step's key


def read_stored(plan: Plan, store: StoreReader) -> Stored:
    """Every step of the plan that is stored; one whose list of files is damaged counts as not stored.

    Raises CorruptionError where the measurements of a stored step are not what was written.
    """
    found: dict[str, StoredStep] = {}
    for step in plan.steps:
        try:
            manifest = store.manifest(step.key)
        except (KeyError, CorruptionError):
            continue
        found[step.key] = StoredStep(manifest, store.metrics(step.key, manifest))
    return found


def measured(stored: Stored, step: Measure, p: float) -> dict[str, Any]:
    """What a stored Measure found at one of its p."""
    return next(row for row in stored[step.key].metrics["correlations"] if row["p"] == p)


def stale_input(stored: Stored, key: str) -> str | None:
    """The first input of a stored step that is stored otherwise now than when the step read it, else None."""
    return changed_input(stored[key].manifest, lambda parent: stored[parent].manifest)
