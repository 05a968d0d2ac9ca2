"""What an executor tells while it runs a plan. `kind` tells the events apart.

Every step of the plan ends in one of Done, Cached, Skipped and Failed.
"""

from dataclasses import dataclass
from typing import Any, Literal

SOURCE_FAILED = "SourceFailed"  # the `error` of a step that was not run because one that it builds on failed


@dataclass(frozen=True)
class Started:
    """A worker has begun a step."""

    key: str
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class Progress:
    """A training has ended an epoch (1 after the first); `train_loss` is that epoch's mean."""

    key: str
    epoch: int
    epochs: int
    train_loss: float
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True)
class Done:
    """A step's result is stored; `metrics` is the content of its `metrics.json`, `seconds` what it took."""

    key: str
    metrics: dict[str, Any]
    seconds: float
    kind: Literal["done"] = "done"


@dataclass(frozen=True)
class Cached:
    """A step needs no run: it was stored before, or another process has stored it meanwhile."""

    key: str
    kind: Literal["found"] = "found"


@dataclass(frozen=True)
class Waiting:
    """Nothing is left to do here before another process has done this step; told again while that lasts."""

    key: str
    holder: str  # `process 123 on HOST, since 2026-05-01 14:02:11+00:00, last sign of life 12 s ago`
    way_out: str  # when the step is done here all the same: `after 300 s without such a sign, or as soon as ...`
    kind: Literal["waiting"] = "waiting"


@dataclass(frozen=True)
class Skipped:
    """A step cannot be run because a training that it builds on diverged: an answer and not a failure."""

    key: str
    why: str
    kind: Literal["blocked"] = "blocked"


@dataclass(frozen=True)
class Failed:
    """A step failed, or builds on one that did (`error` is then SOURCE_FAILED)."""

    key: str
    message: str  # one line
    error: str  # name of the exception's class: ConfigError, InvariantError, CorruptionError, ...
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True)
class Notice:
    """Something that a person should know and that stops nothing: damage recomputed, a worker replaced."""

    key: str
    message: str
    kind: Literal["notice"] = "notice"


Event = Started | Progress | Done | Cached | Waiting | Skipped | Failed | Notice
