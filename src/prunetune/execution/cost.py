"""What each step of a plan takes on one kind of machine, and from where that is known."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch

from prunetune.core.environment import cpu_model, fingerprint
from prunetune.data import load
from prunetune.errors import ConfigError, CorruptionError
from prunetune.execution.estimate import EVALUATION_COST, MEASURE_SECONDS, probe
from prunetune.plan.compile import Plan
from prunetune.steps.steps import Connect, Step, Train
from prunetune.store.layout import StoreReader


@dataclass(frozen=True)
class Costs:
    """Seconds of every step, by its key; `sources` says in a line for each kind of step where they come from."""

    seconds: Mapping[str, float]
    sources: tuple[str, ...]


class Rate(NamedTuple):
    """Seconds a unit: an epoch of a Train, a point of a Connect, any other step as a whole."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Known:
    """What stored steps of a plan took on one kind of machine."""

    seconds: Mapping[Step, float]
    machine: str

    def median(self, kind: type[Step], unit: str) -> Rate | None:
        """Of one kind of step; `unit` is it in words. None where none is known."""
        found = [seconds / _units(step) for step, seconds in self.seconds.items() if type(step) is kind]
        if not found:
            return None
        rate = median(found)
        return Rate(rate, f"{rate:.3g} s {unit} (median of {len(found)} stored, on {self.machine})")


def costs(plan: Plan, store: StoreReader, device: str, per_training: float | None = None) -> Costs:
    """The cost of every step of a plan on `device`, `cpu` or `cuda`.

    A step of which `store` holds what it took on that kind of machine takes that again, any other the median of its
    kind. `per_training` takes their place for trainings: seconds for as many epochs as the study's recipe has.
    ConfigError where no training is stored, none can be timed here, and nothing is given.
    """
    known = _known(dict(_stored(plan, store)), device, trainings=per_training is None)
    an_epoch = _an_epoch(plan, known, device, per_training)
    kinds = sorted({type(step) for step in plan.steps}, key=lambda kind: kind.__name__)
    rates = {kind: an_epoch if kind is Train else _rate(kind, known, an_epoch.seconds) for kind in kinds}
    return Costs(
        {step.key: known.seconds.get(step, rates[type(step)].seconds * _units(step)) for step in plan.steps},
        tuple(f"{kind.__name__} {rate.source}" for kind, rate in rates.items()),
    )


def _stored(plan: Plan, store: StoreReader) -> Iterator[tuple[Step, Mapping[str, Any]]]:
    """The plan's steps that are stored, with what is known of how they were made; what diverged ended early."""
    for step in plan.steps:
        try:
            about = store.manifest(step.key)
        except (KeyError, CorruptionError):
            continue
        if not about["diverged"]:
            yield step, about


def _known(stored: Mapping[Step, Mapping[str, Any]], device: str, trainings: bool) -> Known:
    """What was done on this machine's processor, or on that and that accelerator which most trainings had."""
    where = {step: (about["environment"]["cpu"], about["environment"]["accelerator"]) for step, about in stored.items()}
    counted = Counter(place for step, place in where.items() if isinstance(step, Train))
    here = (cpu_model(), None) if device == "cpu" else max(counted, key=counted.__getitem__, default=(None, None))

    def counts(step: Step) -> bool:
        return trainings and where[step] == here if isinstance(step, Train) else where[step][0] == here[0]

    seconds = {step: float(about["seconds"]) for step, about in stored.items() if counts(step)}
    return Known(seconds, " with ".join(filter(None, here)))


def _an_epoch(plan: Plan, known: Known, device: str, per_training: float | None) -> Rate:
    """Seconds of an epoch, the evaluation's share included."""
    epochs = plan.spec.recipe.epochs
    if per_training is not None:
        return Rate(per_training / epochs, f"{per_training:g} s for {epochs} epochs (given)")
    if found := known.median(Train, "an epoch"):
        return found
    if timed := _timed(plan, device):
        seconds, here = timed[0] + timed[1] / epochs, fingerprint(device, None)
        return Rate(
            seconds, f"{seconds:.3g} s an epoch (a few steps timed now, on {here['accelerator'] or here['cpu']})"
        )
    raise ConfigError(
        f"--simulate: no training of this study on such a machine ({device}) is stored, and none can be timed here; "
        f"add seconds=N, what one of its trainings of {epochs} epochs takes there"
    )


def _timed(plan: Plan, device: str) -> tuple[float, float] | None:
    """Seconds of an epoch and of an evaluation by a short probe; None without the device or the data."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    try:
        data = load(plan.data)
    except ConfigError:
        return None
    return probe(plan, data, next(step for step in plan.steps if isinstance(step, Train)))


def _rate(kind: type[Step], known: Known, an_epoch: float) -> Rate:
    """Of a step that does not train."""
    if found := known.median(kind, "a point" if kind is Connect else "each"):
        return found
    if kind is Connect:
        return Rate(an_epoch * EVALUATION_COST, f"{EVALUATION_COST:.2g} of an epoch a point (assumed)")
    return Rate(MEASURE_SECONDS, f"{MEASURE_SECONDS:g} s each (assumed)")


def _units(step: Step) -> int:
    return step.recipe.epochs if isinstance(step, Train) else step.points if isinstance(step, Connect) else 1
