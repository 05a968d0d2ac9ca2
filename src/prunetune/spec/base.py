"""The edge where a person's text becomes values: strict parts of a spec, and one clear line for what is wrong."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from prunetune.errors import ConfigError, short, shown, unknown

T = TypeVar("T")

DEEPEST = 20  # levels of lists and mappings
_LARGEST = 2**63 - 1  # whole number, of either sign
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class _Place(NamedTuple):
    path: tuple[Any, ...]
    value: Any


def require_input_limits(value: Mapping[Any, Any]) -> None:
    """ConfigError, naming the field, for what no spec can mean.

    That is: more than DEEPEST levels (also where something holds itself), control characters or half a character in a
    text, whole numbers of more than 63 bits, bytes, sets, and names that are neither texts nor numbers.
    """
    level = [_Place((), value)]
    for _ in range(DEEPEST + 1):
        level = [inner for place in level for inner in _within(place)]
        if not level:
            return
    raise ConfigError(f"{_name(level[0].path)}: more than {DEEPEST} lists and mappings within one another")


def _within(place: _Place) -> Iterator[_Place]:
    """What a list or a mapping holds, each value of it found to be plain by itself."""
    path, value = place
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int | float | None):
                raise ConfigError(f"{_name((*path, key))}: the name {shown(key)}; must be a text")
            _require_plain((*path, key), key)
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            _require_plain((*path, key), inner)
            yield _Place((*path, key), inner)


def _require_plain(path: tuple[Any, ...], value: Any) -> None:
    if isinstance(value, str) and (found := _CONTROL.search(value)):
        raise ConfigError(f"{_name(path)}: {shown(value)}; must be a text without {shown(found[0])}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"{_name(path)}: {shown(value)}; must be a number of at most 18 digits")
    if isinstance(value, bytes | bytearray | set | frozenset):
        raise ConfigError(f"{_name(path)}: {shown(value)}; must be a text, a number, a list or a mapping")


def _name(path: tuple[Any, ...]) -> str:
    """The field's dotted path; of a long one its beginning."""
    return ".".join(short(key) if isinstance(key, str) else shown(key) for key in path[:6]) or "spec"


# What would be right, by the type of pydantic's finding; in braces the finding's context.
_RIGHT = {
    "greater_than": "be greater than {gt}",
    "greater_than_equal": "be greater than or equal to {ge}",
    "less_than": "be less than {lt}",
    "less_than_equal": "be less than or equal to {le}",
    "finite_number": "be a finite number",
    "literal_error": "be {expected}",
    "too_long": "have at most {max_length} items, not {actual_length}",
    "too_short": "have at least {min_length} items, not {actual_length}",
    "string_type": "be a text",
    "bool_type": "be true or false",
    "bool_parsing": "be true or false",
    "int_type": "be a whole number",
    "int_parsing": "be a whole number",
    "int_from_float": "be a whole number",
    "float_type": "be a number",
    "float_parsing": "be a number",
    "tuple_type": "be a list, such as [a, b]",
    "list_type": "be a list, such as [a, b]",
    "dict_type": "be a mapping",
    "mapping_type": "be a mapping",
    "model_type": "be a mapping",
    "dataclass_type": "be a mapping",
}


class StrictModel(BaseModel):
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
    def unknown_field(cls, name: object) -> ConfigError:
        """The error for a field that there is not."""
        return unknown(str(name), name, cls.model_fields)


def with_settings(kind: type[T], settings: Mapping[str, Any], *within: str) -> T:
    """A registered dataclass with these settings, each checked against the type of its field, bools no numbers.

    ConfigError for the first that is wrong; `within` are the fields that its path begins with.
    """
    try:
        text = json.dumps(settings, default=str)  # strict JSON, unlike strict Python, takes a list for a tuple
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise config_error(error, *within) from error


def config_error(error: ValidationError, *within: str) -> ConfigError:
    """The first of pydantic's findings as one line: the field's dotted path, the value, and what would be right.

    `within` are the fields that the path begins with.
    """
    found = error.errors(include_url=False)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ConfigError(_line(found[0], within) + more)


def _line(finding: Mapping[str, Any], within: Iterable[str]) -> str:
    path = ".".join(short(str(part)) for part in (*within, *finding["loc"]))
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # it names the field already, as seen from the part that raised it
        return f"{path}.{cause}" if path else str(cause)
    if finding["type"] == "missing":
        return f"{path}: missing; it has no default"
    return f"{path or 'spec'}: {shown(finding['input'])}; {cause or _right(finding)}"


def _right(finding: Mapping[str, Any]) -> str:
    """What the value must be; in pydantic's own words where a type of a plug-in's settings is none of ours."""
    if finding["type"] not in _RIGHT:
        return finding["msg"]
    context = {name: _whole(value) for name, value in finding.get("ctx", {}).items()}
    return f"must {_RIGHT[finding['type']].format(**context)}"


def _whole(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
