"""Data as a user's callable returns them in a mapping: parts to train on and to test, of examples of any kind."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from prunetune.data.dataset import ExampleSets
from prunetune.data.examples import Batch, Examples, TensorExamples, leaves
from prunetune.data.streamed import Collate, StreamedExamples, as_batch
from prunetune.errors import ConfigError, short, shown, unknown
from prunetune.sparsity.model_state import digest_tensors

PARTS = ("train", "test", "validation")
OTHERS = ("collate", "version", "outputs", "workers")
WORKERS = 2  # processes that read examples ahead, where the mapping says nothing


def from_mapping(found: Mapping[Any, Any], name: str) -> tuple[ExampleSets, str]:
    """The data that a mapping describes, and their digest.

    A part is a map-style data set, a DataLoader (its data set and its collate function count), a pair (inputs, targets)
    of nests of tensors or arrays, or a mapping of such with the targets under `labels`. `collate` makes a batch of a
    list of examples, `version` stands for content that is too large to be read for a digest, `outputs` is the number of
    outputs of a network where the targets shall not be read through for it, `workers` how many processes read ahead.
    ConfigError for what is not as it must be.
    """
    settings = _settings(found, name)
    made = {part: _examples(found[part], f"{name}: {part}", settings) for part in PARTS if found.get(part) is not None}
    _require_alike(made, name)
    held = made.get("validation") or made["train"].subset(torch.arange(0))
    sets = ExampleSets(name, made["train"], made["test"], held, settings.outputs, _note(settings.version))
    return sets, _digest(sets, settings.version)


@dataclass(frozen=True)
class _Settings:
    """What a mapping says beside its parts."""

    collate: Collate | None
    version: str | None
    outputs: int | None
    workers: int


def _settings(found: Mapping[Any, Any], name: str) -> _Settings:
    """Checked; ConfigError for a part that is missing or not known too."""
    for key in found:
        if key not in (*PARTS, *OTHERS):
            raise unknown(f"data: '{name}'", key, (*PARTS, *OTHERS))
    for part in PARTS[:2]:
        if found.get(part) is None:
            raise ConfigError(f"data: '{name}' returned no '{part}'; want a mapping with 'train' and 'test'")
    wanted: dict[str, tuple[Callable[[Any], Any], str]] = {
        "collate": (lambda value: callable(value), "a callable that takes a list of examples"),
        "version": (lambda value: isinstance(value, str) and value, "a text, changed with the content"),
        "outputs": (lambda value: type(value) is int and value > 0, "a whole number, 1 or more"),
        "workers": (lambda value: type(value) is int and value >= 0, "a whole number"),
    }
    for key, (fits, right) in wanted.items():
        if found.get(key) is not None and not fits(found[key]):
            raise ConfigError(f"data: '{name}': {key} is {shown(found[key])}; want {right}")
    workers = found.get("workers")
    return _Settings(
        collate=found.get("collate"),
        version=found.get("version"),
        outputs=found.get("outputs"),
        workers=WORKERS if workers is None else workers,
    )


def _examples(value: Any, where: str, settings: _Settings) -> Examples:
    """One part, of whatever kind; `where` leads errors."""
    collate = settings.collate
    if isinstance(value, DataLoader):
        own = value.collate_fn if value.collate_fn is not torch.utils.data.default_collate else None
        value, collate = value.dataset, collate or own
    if isinstance(value, TensorDataset) and len(value.tensors) == 2 and collate is None:
        value = value.tensors
    if isinstance(value, tuple | list | Mapping):
        return _in_memory(value, where)
    if isinstance(value, IterableDataset) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        what = "a data set with a length, whose examples have places, or a pair (inputs, targets)"
        raise ConfigError(f"data: {where} is a {type(value).__name__}; want {what}")
    examples = StreamedExamples(where, value, torch.arange(_length(value, where)), collate, settings.workers)
    _require_tensors(examples.gather(torch.arange(1)), where)
    return examples


def _length(value: Any, where: str) -> int:
    try:
        count = len(value)
    except Exception as error:  # the user's code: whatever it raises is told in one line, the cause chained
        raise ConfigError(f"data: {where} has no length: {type(error).__name__}: {error}") from error
    if not count:
        raise ConfigError(f"data: {where} has no example")
    return count


def _in_memory(value: Any, where: str) -> TensorExamples:
    batch = as_batch(value, where)
    _require_tensors(batch, where)
    counts = {len(tensor) for tensor in leaves(tuple(batch))}
    if len(counts) != 1 or 0 in counts:
        listed = ", ".join(map(str, sorted(counts)))
        raise ConfigError(f"data: {where}: its tensors have {listed} examples; all must have as many, one or more")
    return TensorExamples(*batch)


def _require_tensors(batch: Batch, where: str) -> None:
    for part, nest in zip(batch._fields, batch, strict=True):
        found = leaves(nest)
        odd = next((leaf for leaf in found if not isinstance(leaf, Tensor) or not leaf.dim()), None)
        if odd is not None or not found:
            what = "hold nothing" if odd is None else f"hold a {type(odd).__name__}: {shown(odd)}"
            raise ConfigError(
                f"data: {where}: {part} {short(what)}; want tensors whose first dimension counts examples"
            )
        if any(leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()) for leaf in found):
            raise ConfigError(f"data: {where}: {part} are not all finite; want finite numbers")


def _require_alike(made: Mapping[str, Examples], name: str) -> None:
    """Refuse parts whose inputs or targets are nests of different shapes."""
    first = _form(made["train"])
    for part, examples in made.items():
        if _form(examples) != first:
            raise ConfigError(f"data: '{name}': an example of {part} is another nest of tensors than one of train")


def _form(examples: Examples) -> pytree.TreeSpec:
    return pytree.tree_structure(tuple(examples.gather(torch.arange(1))))


def _note(version: str | None) -> str:
    return (
        "" if version is None else f"known by the version that they declare, '{short(version)}', not by their content"
    )


def _digest(sets: ExampleSets, version: str | None) -> str:
    """SHA-256 over all examples of all parts, in order, or of the declared version and the counts."""
    digest = hashlib.sha256()
    parts = {"train": sets.train, "test": sets.test, "validation": sets.validation}
    counts = {part: len(examples) for part, examples in parts.items()}
    digest.update(json.dumps([counts, sets.outputs, version], sort_keys=True).encode())
    for examples in () if version is not None else parts.values():
        for batch in examples.in_order():
            paths, _ = pytree.tree_flatten_with_path(tuple(batch))
            digest.update(digest_tensors({pytree.keystr(path): tensor for path, tensor in paths}).encode())
    return digest.hexdigest()
