"""A criterion with its hyper-parameters, as the `criterion` of a mask's entry: a name, or a mapping with its `name`."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunetune.errors import RequestError, shown, unknown
from prunetune.references import Ref
from prunetune.sparsity.criteria import CRITERIA, Criterion
from prunetune.study.part import complaint


def read_criterion(value: object) -> Ref:
    """The criterion of a name, or of a mapping of `name` and fields, with every field checked and filled in.

    A field with its default written out gives the same Ref as the name alone. RequestError, as seen from the mask's
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
        raise RequestError(f"criterion: {shown(value)}; {what}")
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


def _filled(kind: type[Criterion], own: Mapping[Any, Any]) -> dict[str, Any]:
    """All fields of the criterion, those of `own` checked against their types."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in own:
        if name not in known:
            raise unknown(f"criterion.{name}", name, known or ["name"])
    try:
        made = TypeAdapter(kind).validate_json(json.dumps(own, default=str), strict=True)
    except ValidationError as error:
        raise complaint(error, "criterion") from error
    filled = asdict(made)  # type: ignore[call-overload]
    for name, value in filled.items():
        if isinstance(value, float) and not math.isfinite(value):  # a spec and a key are strict JSON
            raise RequestError(f"criterion.{name}: {value}; must be a finite number")
    return filled
