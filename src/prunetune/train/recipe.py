"""How a network is trained: everything that two trainings of one study share, resolved to numbers."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from prunetune.references import KEYED_WHERE_SET, Ref

Precision = Literal["f32", "bf16"]

_MOMENT_DIGITS = 12  # as a spec's fractions of a training are rounded, so that equal recipes are equal steps


@dataclass(frozen=True)
class Point:
    """A moment of a training, counted from its start in epochs (`ep`) or optimizer steps (`it`).

    >>> Point.parse("10ep")
    Point(value=10.0, unit='ep')
    >>> Point.parse("1ep").step(steps_per_epoch=157), str(Point.parse("500it"))
    (157, '500it')
    """

    value: float
    unit: Literal["ep", "it"]

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Read `10ep` or `500it`; ValueError for anything else."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)ep|(\d+)it", text.strip())
        if not found:
            raise ValueError(f"'{text}' is not a moment of a training; write epochs as '10ep' or steps as '500it'")
        return cls(float(found[1]), "ep") if found[1] else cls(float(found[2]), "it")

    def step(self, steps_per_epoch: int) -> int:
        """The number of optimizer steps taken at this moment."""
        return round(self.value * steps_per_epoch) if self.unit == "ep" else int(self.value)

    def __str__(self) -> str:
        return f"{self.value:.12g}{self.unit}"


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a training, as a factor on the initial rate.

    `step` multiplies by `gamma` at every milestone (in epochs, fractions allowed); `cosine` falls to 0 at the end;
    `constant` stays. `warmup` epochs of linear rise from 0 come first, on top of each kind. With a `part` of (before,
    whole) the training is a piece of a longer one: its steps are those that follow the first `before` epochs of
    `whole`, to which milestones, warm-up and the end of the cosine then refer.
    """

    kind: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    part: tuple[int, int] | None = field(default=None, metadata=KEYED_WHERE_SET)

    def stretched(self, times: int) -> "Schedule":
        """The same schedule over `times` as many epochs: milestones and warm-up come that much later."""
        moments = tuple(round(milestone * times, _MOMENT_DIGITS) for milestone in self.milestones)
        return replace(self, milestones=moments, warmup=round(self.warmup * times, _MOMENT_DIGITS))


@dataclass(frozen=True)
class Recipe:
    """One training's settings (PAPER.md section 4 gives the paper's), all resolved: it is hashed into a step's key."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Schedule = Schedule()
    augment: tuple[str, ...] = ()
    precision: Precision = "f32"
    loss: Ref | None = None
    metric: Ref | None = None

    def stretched(self, times: int) -> "Recipe":
        """The recipe over `times` as many epochs: that of a study with so many, its moments being fractions of them."""
        return replace(self, epochs=self.epochs * times, schedule=self.schedule.stretched(times))
