"""The layout of a store (docs/store.md) and reading from it: every read is compared with the checksum of the write."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from prunetune.errors import DamageError, RequestError
from prunetune.run.disk import json_bytes
from prunetune.sparsity.mask import Mask
from prunetune.train.recipe import Point

STORE_VERSION = 1
MARKER, MANIFEST = "prunetune-store.json", "manifest.json"
STEP, METRICS, STATE, MASK = "step.json", "metrics.json", "state.safetensors", "mask.safetensors"


class Shelves:
    """Finished steps under one folder, each under its key, to be read.

    Raises RequestError when the path is no folder, or was written by a newer prunetune. A path where nothing is yet is
    an empty store.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()
        self._check_version()

    def folder(self, key: str) -> Path:
        """Where a step's files lie."""
        return self.root.joinpath("steps", key[:2], key)

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are stored, damaged ones too, in order."""
        folders = self.root.glob("steps/[0-9a-f][0-9a-f]/*")
        yield from sorted(path.name for path in folders if path.name.startswith(path.parent.name))

    def has(self, key: str, points: Collection[Point] = ()) -> bool:
        """Whether the step is stored with its states at these points. Looks at its list of files only: see `check`."""
        try:
            found = self.manifest(key)
        except (KeyError, DamageError):
            return False
        # What diverged is no start for anything, and it ended before some of its moments came.
        return found["diverged"] or all(state_file(point) in found["files"] for point in points)

    def manifest(self, key: str) -> dict[str, Any]:
        """The step's list of files with checksums, its inputs, its environment and the seconds it took.

        KeyError when the step is not stored; DamageError when the list is not what was written.
        """
        try:
            found = json.loads((self.folder(key) / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            if self.folder(key).exists():
                raise DamageError(f"store: {key[:12]}: {MANIFEST} is missing") from error
            raise KeyError(key) from error
        except (OSError, ValueError) as error:
            raise DamageError(f"store: {key[:12]}: {MANIFEST} cannot be read") from error
        if not isinstance(found, dict) or found.pop("sha256", None) != digest_bytes(json_bytes(found)):
            raise DamageError(f"store: {key[:12]}: {MANIFEST} is not what was written")
        return found

    def metrics(self, key: str) -> dict[str, Any]:
        """What the step measured."""
        return json.loads(self.read(key, METRICS))

    def state(self, key: str, at: Point | None = None) -> dict[str, Tensor]:
        """The network state that the step left behind, or a training's at an earlier moment; names sorted."""
        return _tensors(self.read(key, state_file(at)))

    def mask(self, key: str) -> Mask:
        """The mask that a Prune step chose."""
        return Mask(_tensors(self.read(key, MASK)))

    def read(self, key: str, name: str) -> bytes:
        """One file's content. KeyError when it was never stored, DamageError when it is not what was written."""
        return self._read(key, name, self.manifest(key)["files"][name])

    def _read(self, key: str, name: str, listed: Mapping[str, Any]) -> bytes:
        """A file whose size and checksum are known."""
        try:
            content = (self.folder(key) / name).read_bytes()
        except OSError as error:
            raise DamageError(f"store: {key[:12]}: {name} cannot be read: {error.strerror}") from error
        if len(content) != listed["size"]:
            raise DamageError(f"store: {key[:12]}: {name} has {len(content)} bytes; {listed['size']} were written")
        if digest_bytes(content) != listed["sha256"]:
            raise DamageError(f"store: {key[:12]}: {name} is not what was written (checksum)")
        return content

    def check(self, key: str) -> None:
        """Read all files of a step; DamageError when one is not what was written. Does nothing when it is absent."""
        if not self.folder(key).exists():
            return
        files = self.manifest(key)["files"]
        for name, listed in files.items():
            self._read(key, name, listed)
        if files[STEP]["sha256"] != key:
            raise DamageError(f"store: {key[:12]}: {STEP} describes another step")

    def stale_input(self, key: str) -> str | None:
        """The first input of a stored step that is stored otherwise now than when the step read it, else None."""
        for name, digest in self.manifest(key)["inputs"].items():
            parent, _, file = name.partition("/")
            try:
                if self.manifest(parent)["files"][file]["sha256"] != digest:
                    return name
            except (KeyError, DamageError):
                continue  # gone or damaged is not changed: it is made again first, and compared then
        return None

    def _check_version(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"store: '{self.root}' is a file; it must be a folder")
        marker = self.root / MARKER
        if not marker.exists():
            return
        try:
            version = int(json.loads(marker.read_bytes())["schema_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"store: '{marker}' cannot be read; is this the folder of a store?") from error
        if version > STORE_VERSION:
            raise RequestError(
                f"store: '{self.root}' has schema version {version}; this prunetune knows {STORE_VERSION}: update it"
            )


def state_file(at: Point | None) -> str:
    """The name of the file with a step's final state, or with its state at a moment."""
    return STATE if at is None else f"state@{at}.safetensors"


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The order in which safetensors hands out the names changes from one call to the next."""
    return dict(sorted(safetensors.torch.load(content).items()))


def digest_bytes(content: bytes) -> str:
    """SHA-256 in 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
