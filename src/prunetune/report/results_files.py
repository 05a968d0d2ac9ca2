"""The files a study leaves behind: `results.json`, `trials.csv`, `correlations.csv` (docs/reference/store.md).

`results.json` is strict JSON: what is not finite is null. Equal results give equal bytes: rows are sorted and floats
are written with all their digits.
"""

import csv
import dataclasses
import io
import json
import math
import os
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from prunetune.analysis.paper.check_claims import PaperRow
from prunetune.analysis.verdict import SparsityTest, Verdict
from prunetune.core.metric import Metric
from prunetune.errors import ConfigError
from prunetune.report.answer import Answers
from prunetune.rows import (
    READ_VERSIONS,
    SCHEMA_VERSION,
    Connectivity,
    Correlation,
    Missing,
    Residuals,
    Results,
    Spent,
    Trial,
)
from prunetune.spec.recipe_fields import RecipeSpec, summarise
from prunetune.training.recipe import RecipeSummary

RESULTS, TRIALS, CORRELATIONS = "results.json", "trials.csv", "correlations.csv"
VERDICT_FIELDS = (
    "learning_rate", "mask", "winning_property", "sparsity", "pretraining", "reasons", "seeds_needed",
    "exceeds_dense", "corrected_for",
)  # fmt: skip
RECOMMENDATION_FIELDS = (
    "sparsity", "learning_rate", "arm", "mask", "accuracy", "runner_up", "difference", "low", "high", "tie",
    "candidates", "chosen_on", "score",
)  # fmt: skip
LATER_ROWS = ("residuals", "connectivity", "along_training", "overlap_by_layer", "mask_overlap", "recipes")
LATER_FIELDS = (
    "controls",
    "validation_accuracy",
    "score",
    "validation_score",
    "score_barrier",
    "scores",
    "quantities",
    *LATER_ROWS,
)  # that older files lack; each has a default
LATER: dict[str, Any] = {"later": True}  # the metadata of another such field, where the name is not one everywhere
COMPARISON_FIELDS = (
    "first",
    "second",
    "n",
    "mean",
    "low",
    "high",
    "low_own",
    "high_own",
    "p",
    "answer",
    "error_change",  # null where it is not shown
)
CHECK_FIELDS = {  # column -> field of a Check
    "check": "name", "answer": "answer", "n": "n", "mean": "mean", "low": "low", "high": "high", "limit": "limit"
}  # fmt: skip
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what a figure, an XML file, cannot hold

T = TypeVar("T")


def canonical(results: Results) -> Results:
    """The same results as a reader of `results.json` gets them: rows sorted, numbers typed, the metric described."""
    return decode(json.loads(json_text(_sorted(results))), Results, "results")


def results_text(
    results: Results,
    found: Answers,
    paper: Sequence[PaperRow] = (),
) -> str:
    """The content of `results.json`."""
    rows, verdicts = _plain(_sorted(results)), found.verdicts
    content = {
        "schema_version": SCHEMA_VERSION,
        **{name: rows[name] for name in ("study", "environment", "trials", "correlations")},
        "verdicts": [_fields(verdict, VERDICT_FIELDS) for verdict in verdicts],
        "recommendation": [
            {name: getattr(row, name) for name in RECOMMENDATION_FIELDS} for row in found.recommendation
        ],
        "standings": list(found.standings),
        "choices": list(found.choices),
        **{name: rows[name] for name in ("budget", "layers", "invariants", "missing", "notes", "controls")},
        "comparisons": [row for verdict in verdicts for test in verdict.tests for row in _comparisons(verdict, test)],
        "pretraining": _pretraining(verdicts),
        "paper": list(paper),
        **{name: rows[name] for name in LATER_ROWS},
        **({"quantities": rows["quantities"]} if results.quantities else {}),  # only where a study asks for them
        **_looks(verdicts),
    }
    return json_text(content) + "\n"


def read_results(path: Path) -> Results:
    """Read `results.json`.

    A null where a number is required reads as NaN, and what of a name no figure can hold (a control character) as
    U+FFFD. Fields that are not known are passed over. Raises ConfigError with
    one line when the file is missing, is not strict JSON, has another schema version, or lacks a field.
    """
    content = read_object(path, READ_VERSIONS)
    results = decode(content, Results, str(path))
    if "recipes" in content:
        return results
    return dataclasses.replace(results, recipes=summaries_of(results.study, results.trials))


def shown_again(path: Path, show: Callable[[], T]) -> T:
    """What `show` makes of a file of ours; ConfigError where that holds what no study of ours can have come to."""
    try:
        return show()
    except ConfigError:
        raise
    except Exception as error:  # whatever arithmetic and drawing make of numbers and names by another hand
        raise ConfigError(f"{path}: what it holds cannot be shown: {type(error).__name__}: {error}") from error


def read_object(path: Path, versions: Collection[int]) -> dict[str, Any]:
    """The object that a strict JSON file of ours holds; ConfigError with one line for anything else."""
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; give a folder that `prunetune audit` or `prune` wrote") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON, so truncated or damaged: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds a {_json_kind(found)}; it must hold an object")
    version = found.get("schema_version")
    if version not in versions or isinstance(version, bool):
        known = " and ".join(map(str, versions))
        raise ConfigError(f"{path}: schema_version is {json.dumps(version)}; this prunetune reads {known}")
    return found


def decode(content: dict[str, Any], kind: type[T], where: str) -> T:
    """A dataclass from JSON; ConfigError naming `where` and the field that is missing or of a wrong type."""
    return _decode(content, kind, where, "")


def csv_text(rows: Sequence[Trial] | Sequence[Correlation], kind: type) -> str:
    """A CSV, a column for each field of `kind` in their order; null is an empty cell, true and false as in JSON."""
    names = [field.name for field in dataclasses.fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write all of a file or nothing of it; ConfigError when the folder cannot be written."""
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(
            text, encoding="utf-8", errors="backslashreplace", newline="\n"
        )  # JSON may hold half a character
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ConfigError(f"out: cannot write {path}: {error.strerror}") from error


def trial_order(row: Trial | Missing | Spent | Residuals | Connectivity) -> tuple[Any, ...]:
    """Sorts rows as tables show them: by rate, mask algorithm (none first), sparsity, arm, seed."""
    return row.learning_rate, row.mask or "", row.sparsity, getattr(row, "arm", ""), getattr(row, "seed", 0)


def _correlation_order(row: Correlation) -> tuple[Any, ...]:
    return row.pair, row.learning_rate, row.mask or "", row.sparsity, row.seed, row.p


def _comparisons(verdict: Verdict, test: SparsityTest) -> list[dict[str, Any]]:
    place = {"learning_rate": verdict.learning_rate, "mask": verdict.mask, "sparsity": test.sparsity}
    halves = (test.dense, test.reinit)
    return [place | _fields(half, COMPARISON_FIELDS) | {"p_holm": test.p_holm} for half in halves]


def _fields(row: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _pretraining(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The three checks of pre-training at every learning rate, with the figures that decide each."""
    by_rate = {verdict.learning_rate: verdict.dense for verdict in verdicts if verdict.dense}
    return [
        {"learning_rate": rate} | {name: getattr(check, field) for name, field in CHECK_FIELDS.items()}
        for rate, before in sorted(by_rate.items())
        for check in before.checks
    ]


def _looks(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The looks that each verdict took, where the study may add seeds; else nothing."""
    rows = [
        {"learning_rate": verdict.learning_rate, "mask": verdict.mask} | dataclasses.asdict(look)
        for verdict in verdicts
        for look in verdict.looks
    ]
    return {"looks": rows} if rows else {}


def _sorted(results: Results) -> Results:
    places = {layer.name: place for place, layer in enumerate(results.layers)}
    return dataclasses.replace(
        results,
        study=results.study | Metric.of(results.study).described(),
        trials=tuple(sorted(results.trials, key=trial_order)),
        correlations=tuple(sorted(results.correlations, key=_correlation_order)),
        missing=tuple(sorted(results.missing, key=trial_order)),
        budget=tuple(sorted(results.budget, key=trial_order)),
        residuals=tuple(sorted(results.residuals, key=trial_order)),
        connectivity=tuple(sorted(results.connectivity, key=trial_order)),
        along_training=tuple(sorted(results.along_training, key=lambda row: row.order)),
        overlap_by_layer=tuple(
            sorted(results.overlap_by_layer, key=lambda row: (*row.order, places.get(row.layer, 0), row.layer))
        ),
        mask_overlap=tuple(sorted(results.mask_overlap, key=lambda row: row.order)),
        recipes=tuple(sorted(results.recipes, key=lambda row: row.learning_rate)),
    )


def json_text(value: Any) -> str:
    """Strict JSON of dataclasses and plain values: what is not finite is null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON values only: dataclasses as objects, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return json.dumps(plain) if isinstance(plain, bool) else str(plain)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not strict JSON")


def _decode(value: Any, kind: Any, where: str, name: str) -> Any:
    """`value` as the type hint `kind` asks for it; `name` is the field's path, such as `trials[3].seed`."""
    if dataclasses.is_dataclass(kind):
        return _decode_fields(value, kind, where, name)
    if get_origin(kind) in (types.UnionType, Union):
        inner = next(option for option in get_args(kind) if option is not types.NoneType)
        return None if value is None else _decode(value, inner, where, name)
    if get_origin(kind) is tuple:
        items = _require(value, list, "a list", where, name)
        return tuple(_decode(item, get_args(kind)[0], where, f"{name}[{i}]") for i, item in enumerate(items))
    if get_origin(kind) is dict:
        items = _require(value, dict, "an object", where, name)
        return {key: _decode(item, get_args(kind)[1], where, f"{name}[{key!r}]") for key, item in items.items()}
    return value if kind is Any else _SCALARS[kind](value, where, name)


def _decode_fields(value: Any, kind: Any, where: str, name: str) -> Any:
    content = _require(value, dict, "an object", where, name)
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in content and field.name not in LATER_FIELDS and "later" not in field.metadata:
            raise ConfigError(f"{where}: {_inside(name, field.name)} is missing")
    given = {key: hint for key, hint in hints.items() if key in content}
    return kind(**{key: _decode(content[key], hint, where, _inside(name, key)) for key, hint in given.items()})


def _number(value: Any, where: str, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        _require(value, float, "a number", where, name)
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{where}: {name} is larger than any number of a study") from error


def _integer(value: Any, where: str, name: str) -> int:
    return _require(None if isinstance(value, bool) else value, int, "an integer", where, name)


_SCALARS: dict[Any, Callable[[Any, str, str], Any]] = {
    float: _number,
    int: _integer,
    bool: lambda value, where, name: _require(value, bool, "true or false", where, name),
    str: lambda value, where, name: NO_XML.sub("\ufffd", _require(value, str, "a text", where, name)),
}


def _require(value: Any, kind: type, words: str, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: {name} is a {_json_kind(value)}; it must be {words}")
    return value


def _inside(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _json_kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def summaries_of(study: Mapping[str, Any], trials: Iterable[Trial]) -> tuple[RecipeSummary, ...]:
    """The same from a resolved spec and the rows of its table, for results that do not say it themselves.

    The steps of an epoch are those of the study's dense runs, else of its sparse trainings. A rate without a whole
    training has no row, and a study whose recipe cannot be read has none.
    """
    try:
        recipe = RecipeSpec.model_validate(study.get("recipe") or {})
    except (ValidationError, ConfigError):
        return ()
    found: dict[float, int] = {}
    for trial in sorted(trials, key=lambda trial: trial.arm == "dense"):
        if trial.epochs == recipe.epochs and trial.steps and not trial.steps % recipe.epochs:
            found[trial.learning_rate] = trial.steps // recipe.epochs
    return tuple(summarise(recipe, rate, found[rate]) for rate in sorted(found))
