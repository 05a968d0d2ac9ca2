"""The parts of a study as a person writes them: scope, rule, rounds, seeds, pre-training, states, and arms."""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from prunetune.core.limits import DIGITS, Count, Number
from prunetune.errors import ConfigError, shown, unknown
from prunetune.spec.base import StrictModel, with_settings
from prunetune.steps.arms import ARMS, Arm, ArmWithSettings, of_the_study

_PLACEHOLDER = re.compile(r"\{(.*?)\}")
_Share = Annotated[Number, Field(gt=0, lt=1)]
_Difference = Annotated[Number, Field(ge=0)]  # of two scores
_Pattern = Annotated[tuple[str, ...], Field(max_length=1000)]
MOST_SEEDS = 1000


class ScopeSpec(StrictModel):
    """Name patterns over the default scope: `include` adds to it, `exclude` removes from it."""

    include: _Pattern = ()
    """Patterns of names that are prunable beside the default scope."""
    exclude: _Pattern = ()
    """Patterns of names that are not prunable."""


class VerdictRule(StrictModel):
    """The rule of the verdict (docs/explanation/verdict.md); `margin` and `gap` in points of accuracy, or in the unit
    of the task's metric, which then says their defaults."""

    margin: Annotated[_Difference, Field(gt=0)] = 0.5
    """How far below another a score may lie and still count as similar."""
    gap: _Difference = 0.5
    """The least estimated lead over `reinit` that is called notable."""
    alpha: Annotated[Number, Field(gt=0, lt=0.5)] = 0.05
    """The error rate of each bound, and of a false *yes* over the tests that are corrected together."""
    nontrivial_sparsity: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """Sparsities from here on count."""
    family: Literal["study", "cell"] = "study"
    """Tests that are corrected together: of the whole `study`, or of each `cell`, a rate and mask algorithm."""


class Rounds(StrictModel):
    """Sparsities that fit rounds which each remove the same share of the remaining weights."""

    per_round: _Share
    """Share of the remaining weights that a round removes."""
    rounds: Annotated[Count, Field(le=60)]
    """Number of rounds."""

    def sparsities(self) -> tuple[float, ...]:
        """1 − (1 − per_round)^r for r = 1 … rounds."""
        return tuple(round(1 - (1 - self.per_round) ** r, DIGITS) for r in range(1, self.rounds + 1))

    @model_validator(mode="after")
    def _each_removes_some(self) -> "Rounds":
        found = self.sparsities()
        if sorted({0.0, *found, 1.0}) != [0.0, *found, 1.0]:
            what = f"among {self.rounds} such rounds some would remove nothing, or all that is left"
            raise ConfigError(f"per_round: {self.per_round:g}; {what}; give another share, or fewer rounds")
        return self


class SeedRange(StrictModel):
    """Seeds added only where a verdict is undecided: `min` to begin with, `max` at most; `auto` is 5 to 20."""

    min: Annotated[Count, Field(ge=2)] = 5
    """Seeds that every rate and mask algorithm begins with."""
    max: Annotated[Count, Field(le=MOST_SEEDS)] = 20
    """Seeds at most."""

    @model_validator(mode="after")
    def _grows(self) -> "SeedRange":
        if self.max <= self.min:
            raise ConfigError(f"max: {self.max}; must be above min, {self.min}; a fixed number is `seeds: {self.min}`")
        return self


class PretrainingSpec(StrictModel):
    """How the dense training itself is tested: `longer: 2` trains a second one for twice the epochs; 0 is off."""

    longer: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    """Epochs of the longer dense training, as a multiple of the dense run's; 0 is off."""

    @field_validator("longer")
    @classmethod
    def _longer_than_the_dense_run(cls, longer: int) -> int:
        if longer == 1:
            raise ValueError("must be 0 (off), or 2 or more: how many times the epochs of the dense training")
        return longer


class PretrainedSpec(StrictModel):
    """States of the user's in place of the dense run: files, whose names may hold {seed} and {learning_rate}."""

    theta_0: str | None = None
    """File of the initial weights; needed by what goes back to them, and by R_p of start and end."""
    theta_T: str  # noqa: N815 - the paper's symbol
    """File of the trained weights."""
    theta_k: str | None = None
    """File of weights from early in training, for `rewind`."""
    key: str | None = None
    """Under which name the files hold the weights, where they hold several states."""
    shared: bool = False
    """Whether all seeds begin with one and the same trained network, so that they cover its fine-tuning alone."""

    @field_validator("theta_0", "theta_T", "theta_k")
    @classmethod
    def _known_placeholders(cls, path: str | None) -> str | None:
        for name in _PLACEHOLDER.findall(path or ""):
            if name not in ("seed", "learning_rate"):
                raise ValueError(f"unknown placeholder {{{name}}}; must be {{seed}} or {{learning_rate}}")
        return path

    def check_placeholders(self, seeds: int, rates: int) -> None:
        """Refuse one file for several seeds, or one trained state for several learning rates."""
        for field in ("theta_0", "theta_T", "theta_k"):
            path = getattr(self, field)
            if path is None:
                continue
            if seeds > 1 and "{seed}" not in path and not self.shared:
                raise ConfigError(
                    f"pretrained.{field}: {shown(path)} is one file for {seeds} seeds; write {{seed}} in it"
                )
            if rates > 1 and field != "theta_0" and "{learning_rate}" not in path:  # rates may share their draw
                what = f"{shown(path)} is one file for {rates} learning rates"
                raise ConfigError(f"pretrained.{field}: {what}; write {{learning_rate}} in it")


class ScaledSpec(StrictModel):
    """What a study was before it was scaled: a record, which changes nothing when the spec is read again."""

    factor: Annotated[Number, Field(gt=0)]
    """The scale."""
    epochs: Count
    """Epochs before."""
    steps_per_epoch: Count
    """Optimizer steps of an epoch before."""
    weight_decay: Annotated[Number, Field(ge=0)]
    """Weight decay before."""


class ArmSpec(StrictModel):
    """A name alone, or a mapping with the arm's `kind` and its settings, which are then the fields beside it."""

    model_config = ConfigDict(extra="allow")

    kind: str
    """The arm; settings of the arm stand beside it."""

    @model_validator(mode="before")
    @classmethod
    def _own_fields_only(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"kind": values}
        if not isinstance(values, Mapping):
            raise ValueError(f"must be an arm ({', '.join(ARMS)}) or a mapping with its `kind`")
        return values

    @model_validator(mode="after")
    def _known(self) -> "ArmSpec":
        if self.kind not in ARMS:
            raise unknown("kind", self.kind, ARMS)
        arm = ARMS[self.kind]
        settings = [f.name for f in fields(arm)] if isinstance(arm, type) else []  # type: ignore[arg-type]
        for name in self.model_extra or {}:
            if name not in settings:
                raise unknown(name, name, ["kind", *settings])
        _ = self._made  # refuses wrong settings
        return self

    @property
    def arm(self) -> Arm:
        """The arm under its label."""
        arm = self._made
        if isinstance(arm, Arm):
            return arm
        return Arm(self.label, arm.start, control=arm.control, recipe=getattr(arm, "recipe", of_the_study))

    @property
    def settings(self) -> dict[str, Any]:
        """The arm's settings, defaults filled in; empty for one that has none."""
        arm = self._made
        return {} if isinstance(arm, Arm) else asdict(arm)  # type: ignore[call-overload]

    @property
    def label(self) -> str:
        """The arm's name in tables, the `arm` of its trials.

        >>> ArmSpec(kind="ticket").label, ArmSpec(kind="mixed", alpha=0.25).label
        ('ticket', 'mixed(0.25)')
        """
        shown = ",".join(f"{own:g}" if isinstance(own, float) else f"{own}" for own in self.settings.values())
        return f"{self.kind}({shown})" if shown else self.kind

    def resolved(self) -> str | dict[str, Any]:
        """The entry as a resolved spec has it: a name, or with it every setting."""
        return {"kind": self.kind, **self.settings} if self.settings else self.kind

    @cached_property
    def _made(self) -> Arm | ArmWithSettings:
        arm = ARMS[self.kind]
        return arm if isinstance(arm, Arm) else with_settings(arm, self.model_extra or {})
