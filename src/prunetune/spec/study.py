"""A study as a person writes it: the fields, their defaults, and what is right in each (docs/reference/spec.md)."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from prunetune.core.files import slug
from prunetune.core.limits import DIGITS, MAX_COUNT, Count, Number, looks
from prunetune.core.metric import Metric
from prunetune.errors import ConfigError, shown, unknown
from prunetune.spec.base import StrictModel, config_error
from prunetune.spec.mask_fields import MaskSpec
from prunetune.spec.recipe_fields import RecipeSpec, epochs_of
from prunetune.spec.study_fields import (
    MOST_SEEDS,
    ArmSpec,
    PretrainedSpec,
    PretrainingSpec,
    Rounds,
    ScaledSpec,
    ScopeSpec,
    SeedRange,
    VerdictRule,
)
from prunetune.steps.arms import Arm
from prunetune.tasks import task_of
from prunetune.tasks.task import CLASSIFICATION, ClassTask
from prunetune.training.recipe import TrainingTime

_Positive = Annotated[Number, Field(gt=0)]
_Share = Annotated[Number, Field(gt=0, lt=1)]
_WHERE_SET = {"reference_steps": None, "scaled": None, "task": CLASSIFICATION}  # named only where they are not this
HUNDRED = 100  # percent
_NAME_BYTES = 100  # what file systems allow, with room for what is added
MOST_STEPS = 100_000  # trainings and measurements of a study: planning them takes half a minute, running them years


def _masks() -> tuple[MaskSpec, ...]:
    return (MaskSpec(kind="iterative"),)


def _arms() -> tuple[ArmSpec, ...]:
    return tuple(ArmSpec(kind=kind) for kind in ("ticket", "reinit", "rewind", "finetune"))


class Spec(StrictModel):
    """A study, every default filled in and every fraction resolved to epochs."""

    name: str
    """Name of the study and of the report's folder; by default `model-data`."""
    model: str
    """A registered model, or `package.module:callable`, which is imported and run."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model, such as `{width: 32}`."""
    data: str
    """A registered data set, `imagefolder:DIR`, `folder:DIR`, `csv:FILE`, `hf:REPO`, or `package.module:callable`,
    which is imported and run."""
    data_args: dict[str, Any] = Field(default_factory=dict)
    """`root: DIR`, `train_limit: N`, `validation: SHARE`, and the data set's own arguments."""
    task: str = CLASSIFICATION
    """What the networks are trained for: a registered task, or `package.module:callable`, which is imported and run."""
    recipe: RecipeSpec = RecipeSpec()
    """How every network is trained, dense or sparse."""
    learning_rates: Annotated[tuple[_Positive, ...], Field(max_length=100)] = (0.01, 0.1)
    """Initial learning rates; each gives a dense run, masks, arms and verdicts of its own."""
    masks: Annotated[tuple[MaskSpec, ...], Field(max_length=100)] = Field(default_factory=_masks)
    """Mask algorithms: names, or mappings of a `kind` and settings."""
    sparsities: Annotated[tuple[_Share, ...], Field(max_length=100)] = Rounds(per_round=0.15, rounds=10).sparsities()
    """A list, or `{per_round: SHARE, rounds: N}`; `iterative` makes one round per sparsity."""
    scope: ScopeSpec = ScopeSpec()
    """Which parameters are prunable."""
    arms: Annotated[tuple[ArmSpec, ...], Field(max_length=100)] = Field(default_factory=_arms)
    """What the sparse networks are trained from: names, or mappings of a `kind` and settings."""
    connectivity: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """`dense` or arms whose final networks are joined by a line to those of a second data order."""
    rewind: str = "1/15"
    """Where the arm `rewind` starts: a fraction of the epochs, `10ep` or `500it`."""
    seeds: int | SeedRange = 5
    """Repetitions; `auto` or a range adds seeds where a verdict is undecided."""
    devices: Annotated[Count, Field(le=64)] = 1
    """Devices that share every training."""
    along_training: Annotated[int, Field(strict=True, ge=0, le=1000)] = 0
    """Moments of the dense training at which R_p with its start is measured; 0 is none."""
    measure: tuple[Literal["movement", "barriers", "curvature", "masks", "sensitivity"], ...] = ()
    """What is measured of networks and masks besides accuracy and R_p; each is a table of the page."""
    pretraining: PretrainingSpec = PretrainingSpec()
    """Whether a longer dense training tests the dense run."""
    verdict: VerdictRule = VerdictRule()
    """The rule of the verdict."""
    pretrained: PretrainedSpec | None = None
    """A dense run of your own, in place of the study's."""
    reference_steps: Count | None = None
    """Steps of an epoch that the weight decay is meant for when the study is scaled; by default those of the data."""
    scaled: ScaledSpec | None = None
    """In a resolved spec: what the study was before it was scaled."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = re.sub(r"[^\w.-]+", "-", f"{values.get('model')}-{values.get('data')}")
        return {"name": name.encode()[:_NAME_BYTES].decode(errors="ignore").strip("-.") or "study", **values}

    @model_validator(mode="before")
    @classmethod
    def _in_the_metrics_unit(cls, values: Any) -> Any:
        """What the verdict's rule leaves out is the metric's to say; that of classification is the rule's default."""
        task = values.get("task", CLASSIFICATION) if isinstance(values, Mapping) else CLASSIFICATION
        rule = values.get("verdict", {}) if isinstance(values, Mapping) else None
        if task == CLASSIFICATION or not isinstance(task, str) or not isinstance(rule, Mapping | None):
            return values
        metric = task_of(task).metric
        return {**values, "verdict": {"margin": metric.margin, "gap": metric.gap, **(rule or {})}}

    @classmethod
    def unknown_field(cls, name: object) -> ConfigError:
        """The error for a field that there is not; a recipe's field is sent where it belongs."""
        if name in RecipeSpec.model_fields:
            return ConfigError(f"{name}: not a field of a spec; did you mean 'recipe.{name}'?")
        return unknown(str(name), name, [*cls.model_fields, *RecipeSpec.model_fields])

    @field_validator("model_args", "data_args")
    @classmethod
    def _json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return json.loads(json.dumps(arguments, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError("must hold only numbers, texts, lists and mappings") from error

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > _NAME_BYTES:
            what = f"at most {_NAME_BYTES} letters, digits, '_', '-' and '.'"
            raise ValueError(f"must be {what}: it names the folder of the report")
        return name

    @field_validator("sparsities", mode="before")
    @classmethod
    def _from_rounds(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        try:
            return Rounds.model_validate(value).sparsities()
        except ValidationError as error:
            raise config_error(error) from error

    @field_validator("seeds", mode="before")
    @classmethod
    def _number_or_range(cls, value: Any) -> int | SeedRange:
        if value == "auto":
            return SeedRange()
        if isinstance(value, Mapping):
            try:
                return SeedRange.model_validate(value)
            except ValidationError as error:
                raise config_error(error) from error
        if isinstance(value, SeedRange) or (type(value) is int and 1 <= value <= MOST_SEEDS):
            return value
        right = f"a whole number from 1 to {MOST_SEEDS}, auto, or a range such as {{min: 5, max: 20}}"
        raise ValueError(f"must be {right}")

    @field_validator("learning_rates", "masks", "sparsities", "arms")
    @classmethod
    def _some(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError("must hold at least one")
        return values

    @field_validator("sparsities")
    @classmethod
    def _growing(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        rounded = tuple(round(sparsity, DIGITS) for sparsity in sparsities)
        if sorted(set(rounded)) != list(rounded) or not 0 < rounded[0] <= rounded[-1] < 1:
            raise ValueError("must grow, each once, all above 0 and below 1")
        return rounded

    @field_validator("learning_rates", "connectivity", "measure")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("must be given once each")
        return values

    @field_validator("learning_rates")
    @classmethod
    def _told_apart_as_shown(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise ValueError("must differ in their first six digits, by which files and tables name them")
        return rates

    @field_validator("arms")
    @classmethod
    def _distinct_labels(cls, arms: tuple[ArmSpec, ...]) -> tuple[ArmSpec, ...]:
        labels = [arm.label for arm in arms]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                what = f"'{label}' is entry {labels.index(label)} too"
                raise ConfigError(f"{i}: {what}; must be given once each, settings apart in their first six digits")
        return arms

    @field_validator("connectivity")
    @classmethod
    def _have_trainings(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        arms = info.data.get("arms")
        trained = ["dense", *(names if arms is None else [arm.label for arm in arms])]
        for i, name in enumerate(names):
            if name not in trained:
                raise unknown(str(i), name, trained)
        return names

    @field_validator("masks")
    @classmethod
    def _told_apart(cls, masks: tuple[MaskSpec, ...]) -> tuple[MaskSpec, ...]:
        files: dict[str, int] = {}  # case apart, since some file systems see none
        for i, mask in enumerate(masks):
            first = files.setdefault(slug(mask.label).lower(), i)
            if first != i and mask.label == masks[first].label:
                raise ConfigError(f"{i}: '{mask.label}' is entry {first} too; give one of them another `name`")
            if first != i:
                alike = f"'{mask.label}' and entry {first}, '{masks[first].label}', would have files of one name"
                raise ConfigError(f"{i}: {alike}; give one of them another `name`")
        return masks

    @field_validator("rewind", mode="before")
    @classmethod
    def _before_the_end(cls, value: Any, info: Any) -> Any:
        return _moment(value, info.data["recipe"].epochs) if "recipe" in info.data else str(value)

    @model_validator(mode="after")
    def _pretrained_fits(self) -> "Spec":
        if self.pretrained:
            self.pretrained.check_placeholders(self.looks[-1], len(self.dense_rates))
            if "dense" in self.connectivity:
                raise ConfigError(
                    "connectivity: 'dense' is not trained here, `pretrained` takes its place; leave it out"
                )
            if self.along_training:
                asked = f"along_training: {self.along_training}"
                raise ConfigError(f"{asked}; must be 0: with `pretrained` there is no dense training to look into")
            if self.pretraining.longer:
                asked = f"pretraining.longer: {self.pretraining.longer}"
                raise ConfigError(f"{asked}; must be 0: with `pretrained` there is no dense training to lengthen")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> "Spec":
        if self.recipe.metric is not None and self.task != CLASSIFICATION:
            what = f"task '{self.task}' brings its own; leave it out, or give a task of your own"
            raise ConfigError(f"recipe.metric: '{self.recipe.metric}'; {what}")
        if self.devices > 1 and not getattr(task_of(self.task), "mean_of_examples", True):
            what = f"task '{self.task}' averages over what counts in a batch, which is not shared evenly; must be 1"
            raise ConfigError(f"devices: {self.devices}; {what}")
        if not getattr(task_of(self.task), "loss_in_evaluation", True) and (
            self.connectivity or "curvature" in self.measure
        ):
            field, value = ("connectivity", self.connectivity) if self.connectivity else ("measure", ("curvature",))
            what = f"networks of task '{self.task}' give no loss in evaluation, which that is about; leave it out"
            raise ConfigError(f"{field}: {', '.join(value)}; {what}")
        for name, value in (("margin", self.verdict.margin), ("gap", self.verdict.gap)):
            if value > HUNDRED and self.metric.unit == "%":
                raise ConfigError(f"verdict.{name}: {value:g}; must be less than or equal to {HUNDRED}")
        return self

    @model_validator(mode="after")
    def _loss_can_be_changed(self) -> "Spec":
        recipe, task = self.recipe, task_of(self.task)
        of_classes = isinstance(task, ClassTask)
        for field, value in (("label_smoothing", recipe.label_smoothing), ("distill", recipe.distill)):
            if value and not of_classes:
                what = f"task '{self.task}' has no cross entropy of classes, which it is about; leave it out"
                raise ConfigError(f"recipe.{field}: {shown(recipe.model_dump()[field])}; {what}")
        if recipe.label_smoothing and recipe.loss:
            raise ConfigError(f"recipe.label_smoothing: {recipe.label_smoothing:g}; must be 0 with a loss of your own")
        if recipe.accumulate > 1 and self.devices > 1:
            raise ConfigError(
                f"recipe.accumulate: {recipe.accumulate}; must be 1 where {self.devices} devices share a batch"
            )
        if recipe.accumulate > 1 and not of_classes and not getattr(task, "mean_of_examples", True):
            what = f"the losses of task '{self.task}' are no mean over examples; must be 1"
            raise ConfigError(f"recipe.accumulate: {recipe.accumulate}; {what}")
        return self

    @model_validator(mode="after")
    def _longer_training_ends(self) -> "Spec":
        epochs = self.recipe.epochs * self.pretraining.longer
        if epochs > MAX_COUNT:
            what = f"times {self.recipe.epochs:,} epochs is {epochs:,}; must be at most {MAX_COUNT:,}"
            raise ConfigError(f"pretraining.longer: {self.pretraining.longer}; {what}")
        return self

    @model_validator(mode="after")
    def _can_be_planned(self) -> "Spec":
        each = sum(len(self.sparsities) * (len(self.arms) + mask.trainings) for mask in self.masks)
        seeds = self.looks[-1]
        steps = seeds * len(self.learning_rates) * (each + self.along_training + bool(self.pretraining.longer))
        if steps > MOST_STEPS:
            what = f"seeds, learning rates, masks, sparsities and arms multiply to {steps:,} steps"
            raise ConfigError(f"seeds: {seeds}; {what}; must be at most {MOST_STEPS:,}: cut the study in several")
        return self

    @property
    def metric(self) -> Metric:
        """What the study's networks are scored by, with its unit and direction."""
        return task_of(self.task).metric

    @property
    def named_arms(self) -> dict[str, Arm]:
        """The arms by their labels, which are the `arm` of trials."""
        return {arm.label: arm.arm for arm in self.arms}

    @property
    def dense_rates(self) -> tuple[float, ...]:
        """Every learning rate at which there is a dense run: the study's, and those at which masks are found."""
        found_at = [mask.learning_rate for mask in self.masks if mask.learning_rate is not None]
        return tuple(dict.fromkeys([*self.learning_rates, *found_at]))

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which the study is judged: one, or several where seeds may be added."""
        return looks(self.seeds.min, self.seeds.max) if isinstance(self.seeds, SeedRange) else (self.seeds,)

    @property
    def asked_sparsity(self) -> float:
        """The one whose answer comes first: the least at which the rule allows a verdict, else the highest there is."""
        nontrivial = (one for one in self.sparsities if one >= self.verdict.nontrivial_sparsity)
        return next(nontrivial, self.sparsities[-1])

    def resolved(self) -> dict[str, Any]:
        """The spec as strict JSON values, defaults filled in; `load_spec` of it gives the same plan."""
        own = {"masks": [mask.resolved() for mask in self.masks], "arms": [arm.resolved() for arm in self.arms]}
        found = self.model_dump(mode="json") | own
        for name, default in (("key", None), ("shared", False)):
            if found["pretrained"] and found["pretrained"][name] == default:
                del found["pretrained"][name]
        return {name: value for name, value in found.items() if name not in _WHERE_SET or value != _WHERE_SET[name]}


def _moment(value: object, epochs: int) -> str:
    """A rewind moment, `10ep` or `500it`, from one of these or from a fraction of the training (`1/15`)."""
    try:
        text = _epochs_text(str(value), epochs)
        point = TrainingTime.parse(text)
    except ValueError as error:
        raise ValueError("must be epochs ('10ep'), steps ('500it') or a fraction of the training ('1/15')") from error
    if point.unit == "ep" and point.value >= epochs:
        length = f"{epochs} epoch{'s' * (epochs > 1)} (recipe.epochs)"
        raise ValueError(f"must come before the end of a training of {length}: a fraction such as '1/5', or 0ep for θ0")
    return text.strip()


def _epochs_text(text: str, epochs: int) -> str:
    if "/" not in text:
        return text
    return f"{epochs_of(text, epochs):.4f}".rstrip("0").rstrip(".") + "ep"
