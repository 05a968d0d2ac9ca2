"""How a network is trained: everything that two trainings of one study share, resolved to numbers, and κ of it."""

import functools
import math
import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from prunetune.core.limits import DIGITS
from prunetune.core.references import KEYED_WHERE_SET, Ref

Precision = Literal["f32", "bf16"]


@dataclass(frozen=True)
class TrainingTime:
    """A moment of a training, counted from its start in epochs (`ep`) or optimizer steps (`it`).

    >>> TrainingTime.parse("10ep")
    TrainingTime(value=10.0, unit='ep')
    >>> TrainingTime.parse("1ep").step(steps_per_epoch=157), str(TrainingTime.parse("500it"))
    (157, '500it')
    """

    value: float
    unit: Literal["ep", "it"]

    @classmethod
    def parse(cls, text: str) -> "TrainingTime":
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

    def stretched(self, times: float) -> "Schedule":
        """The same schedule over `times` as many epochs: milestones and warm-up come that much later."""
        moments = tuple(round(milestone * times, DIGITS) for milestone in self.milestones)
        return replace(self, milestones=moments, warmup=round(self.warmup * times, DIGITS))


@dataclass(frozen=True)
class Distill:
    """A trained teacher's part in the loss of a training (Hinton et al. 2015, arXiv 1503.02531)."""

    weight: float  # of what is learned from the teacher; the task's own loss has the rest, 1 − weight
    temperature: float  # by which the logits of both are divided


@dataclass(frozen=True)
class Recipe:
    """A training's settings, resolved, as a step's key holds them; docs/explanation/paper.md gives the paper's."""

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
    task: Ref | None = field(default=None, metadata=KEYED_WHERE_SET)  # None is classification
    clip_norm: float | None = field(default=None, metadata=KEYED_WHERE_SET)  # the largest norm of all gradients
    decay_norms: bool | None = field(default=None, metadata=KEYED_WHERE_SET)  # None: biases and norms are decayed too
    accumulate: int | None = field(default=None, metadata=KEYED_WHERE_SET)  # parts of a batch; None is one, the whole
    label_smoothing: float | None = field(default=None, metadata=KEYED_WHERE_SET)  # of the loss of a training alone
    distill: Distill | None = field(default=None, metadata=KEYED_WHERE_SET)  # of trainings that have a teacher

    @property
    def without_teacher(self) -> "Recipe":
        """The recipe of the dense run, which is what others are taught by."""
        return replace(self, distill=None)

    def lasting(self, epochs: int) -> "Recipe":
        """The recipe over another number of epochs, milestones and warm-up in proportion."""
        if epochs == self.epochs:
            return self
        return replace(self, epochs=epochs, schedule=self.schedule.stretched(epochs / self.epochs))


def factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The factor in [0, 1] for the optimizer step `step`, counted from 0, of a training of `epochs` epochs.

    A milestone m is in force from step round(m * steps_per_epoch) on. A warm-up of W = round(warmup * steps_per_epoch)
    steps multiplies step t < W by (t + 1) / W: it rises linearly from 0, and no step is spent at rate 0. Cosine is
    (1 + cos(pi * t / steps)) / 2, which would reach 0 with the step after the last (Loshchilov & Hutter 2017, eq. 5).
    """
    if schedule.part is not None:
        before, epochs = schedule.part
        step += before * steps_per_epoch
    return _decay(schedule, step, steps_per_epoch, epochs) * _warmup(schedule, step, steps_per_epoch)


def factor_sum(schedule: Schedule, steps_per_epoch: int, epochs: int) -> float:
    """The sum of `factor` over all steps of a training of `epochs` epochs, in closed form: its cost knows no epochs.

    Between two milestones the factor of `step` and `constant` is linear in the step, under a warm-up too, so that a
    stretch sums to its length times the mean of its first and last. The sums of the cosine are those of Dirichlet's
    kernel.
    """
    before, whole = schedule.part or (0, epochs)
    first, last = before * steps_per_epoch, (before + epochs) * steps_per_epoch
    if schedule.kind == "cosine":
        up_to = functools.partial(_cosine_sum, round(schedule.warmup * steps_per_epoch), steps_per_epoch * whole)
        return up_to(last) - up_to(first)
    bends = [round(moment * steps_per_epoch) for moment in (schedule.warmup, *schedule.milestones)]
    cuts = sorted({first, last, *(bend for bend in bends if first < bend < last)})
    ends = ((factor(schedule, step - first, steps_per_epoch, epochs) for step in (a, b - 1)) for a, b in pairwise(cuts))
    return math.fsum((b - a) * sum(two) / 2 for (a, b), two in zip(pairwise(cuts), ends, strict=True))


def _cosine_sum(warmup: int, steps: int, end: int) -> float:
    """The sum of the cosine's factors over the steps 0 to `end` − 1 of `steps`, the first `warmup` of them ramped."""
    ramped, half = min(warmup, end), math.pi / steps / 2
    twice = 2 * math.sin(half)  # the sum of cos(t x) over t < n is 1/2 + sin((n − 1/2) x) / (2 sin(x/2))
    flat = (end - ramped) + (math.sin((2 * end - 1) * half) - math.sin((2 * ramped - 1) * half)) / twice
    if not ramped:
        return flat / 2
    tails = math.sin(ramped * half) * math.sin((ramped - 2) * half) / math.sin(half)
    ramp = ramped * (ramped + 1) / 2 + (ramped * math.sin((2 * ramped - 1) * half) - tails) / twice
    return (flat + ramp / warmup) / 2


def _decay(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * step / (steps_per_epoch * epochs))) / 2
    if schedule.kind == "step":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in schedule.milestones)
        return schedule.gamma**passed
    return 1.0


def _warmup(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    steps = round(schedule.warmup * steps_per_epoch)
    return min(1.0, (step + 1) / steps) if steps else 1.0


def decay_exponent(recipe: Recipe, steps_per_epoch: int) -> float | None:
    """κ: weight decay multiplies what is left of θ0 itself by about e^(−κ) over a training by `recipe`.

    κ = Σ_t η_t λ / (1 − μ) over the steps t, for SGD with momentum μ, whose weight decay λ is a part of the gradient;
    Σ_t η_t λ for AdamW, which decays the weights by themselves. None for Adam: there the decay goes through the
    gradient's own scale, and no such sum exists. Time scale of van Laarhoven 2017 (arXiv 1706.05350) and Li, Lyu &
    Arora 2020 (arXiv 2010.02916).
    """
    if not recipe.weight_decay:
        return 0.0
    if recipe.optimizer == "adam":
        return None
    travelled = recipe.learning_rate * factor_sum(recipe.schedule, steps_per_epoch, recipe.epochs)
    lasting = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    return travelled * recipe.weight_decay / lasting


def retention(kappa: float | None) -> float | None:
    """e^(−κ), the share of θ0 that is left; None where κ is not defined."""
    return None if kappa is None else math.exp(-kappa)


@dataclass(frozen=True)
class RecipeSummary:
    """What the recipe does to the initial weights at one learning rate (docs/explanation/kappa.md)."""

    learning_rate: float
    steps: int  # optimizer steps of a training
    kappa: float | None  # Σ η_t λ / (1 − μ); None for Adam, whose decay has no such sum
    retention: float | None  # e^(−κ): the share of θ0 itself that weight decay leaves
