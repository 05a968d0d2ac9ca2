"""A mask algorithm with its settings, as an entry of a spec's `masks`."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from prunetune.core.limits import Count, Number
from prunetune.core.references import Ref
from prunetune.core.seeding import derive
from prunetune.data import Facts
from prunetune.errors import ConfigError, shown, unknown
from prunetune.sparsity.allocation import ALLOCATIONS, SENSITIVITY
from prunetune.sparsity.criteria import CRITERIA, Criterion, place_of
from prunetune.sparsity.gradients import reads_images
from prunetune.sparsity.patterns import CHANNEL, PATTERNS
from prunetune.spec.base import StrictModel, with_settings
from prunetune.steps.mask_algorithms import MASKS, UPDATES_BY_DEFAULT, Algorithm, Gradual
from prunetune.steps.steps import DenseStates, Probe


def read_criterion(value: object) -> Ref:
    """The criterion of a name, or of a mapping of `name` and fields, with every field checked and filled in.

    A field with its default written out gives the same Ref as the name alone. ConfigError, as seen from the mask's
    entry, for a criterion or a field that there is not, and for a value that the field's type or the criterion's own
    check (`__post_init__`) refuses.

    >>> read_criterion("synflow") == read_criterion({"name": "synflow", "rounds": 100})
    True
    >>> read_criterion({"name": "synflow", "rounds": 50}).kwargs
    {'rounds': 50}
    """
    given = {"name": value} if isinstance(value, str) else value
    name = given.get("name") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(name, str):
        what = f"must be a criterion ({', '.join(CRITERIA)}) or a mapping with its `name`"
        raise ConfigError(f"criterion: {shown(value)}; {what}")
    if name not in CRITERIA:
        raise unknown("criterion", name, CRITERIA)
    return Ref.of(name, _filled(CRITERIA[name], {field: own for field, own in given.items() if field != "name"}))


def criterion_of(rule: Ref) -> Criterion:
    """The criterion that a step or a mask's entry refers to."""
    return CRITERIA[rule.name](**rule.kwargs)


def spelled(rule: Ref) -> str | dict[str, Any]:
    """The criterion as a resolved spec has it: a name, or with it every field. `read_criterion` gives `rule` again."""
    return rule.kwargs | {"name": rule.name} if rule.kwargs else rule.name


def criterion_label(rule: Ref) -> str:
    """The criterion in a mask's label: its name, and whatever of its fields is not the default.

    >>> criterion_label(read_criterion("synflow")), criterion_label(read_criterion({"name": "synflow", "rounds": 50}))
    ('synflow', 'synflow-rounds=50')
    """
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(CRITERIA[rule.name])  # type: ignore[arg-type]
    }
    known = Ref.of("", {name: default for name, default in defaults.items() if default is not MISSING}).kwargs
    own = [f"{name}={value}" for name, value in rule.kwargs.items() if name not in known or value != known[name]]
    return "-".join([rule.name, *own])


def _filled(kind: type[Criterion], own: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the criterion, those of `own` checked against their types."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in own:
        if name not in known:
            raise unknown(f"criterion.{name}", name, known or ["name"])
    filled = asdict(with_settings(kind, own, "criterion"))  # type: ignore[call-overload]
    for name, value in filled.items():
        if isinstance(value, float) and not math.isfinite(value):  # a spec and a key are strict JSON
            raise ConfigError(f"criterion.{name}: {value}; must be a finite number")
    return filled


_RULE = {"criterion": "magnitude", "allocation": "uniform", "pattern": "unstructured"}
IMAGES_PER_CLASS = 10  # that a criterion is shown, as in the papers of GraSP and SynFlow
EXAMPLES_SHOWN = 100  # that a criterion is shown of a task other than classification
_CHOICES = {"allocation": (*ALLOCATIONS, SENSITIVITY), "pattern": PATTERNS}


class MaskSpec(StrictModel):
    """A name alone, or a mapping; beside the fields here it takes the algorithm's own settings (admm: rho, …)."""

    model_config = ConfigDict(extra="allow")

    kind: str
    """The mask algorithm; its own settings stand beside it."""
    name: str | None = None
    """Label of the mask; by default made of what is not the default."""
    criterion: Ref = Ref.of(_RULE["criterion"])
    """What ranks weights: a name, or a mapping of `name` and settings."""
    allocation: str = _RULE["allocation"]
    """How a sparsity is spread over layers: `uniform`, `global`, `erk`, `sensitivity`."""
    pattern: str = _RULE["pattern"]
    """Which weights go together: `unstructured`, `N:M`, `channel`."""
    round_to: Count | None = None
    """Under the pattern `channel`, of what the widths that are left are multiples, such as 8; by default of nothing."""
    learning_rate: Annotated[Number, Field(gt=0)] | None = None
    """Rate at which the mask is found; by default the one at which the arms are trained."""
    probe: Count | None = None
    """Training images that the criterion is shown; by default ten of each class."""

    @model_validator(mode="before")
    @classmethod
    def _own_fields_only(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"kind": values}
        if not isinstance(values, Mapping):
            raise ValueError(f"must be a mask algorithm ({', '.join(MASKS)}) or a mapping with its `kind`")
        return {**values, "criterion": read_criterion(values.get("criterion", _RULE["criterion"]))}

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w.@=+-]{1,60}", name):
            raise ValueError("must be one word of at most 60 letters, digits and . @ = + - _")
        return name

    @model_validator(mode="after")
    def _known(self) -> "MaskSpec":
        if self.kind not in MASKS:
            raise unknown("kind", self.kind, MASKS)
        for field, registry in _CHOICES.items():
            if getattr(self, field) not in registry:
                raise unknown(field, getattr(self, field), registry)
        settings = [f.name for f in fields(MASKS[self.kind])]  # type: ignore[arg-type]
        for name in self.model_extra or {}:
            if name not in settings and name in self.criterion.kwargs:
                raise ConfigError(f"{name}: not a setting of '{self.kind}'; did you mean 'criterion.{name}'?")
            if name not in settings:
                raise unknown(name, name, [*MaskSpec.model_fields, *settings])
        _ = self.algorithm  # refuses wrong settings
        return self

    @model_validator(mode="after")
    def _of_use(self) -> "MaskSpec":
        if self.probe is not None and not reads_images(criterion_of(self.criterion)):
            what = f"criterion '{self.criterion.name}' looks at no images"
            raise ConfigError(f"probe: {self.probe}; {what}; leave it out")
        if self.round_to is not None and self.pattern != CHANNEL:
            raise ConfigError(f"round_to: {self.round_to}; pattern '{self.pattern}' removes no channels; leave it out")
        return self

    def shown(self, states: DenseStates, facts: Facts) -> Probe | None:
        """What the criterion is shown at this seed; None for one that looks at no data.

        Where data are no images, a criterion or a pattern that needs an input's shape alone is shown some too.
        """
        criterion = criterion_of(self.criterion)
        needs_a_shape = bool(criterion.needs - {"weight"}) or self.pattern == CHANNEL
        if not reads_images(criterion) and (facts.images or not needs_a_shape):
            return None
        if self.probe is not None and self.probe > facts.train:
            raise ConfigError(f"masks.probe: {self.probe}; the data set has {facts.train} training images")
        recipe, trainer = states.recipe, states.trainer
        by_default = EXAMPLES_SHOWN if recipe.task else IMAGES_PER_CLASS * facts.outputs
        images, seed = self.probe or min(by_default, facts.train), derive(trainer.seed, "probe")
        return Probe(trainer.data, images, recipe.batch_size, seed, recipe.loss, trainer.device, recipe.task)

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm with its settings checked and filled in."""
        return with_settings(MASKS[self.kind], {**self._by_criterion(), **(self.model_extra or {})})

    def _by_criterion(self) -> dict[str, Any]:
        """Defaults that are the criterion's to say: whether `one_shot` prunes initial weights or trained ones."""
        return {"at": place_of(criterion_of(self.criterion))} if self.kind == "one_shot" else {}

    @property
    def trainings(self) -> int:
        """About how many trainings it takes to find one of its masks."""
        algorithm = self.algorithm
        return algorithm.updates or UPDATES_BY_DEFAULT if isinstance(algorithm, Gradual) else 1

    def resolved(self) -> dict[str, Any]:
        """The entry with every default filled in."""
        fields_set = (name for name in MaskSpec.model_fields if name != "round_to" or self.round_to is not None)
        own = {name: getattr(self, name) for name in fields_set} | {"criterion": spelled(self.criterion)}
        return own | asdict(self.algorithm)  # type: ignore[call-overload]

    @cached_property
    def label(self) -> str:
        """The mask's name in tables: `name`, else its kind and whatever of its settings is not the default.

        >>> MaskSpec(kind="iterative", allocation="global").label, MaskSpec(kind="admm", learning_rate=0.1).label
        ('iterative-global', 'admm@0.1')
        """
        if self.name is not None:
            return self.name
        algorithm, by_criterion = self.algorithm, self._by_criterion()
        choices = {field: getattr(self, field) for field in _RULE} | {"criterion": criterion_label(self.criterion)}
        rule = [choice for field, choice in choices.items() if choice != _RULE[field]]
        settings = [
            f"{f.name}={getattr(algorithm, f.name)}"
            for f in fields(algorithm)  # type: ignore[arg-type]
            if getattr(algorithm, f.name) != by_criterion.get(f.name, f.default)
        ]
        rate = "" if self.learning_rate is None else f"@{self.learning_rate:g}"
        own = [f"{name}={value}" for name in ("probe", "round_to") if (value := getattr(self, name)) is not None]
        return "-".join([self.kind, *rule, *own, *settings]) + rate
