"""A mask algorithm with its settings, as an entry of a spec's `masks`."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from prunetune.errors import unknown
from prunetune.sparsity.allocation import ALLOCATIONS
from prunetune.sparsity.criteria import CRITERIA
from prunetune.sparsity.patterns import PATTERNS
from prunetune.study.masks import MASKS, Algorithm
from prunetune.study.part import Number, Part, complaint

_RULE = {"criterion": "magnitude", "allocation": "uniform", "pattern": "unstructured"}
_CHOICES = {"criterion": CRITERIA, "allocation": ALLOCATIONS, "pattern": PATTERNS}


class MaskSpec(Part):
    """A name alone, or a mapping; beside the fields here it takes the algorithm's own settings (admm: rho, …)."""

    model_config = ConfigDict(extra="allow")

    kind: str
    name: str | None = None
    criterion: str = _RULE["criterion"]
    allocation: str = _RULE["allocation"]
    pattern: str = _RULE["pattern"]
    learning_rate: Annotated[Number, Field(gt=0)] | None = None  # at which the mask is found; None: as it is used

    @model_validator(mode="before")
    @classmethod
    def _own_fields_only(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"kind": values}
        if not isinstance(values, Mapping):
            raise ValueError(f"must be a mask algorithm ({', '.join(MASKS)}) or a mapping with its `kind`")
        return values

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w.@=+-]+", name):
            raise ValueError("must be one word of letters, digits and . @ = + - _")
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
            if name not in settings:
                raise unknown(name, name, [*MaskSpec.model_fields, *settings])
        self.algorithm()
        return self

    def algorithm(self) -> Algorithm:
        """The algorithm with its settings checked and filled in."""
        try:
            text = json.dumps(self.model_extra or {}, default=str)  # strict JSON still takes a mapping for a dataclass
            return TypeAdapter(MASKS[self.kind]).validate_json(text, strict=True)
        except ValidationError as error:
            raise complaint(error) from error

    def resolved(self) -> dict[str, Any]:
        """The entry with every default filled in."""
        own = {name: getattr(self, name) for name in MaskSpec.model_fields}
        return own | asdict(self.algorithm())  # type: ignore[call-overload]

    @property
    def label(self) -> str:
        """The mask's name in tables: `name`, else its kind and whatever of its settings is not the default.

        >>> MaskSpec(kind="iterative", allocation="global").label, MaskSpec(kind="admm", learning_rate=0.1).label
        ('iterative-global', 'admm@0.1')
        """
        if self.name is not None:
            return self.name
        algorithm = self.algorithm()
        rule = [getattr(self, field) for field, default in _RULE.items() if getattr(self, field) != default]
        settings = [
            f"{f.name}={getattr(algorithm, f.name)}"
            for f in fields(algorithm)  # type: ignore[arg-type]
            if getattr(algorithm, f.name) != f.default
        ]
        rate = "" if self.learning_rate is None else f"@{self.learning_rate:g}"
        return "-".join([self.kind, *rule, *settings]) + rate
