"""The edge where a person's text becomes values: strict parts of a spec, and one clear line for what is wrong."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prunetune.errors import RequestError, short, shown, unknown

MOST = 1_000_000  # of whatever is counted: more is a slip, or meant to keep a machine busy for ever
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # an integer is one, a bool is not

_WORDS = {
    "Input should be": "must be",
    "Tuple should have": "must have",
    " after validation": "",
    "a valid tuple": "a list, such as [a, b]",
    "a valid array": "a list, such as [a, b]",
    "a valid dictionary": "a mapping",
    "a valid string": "a text",
    "a valid number": "a number",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
}


class Part(BaseModel):
    """A part of a spec: frozen, and nothing but its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _own_fields_only(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"must be a mapping of {', '.join(cls.model_fields)}")
        for name in values:
            if name not in cls.model_fields:
                raise cls.unknown_field(name)
        return values

    @classmethod
    def unknown_field(cls, name: object) -> RequestError:
        """The error for a field that there is not."""
        return unknown(str(name), name, cls.model_fields)


def complaint(error: ValidationError, *within: str) -> RequestError:
    """The first of pydantic's findings as one line: the field's dotted path, the value, and what would be right.

    `within` are the fields that the path begins with.
    """
    found = error.errors(include_url=False)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return RequestError(_line(found[0], within) + more)


def _line(finding: Mapping[str, Any], within: Iterable[str]) -> str:
    path = ".".join(short(str(part)) for part in (*within, *finding["loc"]))
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, RequestError):  # it names the field already, as seen from the part that raised it
        return f"{path}.{cause}" if path else str(cause)
    if finding["type"] == "missing":
        return f"{path}: missing; it has no default"
    return f"{path or 'spec'}: {shown(finding['input'])}; {cause or _in_our_words(finding['msg'])}"


def _in_our_words(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message
