"""A spec from its source: a preset, strict YAML or a mapping, with `--set` overrides and a scale."""

import math
import os
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from prunetune.core.metric import METRIC_KEYS
from prunetune.errors import ConfigError, short, shown, unknown
from prunetune.sparsity.argument_checks import require_type
from prunetune.spec import presets
from prunetune.spec.base import config_error, require_input_limits
from prunetune.spec.recipe_fields import RecipeSpec
from prunetune.spec.scaling import VALIDATION, kept_weight_decay, record, require_scale, scaled_times
from prunetune.spec.study import Spec

SpecSource = str | Path | Mapping[str, Any] | Spec | None
_MERGE = "tag:yaml.org,2002:merge"
_MOST_CHARACTERS = 1_000_000  # of a spec with its aliases written out
_WAYS_OUT = {  # by what PyYAML was at: patterns of names are what it stumbles over most often
    f"while scanning an {what}": f"a text that begins with {sign} needs quotes, such as '{sign}.bias'"
    for what, sign in (("alias", "*"), ("anchor", "&"))
}

_EMPTY_ENTRY = re.compile(r"[\[,]\s*,|,\s*\]$")  # of a list in brackets; YAML lets only its last entry be empty
_QUOTED = re.compile(r"""(['"]).*?\1""")


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe subset; refuses a key that is given twice and aliases that multiply, and reads 1e-4 as a number."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _written_out(node, {}) > _MOST_CHARACTERS:
            what = f"its aliases stand for more than {_MOST_CHARACTERS:,} characters"
            raise ConfigError(f"{what}; write out what is meant")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if (key.tag, str(key.value)) in first and key.tag != _MERGE:
                before = first[key.tag, str(key.value)]
                raise ConfigError(f"line {line}: '{key.value}' is given twice (first on line {before}); give it once")
            first[key.tag, str(key.value)] = line
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _digit in "0123456789":  # the pattern 2:4 is a text, and not YAML 1.1's 124 in base sixty
    _StrictLoader.yaml_implicit_resolvers[_digit].insert(0, ("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$")))


def _written_out(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many characters a node stands for, each alias counted as a copy; infinity where one holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    if node not in known:
        known[node] = math.inf
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[node] = 1 + sum(_written_out(part, known) for part in inner if isinstance(part, yaml.Node))
    return known[node]


def read_yaml(text: str, where: str) -> Any:
    """The value that `text` holds. `where` (a file, a field) leads the one line of a ConfigError."""
    try:
        return yaml.load(text, _StrictLoader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = error.problem or error.context
        raise ConfigError(f"{where}: {line}not YAML: {_WAYS_OUT.get(str(error.context), problem)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}: line {line}: not YAML: a character that no text holds") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:  # PyYAML lets its constructors' escape
        raise ConfigError(f"{where}: not YAML that can be read: {type(error).__name__}") from error


def read_fields(source: SpecSource) -> dict[str, Any]:
    """The fields of a preset (None: `quick`), a YAML file, a mapping or a Spec, before any of them is checked."""
    if isinstance(source, Spec):
        return source.resolved()
    if isinstance(source, Mapping):
        return _without_metric(source)  # `override` changes no mapping within
    require_type("spec", source, (str, os.PathLike, NoneType), "a preset's name, a YAML file, a mapping or a Spec")
    name = "quick" if source is None else str(source)
    fields = presets.fields(name)
    return _read_file(_locate(name)) if fields is None else fields


def _locate(name: str) -> Path:
    if group := presets.members(name):
        raise ConfigError(f"spec: '{name}' stands for {len(group)} studies; give one of them, such as {group[0]}")
    if name in presets.names():
        return presets.path(name)
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise unknown("spec", name, presets.names())
    return path


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not YAML: not a text file (UTF-8)") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a spec's YAML file or a preset's name") from error
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"{path}: longer than {_MOST_CHARACTERS:,} characters; a spec is a page or two of YAML")
    fields = read_yaml(text, str(path))
    if not isinstance(fields, Mapping):
        what = "is empty" if fields is None else f"holds a {type(fields).__name__}"
        raise ConfigError(f"{path}: {what}; a spec is a mapping with at least `model: …` and `data: …`")
    return _without_metric(fields)


def _without_metric(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec; the `study` of results.json says besides what its metric is, which its task says."""
    said = set(METRIC_KEYS) if fields.keys() >= set(METRIC_KEYS) else set[str]()
    return {name: value for name, value in fields.items() if name not in said}


def override(fields: dict[str, Any], changes: Sequence[str], recipe_fields: Collection[str]) -> None:
    """Apply `--set` texts such as `recipe.epochs=15` in place; a bare recipe field (`epochs=15`) is accepted."""
    for change in changes:
        dotted, equals, text = change.partition("=")
        path = dotted.strip().split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set: {shown(change)}; must be field=value, such as recipe.epochs=15")
        if path[0] in recipe_fields:
            path.insert(0, "recipe")
        _put(fields, path, _value(path, text, f"--set {short(dotted)}"))


def _value(path: Sequence[str], text: str, where: str) -> Any:
    """What a `--set` text stands for: YAML, and of a field that holds a list also its entries alone, `a,b` or `a`."""
    bare = text.strip()
    is_list = bare.startswith("[")
    is_whole = bare in ("", "null") or is_list or (bare.startswith("{") and path[-1] == "sparsities")
    are_entries = not is_whole and _holds_list(path)
    if (is_list or are_entries) and _EMPTY_ENTRY.search(_QUOTED.sub("x", f"[{bare}]")):
        raise ConfigError(f"{where}: {shown(bare)} has an empty entry; must be one entry, or a list such as a,b")
    return read_yaml(f"[{text}]" if are_entries else text, where)


def _holds_list(path: Sequence[str]) -> bool:
    """Whether the spec's field of this path is a list."""
    found: Any = Spec
    for name in path:
        if not (isinstance(found, type) and issubclass(found, BaseModel) and name in found.model_fields):
            return False
        found = found.model_fields[name].annotation
    return any(get_origin(part) is tuple for form in (found, *get_args(found)) for part in (form, *get_args(form)))


def _put(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, name in enumerate(path[:-1], start=1):
        inner = fields.get(name)
        if inner is not None and not isinstance(inner, Mapping):
            whole, upto = short(".".join(path)), short(".".join(path[:depth]))
            raise ConfigError(f"{whole}: '{upto}' is {shown(inner)}, not a mapping; set {upto} as a whole")
        fields[name] = dict(inner or {})
        fields = fields[name]
    fields[path[-1]] = value


def load_spec(source: SpecSource = None, overrides: Sequence[str] = (), scale: float | None = None) -> Spec:
    """Read a spec from a preset's name, a YAML file or a mapping (None: the preset `quick`), then `--set` overrides.

    A Spec to which nothing is changed is returned as it is.

    `scale`, or the field of that name, multiplies epochs at equal κ before the overrides apply
    (docs/explanation/kappa.md). Raises ConfigError, one line, for anything that is not right. The model and the data
    are looked at by `plan`, or here where there is a scale, since the steps of an epoch must then be known.
    """
    if isinstance(source, Spec) and not overrides and scale is None:
        return source
    return _validated(settled_fields(read_fields(source), overrides, scale, is_papers(source)))


def is_papers(source: SpecSource) -> bool:
    """Whether a spec's source is a preset of the paper's."""
    return isinstance(source, str) and source in presets.PAPER


def settled_fields(
    fields: dict[str, Any], overrides: Sequence[str], scale: float | None, papers: bool = False
) -> dict[str, Any]:
    """The fields of a spec with `--set` overrides applied and its scale resolved, so that it is not applied again.

    Overrides are of the scaled study, and a weight decay among them stays as it is. One of the paper's presets, scaled
    down, holds out training images unless they say otherwise.
    """
    changed = dict(fields)
    override(changed, overrides, RecipeSpec.model_fields)
    written = changed.pop("scale", None)
    asked = written if scale is None else scale
    fields = {name: value for name, value in fields.items() if name != "scale"}
    if asked is None:
        return changed
    factor, base = require_scale(asked), _validated(fields)
    found = scaled_times(fields, base, factor)
    override(found, overrides, RecipeSpec.model_fields)
    if papers and factor < 1 and isinstance(arguments := found.get("data_args") or {}, Mapping):
        found["data_args"] = {"validation": VALIDATION, **arguments}
    return _at_equal_kappa(found, base, overrides) | {"scaled": record(base, factor)}


def _at_equal_kappa(fields: dict[str, Any], base: Spec, overrides: Sequence[str]) -> dict[str, Any]:
    """The scaled fields with the κ of `base`, unless the weight decay is set; its reference has done its work."""
    found = {name: value for name, value in fields.items() if name not in ("scale", "reference_steps")}
    given: dict[str, Any] = {}
    override(given, overrides, RecipeSpec.model_fields)
    whole = _validated(found)
    if "weight_decay" not in (given.get("recipe") or {}):
        found["recipe"] = found["recipe"] | {"weight_decay": kept_weight_decay(base, whole)}
    return found


def _validated(fields: dict[str, Any]) -> Spec:
    require_input_limits(fields)
    try:
        return Spec.model_validate(fields)
    except ValidationError as error:
        raise config_error(error) from error
