"""Which studies the steps of a store belong to, as their runs write it down; and removing what only one of them needs.

A study is a file `studies/NAME-DIGEST.json`: its name, and every step's key with what the step is in that study.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prunetune.errors import ConfigError, CorruptionError, shown, unknown
from prunetune.store.backend import Backend
from prunetune.store.layout import StoreReader, folder_of, is_key, is_object, json_bytes
from prunetune.store.leases import Leases
from prunetune.store.maintenance import Leftover

FOLDER = "studies"
KIND, VERSION = "prunetune study", 1
_FILE = re.compile(r"\w[\w.-]*-[0-9a-f]{8}\.json")


@dataclass(frozen=True)
class StoredStudy:
    """A study that ran with a store: its name, the digest of its spec, and its steps, some not yet done perhaps."""

    name: str
    digest: str  # eight digits
    steps: Mapping[str, str]  # key -> `ticket iterative 50.0% lr 0.1 seed 0`

    @property
    def path(self) -> str:
        """Its file, from the store's root."""
        return f"{FOLDER}/{self.name}-{self.digest}.json"

    def __str__(self) -> str:
        return f"{self.name}-{self.digest}"


def note_study(backend: Backend, study: StoredStudy) -> None:
    """Write down which steps are a study's; those that its file lists already stay in it."""
    before = _read(backend, study.path)
    steps = {**(before.steps if before else {}), **study.steps}
    if before is None or steps != before.steps:
        content: dict[str, Any] = {"kind": KIND, "schema_version": VERSION, "name": study.name, "steps": steps}
        backend.put(study.path, json_bytes(content))


def studies_in(backend: Backend) -> list[StoredStudy]:
    """The studies of a store, in order; files of another form are passed over."""
    paths = (f"{FOLDER}/{name}" for name in sorted(backend.files_in(FOLDER)) if _FILE.fullmatch(name))
    return [study for path in paths if (study := _read(backend, path))]


def _read(backend: Backend, path: str) -> StoredStudy | None:
    try:
        found: object = json.loads(backend.get(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not is_object(found) or (found.get("kind"), found.get("schema_version")) != (KIND, VERSION):
        return None
    name, _, digest = path.removeprefix(f"{FOLDER}/").removesuffix(".json").rpartition("-")
    steps = found.get("steps")
    if found.get("name") != name or not is_object(steps):
        return None
    return StoredStudy(name, digest, {key: str(label) for key, label in steps.items() if is_key(key)})


def places(studies: Sequence[StoredStudy]) -> dict[str, tuple[str, str]]:
    """Key -> the names of the studies that a step belongs to, and what it is in the first that says."""
    names: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for study in studies:
        for key, label in study.steps.items():
            names.setdefault(key, []).append(study.name)
            if label:
                labels.setdefault(key, label)
    return {key: (", ".join(dict.fromkeys(found)), labels.get(key, "")) for key, found in names.items()}


@dataclass(frozen=True)
class Removal:
    """What goes with a study: its files, and of its stored steps those that nothing else needs."""

    studies: tuple[StoredStudy, ...]
    keys: tuple[str, ...]
    kept: Mapping[str, str]  # key -> who needs the step

    def leftovers(
        self, store: StoreReader, backend: Backend, leases: Leases, drop: Callable[[str], int]
    ) -> Iterator[Leftover]:
        """What would be removed, and how: steps by `drop`, and the studies' files last.

        A step that a process has taken by then stays, and so does then the file that lists it.
        """
        gone: set[str] = set()

        def remove_step(key: str) -> int:
            if not leases.take(key):
                return 0
            try:
                freed = drop(key)
                gone.add(key)
                return freed
            finally:
                leases.release(key)

        def forget(study: StoredStudy) -> int:
            return backend.remove(study.path) if gone.issuperset(self.keys) else 0

        labels = places(self.studies)
        for key in self.keys:
            yield Leftover(folder_of(key), _size(store, key), labels[key][1] or "step", partial(remove_step, key))
        for study in self.studies:
            yield Leftover(study.path, backend.size(study.path), "list of its steps", partial(forget, study))


def removal(store: StoreReader, studies: Sequence[StoredStudy], name: str, leases: Leases) -> Removal:
    """What goes with the studies of a name, or with the one whose name and digest are given.

    A step stays where another study lists it, or where a step that stays was made from it. ConfigError for a study
    that there is not, and for one that a process is at.
    """
    asked = [study for study in studies if name in (study.name, str(study))]
    if not asked:
        if not studies:
            raise ConfigError(f"--study: {shown(name)}; this store lists no study: they are listed from version 0.3 on")
        raise unknown("--study", name, sorted({study.name for study in studies}))
    own = {key for study in asked for key in study.steps}
    busy = leases.at_studies([study.path for study in asked])
    if busy := busy or next((key for key in sorted(own) if leases.is_alive(key)), None):
        raise ConfigError(f"--study: '{name}' is under way: {leases.story(busy)}; let it end first")
    listed = places([study for study in studies if study not in asked])
    kept = {key: names for key, (names, _) in listed.items() if key in own}
    stored = list(store.stored())
    others = [key for key in stored if key not in own or key in kept]
    while others:
        key = others.pop()
        for parent in _inputs(store, key):
            if parent in own and parent not in kept:
                kept[parent] = kept.get(key) or "a step of no study that is listed"
                others.append(parent)
    going = tuple(key for key in stored if key in own and key not in kept)
    return Removal(tuple(asked), going, {key: kept[key] for key in stored if key in kept})


def _inputs(store: StoreReader, key: str) -> set[str]:
    """The steps that a stored one was made from."""
    try:
        return {name.partition("/")[0] for name in store.manifest(key)["inputs"]}
    except (KeyError, CorruptionError):
        return set()


def _size(store: StoreReader, key: str) -> int:
    try:
        return sum(file["size"] for file in store.manifest(key)["files"].values())
    except (KeyError, CorruptionError):
        return 0
