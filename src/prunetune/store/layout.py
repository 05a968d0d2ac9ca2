"""The layout of a store (docs/reference/store.md) and reading from it, compared with the checksums of the writes."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

import safetensors.torch
from torch import Tensor

from prunetune.errors import ConfigError, CorruptionError
from prunetune.sparsity.mask import Mask, unpacked
from prunetune.training.recipe import TrainingTime

STORE_VERSION = 2  # in the first, masks were bool tensors; they are read as well
KIND = "prunetune store"
MARKER, MANIFEST = "prunetune-store.json", "manifest.json"
_KEY = re.compile("[0-9a-f]{64}")
STEP, METRICS, STATE, MASK = "step.json", "metrics.json", "state.safetensors", "mask.safetensors"


class FileEntry(TypedDict):
    """A file's line in a step's manifest."""

    sha256: str  # 64 hexadecimal digits
    size: int  # bytes


class Manifest(TypedDict):
    """What `manifest.json` says of a step, its own checksum left out."""

    schema_version: int
    kind: str  # name of the step's class
    key: str
    diverged: bool
    inputs: dict[str, str]  # KEY/FILE -> checksum of what was read
    environment: dict[str, Any]
    seconds: float
    created: str
    files: dict[str, FileEntry]


class StoreReader(ABC):
    """Read-only view of finished steps, each under its key; subclasses provide storage."""

    @abstractmethod
    def stored(self) -> Iterator[str]:
        """The keys of all steps that are stored, damaged ones too, in order."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether anything is stored under a key, damaged or not."""

    @abstractmethod
    def names(self, key: str) -> Set[str]:
        """The names of the files that lie under a key, those under way left out."""

    @abstractmethod
    def content(self, key: str, name: str) -> bytes:
        """A file as it lies there; OSError when it cannot be read."""

    def has(self, key: str, points: Collection[TrainingTime] = ()) -> bool:
        """Whether the step is stored with its states at these points. Looks at its list of files only: see `check`."""
        try:
            found = self.manifest(key)
        except (KeyError, CorruptionError):
            return False
        # What diverged is no start for anything, and it ended before some of its moments came.
        return found["diverged"] or all(state_file(point) in found["files"] for point in points)

    def manifest(self, key: str) -> Manifest:
        """The step's list of files with checksums, its inputs, its environment and the seconds it took.

        KeyError when the step is not stored; CorruptionError when the list is not what was written.
        """
        try:
            content = self.content(key, MANIFEST)
        except FileNotFoundError as error:
            if self.exists(key):
                raise CorruptionError(f"store: {key[:12]}: {MANIFEST} is missing") from error
            raise KeyError(key) from error
        except OSError as error:
            raise CorruptionError(f"store: {key[:12]}: {MANIFEST} cannot be read") from error
        return read_manifest(key, content)

    def metrics(self, key: str, manifest: Manifest | None = None) -> dict[str, Any]:
        """What the step measured; a `manifest` that is at hand is not read again."""
        try:
            metrics = json.loads(self.read(key, METRICS, manifest))
        except (ValueError, RecursionError) as error:
            raise CorruptionError(f"store: {key[:12]}: {METRICS} cannot be read") from error
        if not is_object(metrics):
            raise CorruptionError(f"store: {key[:12]}: {METRICS} holds no measurements")
        return metrics

    def state(self, key: str, at: TrainingTime | None = None, manifest: Manifest | None = None) -> dict[str, Tensor]:
        """The network state that the step left behind, or a training's at an earlier moment; names sorted."""
        return _tensors(self.read(key, state_file(at), manifest))

    def mask(self, key: str, manifest: Manifest | None = None) -> Mask:
        """The mask that a Prune step chose."""
        return Mask(unpacked(self.read(key, MASK, manifest)))

    def read(self, key: str, name: str, manifest: Manifest | None = None) -> bytes:
        """One file's content. KeyError when it was never stored, CorruptionError when it is not what was written."""
        return self.read_listed(key, name, (manifest or self.manifest(key))["files"][name])

    def read_listed(self, key: str, name: str, entry: FileEntry) -> bytes:
        """One file's content, where its entry in the step's list is at hand."""
        try:
            content = self.content(key, name)
        except OSError as error:
            raise CorruptionError(f"store: {key[:12]}: {name} cannot be read: {error.strerror or error}") from error
        if len(content) != entry["size"]:
            raise CorruptionError(f"store: {key[:12]}: {name} has {len(content)} bytes; {entry['size']} were written")
        if digest_bytes(content) != entry["sha256"]:
            raise CorruptionError(f"store: {key[:12]}: {name} is not what was written (checksum)")
        return content

    def check(self, key: str) -> None:
        """Read all files of a step, if it is there; CorruptionError when one is not what was written."""
        if not self.exists(key):
            return
        files = self.manifest(key)["files"]
        for name, listed in files.items():
            self.read_listed(key, name, listed)
        if files[STEP]["sha256"] != key:
            raise CorruptionError(f"store: {key[:12]}: {STEP} describes another step")

    def stale_input(self, key: str) -> str | None:
        """The first input of a stored step that is stored otherwise now than when the step read it, else None."""
        return changed_input(self.manifest(key), self.manifest)


def changed_input(manifest: Manifest, of: Callable[[str], Manifest]) -> str | None:
    """The first input of a step that is stored otherwise now than when the step read it; `of` reads its parents'."""
    for name, digest in manifest["inputs"].items():
        parent, _, file = name.partition("/")
        try:
            if of(parent)["files"][file]["sha256"] != digest:
                return name
        except (KeyError, CorruptionError):
            continue  # gone or damaged is not changed: it is made again first, and compared then
    return None


def is_key(name: str) -> bool:
    """Whether a name is that of a step: 64 hexadecimal digits."""
    return _KEY.fullmatch(name) is not None


def folder_of(key: str) -> str:
    """Where a step's files lie within a store."""
    return f"steps/{key[:2]}/{key}"


def marker_bytes() -> bytes:
    """What makes a folder a store."""
    return json_bytes({"kind": KIND, "schema_version": STORE_VERSION})


def check_version(where: object, read: Callable[[], bytes]) -> None:
    """Refuse the marker of a newer store, and one that cannot be understood; FileNotFoundError where there is none."""
    try:
        found = json.loads(read())
        version = int(found["schema_version"])
        if found["kind"] != KIND:
            raise ValueError(found["kind"])
    except (FileNotFoundError, ConfigError):
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"store: '{where}/{MARKER}' cannot be read; is this the folder of a store?") from error
    if version > STORE_VERSION:
        raise ConfigError(
            f"store: '{where}' has schema version {version}; this prunetune knows {STORE_VERSION}: update it"
        )


def read_manifest(key: str, content: bytes) -> Manifest:
    """A step's list of files; CorruptionError when it is not what was written."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"store: {key[:12]}: {MANIFEST} cannot be read") from error
    if not is_object(found) or found.pop("sha256", None) != digest_bytes(json_bytes(found)):
        raise CorruptionError(f"store: {key[:12]}: {MANIFEST} is not what was written")
    if not _is_manifest(found):
        raise CorruptionError(f"store: {key[:12]}: {MANIFEST} is no list of files")
    if any(
        name != Path(name).name or not name.isprintable() for name in found["files"]
    ):  # somebody's who may write there, but not outside
        raise CorruptionError(f"store: {key[:12]}: {MANIFEST} names files of other folders")
    return found


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether what was read from JSON is an object; its names are texts then."""
    return isinstance(value, dict)


def _is_manifest(found: Mapping[str, object]) -> TypeGuard[Manifest]:
    """Whether it has the form that is written: somebody's own may carry a right checksum too."""
    files = found.get("files")
    return (
        is_object(files)
        and STEP in files
        and is_object(found.get("inputs"))
        and all(isinstance(found.get(name), str) for name in ("kind", "created"))
        and all(is_object(file) and type(file.get("size")) is int and "sha256" in file for file in files.values())
    )


def json_bytes(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def manifest_bytes(about: Mapping[str, Any], files: Mapping[str, FileEntry]) -> bytes:
    """A step's list of files, with what else is known about it and with its own checksum."""
    content: dict[str, Any] = {**about, "files": dict(files)}
    return json.dumps({**content, "sha256": digest_bytes(json_bytes(content))}, sort_keys=True, indent=1).encode()


def entry(content: bytes) -> FileEntry:
    """A file's line in that list."""
    return {"sha256": digest_bytes(content), "size": len(content)}


def state_file(at: TrainingTime | None) -> str:
    """The name of the file with a step's final state, or with its state at a moment."""
    return STATE if at is None else f"state@{at}.safetensors"


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The order in which safetensors hands out the names changes from one call to the next."""
    return dict(sorted(safetensors.torch.load(content).items()))


def digest_bytes(content: bytes) -> str:
    """SHA-256 in 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
