"""The recipe as a person writes it: epochs may be given as fractions of the training, so that they scale with it."""

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prunetune.core.limits import MAX_COUNT, Count, Number
from prunetune.core.references import Ref, is_callable_name, load_callable, source_digest
from prunetune.errors import ConfigError, counted, shown, unknown
from prunetune.spec.base import StrictModel
from prunetune.tasks import TASKS
from prunetune.tasks.task import CLASSIFICATION
from prunetune.training.augment import AUGMENTATIONS
from prunetune.training.recipe import Distill, Precision, Recipe, RecipeSummary, Schedule, decay_exponent, retention

PAPER_MILESTONES = ("8/15", "12/15")  # 80 and 120 of the paper's 150 epochs


def epochs_of(value: object, epochs: int) -> float:
    """Epochs from a number of them, or from a fraction of the training such as '8/15'; ValueError for anything else.

    >>> epochs_of("8/15", 150), epochs_of(3, 6)
    (80.0, 3.0)
    """
    parts = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", value) if isinstance(value, str) else None
    if parts and int(parts[2]):
        return round(float(Fraction(int(parts[1]), int(parts[2])) * epochs), 12)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return float(value)
    raise ValueError(f"{shown(value)}; must be a number of epochs or a fraction of the training, such as 8/15")


class ScheduleSpec(StrictModel):
    """Learning rate over a training. `milestones` and `gamma` belong to the kind `step`."""

    kind: Literal["step", "cosine", "constant"] = "step"
    """How the learning rate falls."""
    milestones: Annotated[tuple[Any, ...], Field(max_length=100)] | None = None
    """Of `step`: epochs, or fractions of the training, after which the rate falls; by default 8/15 and 12/15."""
    gamma: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Of `step`: the factor at a milestone; by default 0.1."""
    warmup: Any = 0.0
    """Epochs, or a fraction of the training, over which the rate rises from 0."""

    @model_validator(mode="after")
    def _step_only(self) -> "ScheduleSpec":
        for name in ("milestones", "gamma"):
            value = getattr(self, name)
            if self.kind != "step" and value is not None:
                raise ConfigError(f"{name}: {shown(value)} has no meaning in kind '{self.kind}'; leave it out")
        return self

    def over(self, epochs: int) -> "ScheduleSpec":
        """The same schedule in epochs of a training of so many: numbers only, every default filled in."""
        warmup = _within("warmup", self.warmup, epochs)
        if self.kind != "step":
            return ScheduleSpec(kind=self.kind, warmup=warmup)
        given = PAPER_MILESTONES if self.milestones is None else self.milestones
        milestones = tuple(_within(f"milestones.{i}", value, epochs) for i, value in enumerate(given))
        if sorted(set(milestones)) != list(milestones):
            raise ConfigError(f"milestones: {shown(list(given))}; must grow, each once")
        gamma = 0.1 if self.gamma is None else self.gamma
        return ScheduleSpec(kind="step", milestones=milestones, gamma=gamma, warmup=warmup)

    def schedule(self) -> Schedule:
        """The schedule that a step's key holds; only for one that went through `over`."""
        return Schedule(self.kind, self.milestones or (), 0.1 if self.gamma is None else self.gamma, self.warmup)


def _within(name: str, value: object, epochs: int) -> float:
    try:
        moment = epochs_of(value, epochs)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    if moment > epochs:
        raise ConfigError(
            f"{name}: {value} is past the last epoch; must be at most the recipe's {counted(epochs, 'epoch')}"
        )
    return moment


class DistillSpec(StrictModel):
    """Knowledge distillation (Hinton et al. 2015): the dense run's final network teaches every other training."""

    weight: Annotated[Number, Field(gt=0, le=1)]
    """What is learned from the teacher, as a share of the loss; the task's own loss has the rest."""
    temperature: Annotated[Number, Field(gt=0)]
    """What the logits of both are divided by."""


class RecipeSpec(StrictModel):
    """How every network of a study is trained; the learning rate is the study's axis. Defaults: the paper's."""

    epochs: Count = 150
    """Epochs of every training."""
    batch_size: Count = 128
    """Images of a batch."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """The optimizer."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of `sgd`, first beta of `adam` and `adamw`."""
    nesterov: Annotated[bool, Field(strict=True)] = False
    """Nesterov momentum."""
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    """Weight decay: coupled in `sgd` and `adam`, decoupled in `adamw`."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Learning rate over the training."""
    augment: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """Augmentations: `crop` (pad 4, random crop), `flip` (horizontal)."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    """The largest norm that the gradient of all weights together may have: a longer one is shortened to it."""
    decay_norms: Annotated[bool, Field(strict=True)] = True
    """Whether weight decay takes hold of biases and normalisation too: of all parameters of one dimension."""
    accumulate: Count = 1
    """Parts in which a batch goes through the network before a step: less memory, the same gradient."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Weight of all classes alike in the targets of a training; tests are scored without it."""
    distill: DistillSpec | None = None
    """`{weight, temperature}`: θT of the same seed and rate teaches every training but the dense ones."""
    precision: Literal["auto", "f32", "bf16"] = "auto"
    """`auto` is bf16 on CUDA and f32 elsewhere."""
    loss: str | None = None
    """`package.module:callable` of (outputs, targets) to a scalar; by default cross entropy."""
    metric: str | None = None
    """`package.module:callable` of (outputs, targets) to a score per example; by default accuracy."""

    @field_validator("schedule")
    @classmethod
    def _in_epochs(cls, schedule: ScheduleSpec, info: Any) -> ScheduleSpec:
        return schedule.over(info.data["epochs"]) if "epochs" in info.data else schedule

    @field_validator("augment")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for i, name in enumerate(names):
            if name not in AUGMENTATIONS:
                raise unknown(str(i), name, AUGMENTATIONS)
        return names

    @field_validator("loss", "metric")
    @classmethod
    def _importable_form(cls, name: str | None) -> str | None:
        if name is not None and not is_callable_name(name):
            raise ValueError("must have the form package.module:callable")
        return name

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "RecipeSpec":
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov: True needs a momentum; must be false where momentum is 0")
        return self

    @model_validator(mode="after")
    def _parts_are_not_empty(self) -> "RecipeSpec":
        if self.accumulate > self.batch_size:
            raise ConfigError(f"accumulate: {self.accumulate}; must be at most batch_size, {self.batch_size}")
        return self

    def at(self, learning_rate: float, device: str, task: Ref | None = None) -> Recipe:
        """The recipe of trainings for a task at one learning rate; precision `auto` is bf16 on CUDA and f32 elsewhere.

        Imports the user's loss and metric: ConfigError when that fails.
        """
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            optimizer=self.optimizer,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            schedule=self.schedule.schedule(),
            augment=self.augment,
            precision=_precision(self.precision, device),
            loss=_code(self.loss, "recipe.loss"),
            metric=_code(self.metric, "recipe.metric"),
            task=task,
            clip_norm=None if self.clip_norm is None else float(self.clip_norm),
            decay_norms=None if self.decay_norms else False,
            accumulate=self.accumulate if self.accumulate > 1 else None,
            label_smoothing=float(self.label_smoothing) or None,
            distill=self.distill and Distill(float(self.distill.weight), float(self.distill.temperature)),
        )


def task_ref(name: str) -> Ref | None:
    """The task as a recipe's key holds it: None for classification, a user's with the digest of its source."""
    if name == CLASSIFICATION:
        return None
    return Ref.of(name) if name in TASKS else Ref.of(name, digest=source_digest(load_callable(name, "task")))


def _precision(asked: Literal["auto", "f32", "bf16"], device: str) -> Precision:
    if asked == "auto":
        return "bf16" if device == "cuda" else "f32"
    return asked


def _code(name: str | None, field: str) -> Ref | None:
    return None if name is None else Ref.of(name, digest=source_digest(load_callable(name, field)))


def steps_per_epoch(recipe: RecipeSpec, images: int) -> int:
    """Optimizer steps of an epoch of so many training images; the last batch may be smaller."""
    return -(-images // recipe.batch_size)


def summarise(recipe: RecipeSpec, learning_rate: float, steps_per_epoch: int) -> RecipeSummary:
    """Steps, κ and e^(−κ) of a training at one rate. Neither precision, loss nor metric bears on them."""
    trained = Recipe(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=learning_rate,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        schedule=recipe.schedule.schedule(),
    )
    kappa = decay_exponent(trained, steps_per_epoch)
    return RecipeSummary(learning_rate, recipe.epochs * steps_per_epoch, kappa, retention(kappa))
