"""From a spec's `data` and `data_args` to a Ref that pins the content, and from a Ref to the images."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from prunetune.core.references import Ref, is_callable_name, load_callable
from prunetune.data.dataset import DATA, OFFICIAL, Dataset, Facts, Source, TrainingData, check_dataset
from prunetune.data.function import Function
from prunetune.data.split import SPLIT_OPTIONS, checked_options, drawn_by_class, split, split_facts
from prunetune.errors import ConfigError, short, shown, unknown

HUB_PREFIX = "hf:"
TABLE_PREFIX = "csv:"
PLACES = {"imagefolder:": "folder", "folder:": "folder", TABLE_PREFIX: "file"}  # what follows a prefix
KEPT_SETS = 4  # data sets that a process keeps in memory


def identify(name: str, arguments: Mapping[str, Any] | None = None) -> Ref:
    """Resolve a registered name, a prefix with a place (`csv:FILE`), or `package.module:callable`, to one Ref.

    The Ref holds the arguments that change anything, the digest of the content (OFFICIAL for official content, also
    where the files are absent), and apart from those, and not part of any key, the folder `root` as an absolute path.
    ConfigError for an unknown name or argument, a wrong value, or a folder that is not as it must be.
    """
    given = dict(arguments or {})
    for prefix, what in PLACES.items():
        if not name.startswith(prefix):
            continue
        if "root" in given:
            raise ConfigError(f"data_args.root: '{name}' names its {what} already; leave root out")
        if name == prefix:
            raise ConfigError(f"data: '{name}' names no {what}; write {prefix}{'FILE' if what == 'file' else 'DIR'}")
        name, given["root"] = prefix.rstrip(":"), name.removeprefix(prefix)
    if name.startswith(HUB_PREFIX):
        name, given["repo"] = HUB_PREFIX.rstrip(":"), name.removeprefix(HUB_PREFIX)
    source = _source(name)
    _check(source, given)
    split_options = checked_options({key: given.pop(key) for key in SPLIT_OPTIONS if key in given})
    if not source.official_order:
        split_options = drawn_by_class(split_options)
    root = _absolute(given.pop("root")) if "root" in given else ""
    with _readable(name):
        digest = source.digest(**_call(root, given))
    ref = Ref.of(name, {**given, **split_options}, digest, root)
    if split_options:
        facts(ref)  # says now, and not in the middle of a study, that there are too few images, or of some class none
    return ref


def facts(ref: Ref) -> Facts:
    """Input shape, classes and counts of what `load_examples(ref)` returns; official content need not be present."""
    source = _source(ref.name)
    if source.facts is not None and ref.digest == OFFICIAL:
        return split_facts(source.facts, _split_options(ref))
    return Facts.of(load_examples(ref))


def load(ref: Ref) -> Dataset:
    """The images and labels that `ref` names, as `load_examples` says; ConfigError where its examples are others."""
    data = load_examples(ref)
    if not isinstance(data, Dataset):
        raise ConfigError(f"data: '{ref.name}' holds no images with a class each; read it by load_examples")
    return data


@lru_cache(maxsize=KEPT_SETS)
def load_examples(ref: Ref) -> TrainingData:
    """The examples that `ref` names, read once per process and shared: change no tensor of them.

    ConfigError when they cannot be had, are damaged, or are not those that `identify` saw (a Ref without a digest
    takes what there is).
    """
    options = {key: value for key, value in ref.kwargs.items() if key not in SPLIT_OPTIONS}
    with _readable(ref.name):
        data, digest = _source(ref.name).read(**_call(ref.root, options))
    if ref.digest and digest != ref.digest:
        raise ConfigError(
            f"data: '{ref.name}' is not what it was when the study was planned (content {digest[:12]}, "
            f"then {ref.digest[:12]}); its files must not change, and a callable must return the same every time"
        )
    if isinstance(data, Dataset):
        check_dataset(data, ref.name)
    return split(data, _split_options(ref))


def _source(name: str) -> Source:
    if name not in DATA and is_callable_name(name):
        return Function(load_callable(name, "data"), name)
    entry = DATA[name]
    return entry if isinstance(entry, Source) else Function(entry, name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"data: {shown(name)} cannot be read: {error}") from error


def _absolute(root: str) -> str:
    if not root:
        raise ConfigError("data_args.root: ''; want a folder")
    try:
        path = Path(root).expanduser().resolve()
        path.exists()  # refuses a name that no file system takes
    except (OSError, RuntimeError, ValueError) as error:  # the second: no such user's home
        raise ConfigError(f"data_args.root: {shown(root)}; want a folder: {error}") from error
    return str(path)


def _split_options(ref: Ref) -> dict[str, Any]:
    return {key: value for key, value in ref.kwargs.items() if key in SPLIT_OPTIONS}


def _call(root: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "root": root} if root else dict(options)


def _check(source: Source, given: Mapping[str, Any]) -> None:
    """ConfigError unless every argument is known to the source, of the right type and expressible in JSON."""
    for key, value in given.items():
        if key in SPLIT_OPTIONS:
            continue
        if key not in source.options and not source.any_options:
            raise unknown("data_args", key, {*source.options, *SPLIT_OPTIONS})
        wanted = str if key == "root" else source.options.get(key, object)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ConfigError(
                f"data_args.{short(key)}: {shown(value)}; want {'a folder' if key == 'root' else wanted.__name__}"
            )
        _check_json(key, value)


def _check_json(key: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data_args.{short(key)}: {shown(value)} is no JSON value: {error}") from error
