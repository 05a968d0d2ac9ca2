"""An arm with its settings, as an entry of a spec's `arms`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator

from prunetune.errors import unknown
from prunetune.spec.base import StrictModel, config_error
from prunetune.steps.arms import ARMS, Arm, ArmWithSettings


class ArmSpec(StrictModel):
    """A name alone, or a mapping with the arm's `kind` and its settings, which are then the fields beside it."""

    model_config = ConfigDict(extra="allow")

    kind: str

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
        self.arm()
        return self

    def arm(self) -> Arm:
        """The arm under its label, with its settings checked."""
        arm = self._made()
        return arm if isinstance(arm, Arm) else Arm(self.label, arm.start, control=arm.control)

    @property
    def settings(self) -> dict[str, Any]:
        """The arm's settings, defaults filled in; empty for one that has none."""
        arm = self._made()
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

    def _made(self) -> Arm | ArmWithSettings:
        arm = ARMS[self.kind]
        if isinstance(arm, Arm):
            return arm
        try:
            return TypeAdapter(arm).validate_json(json.dumps(self.model_extra, default=str), strict=True)
        except ValidationError as error:
            raise config_error(error) from error
