"""The store at a URL, worked with through a folder of this machine: written there first, and read from there."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prunetune.core.files import locked, publish_folder, replace_file
from prunetune.errors import ConfigError, CorruptionError, InvariantError
from prunetune.store import maintenance
from prunetune.store.backend import writing
from prunetune.store.layout import MANIFEST, FileEntry, Manifest, read_manifest, state_file
from prunetune.store.leases import EXPIRY, Leases
from prunetune.store.remote import AT_ONCE, FsspecBackend
from prunetune.store.store import Store, StoreWriter
from prunetune.training.recipe import TrainingTime

SHARED = "shared"  # an empty file for each step that is known to be at the URL as it is here


def open_store(where: str | Path) -> StoreWriter:
    """The store in a folder or at a URL; ConfigError when there cannot be one."""
    return CachedStore(str(where)) if "://" in str(where) else Store(where)


class CachedStore(StoreWriter):
    """The store at a URL (`remote`), and one in the user's cache (`local`) with what this machine has read and made.

    A step is fetched whole when it is first read, and compared with its checksums; what is made here goes there when it
    is done, or with the next `prepare` when that failed. The folder can be deleted at any time.
    """

    def __init__(self, url: str) -> None:
        self.remote = Store(FsspecBackend(url))
        self.local = Store(self.remote.root)
        self.root = self.local.root
        self._cut = False  # whether the last fetch failed: then what is here is all there is, for a report of it

    def prepare(self) -> None:
        """Create the store, or prove that it can be written to; and bring there what was made here and is not there.

        ConfigError when one of them fails; CorruptionError when another machine was first, with other bytes.
        """
        with writing(self.root):  # which is named by us: what lies there was fetched, or is what an earlier run made
            self.local.backend.prepare()
            (self.root / SHARED).mkdir(exist_ok=True)
        self.remote.prepare()
        for key in list(self._unshared()):
            try:
                self.share(key)
            except CorruptionError:
                self.local.quarantine(key)
            except InvariantError as error:
                raise CorruptionError(f"{error}; what was made here is put aside: give the command again") from error

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are at the URL."""
        return self.remote.stored()

    def exists(self, key: str) -> bool:
        """Whether a step is here, damaged or not."""
        return self.local.exists(key)

    def names(self, key: str) -> Set[str]:
        """The names of a step's files here."""
        return self.local.names(key)

    def content(self, key: str, name: str) -> bytes:
        """A file as it lies here."""
        return self.local.content(key, name)

    def has(self, key: str, points: Collection[TrainingTime] = ()) -> bool:
        """Whether the step is stored, here or there, with its states at these points."""
        if self.exists(key) and self.local.has(key, points):
            return True
        names: Set[str] = set() if self._cut else self.remote.names(key)
        if MANIFEST not in names:
            return False
        if not self.exists(key) and all(state_file(point) in names for point in points):
            return True
        with contextlib.suppress(CorruptionError):
            self._fetch(key)
        return self.local.has(key, points)

    def manifest(self, key: str) -> Manifest:
        """The step's list of files; the step is fetched for it if need be."""
        if not self.exists(key) and not self._cut and self.remote.exists(key):
            self._fetch(key)
        return self.local.manifest(key)

    def check(self, key: str) -> None:
        """Bring the step here and read all its files; CorruptionError when one is not what was written there."""
        if self.remote.exists(key) and self.remote.names(key) - self.names(key):
            self._fetch(key)
        try:
            self.local.check(key)
        except CorruptionError:
            if not self.remote.exists(key):
                raise
            self.local.quarantine(key)  # a copy
            self._fetch(key)
            self.local.check(key)

    def publish(self, key: str, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Store a step here; `share` brings it there."""
        self.local.publish(key, about, files)

    def share(self, key: str) -> None:
        """Bring a step to the URL. InvariantError when it is there with other bytes, and this one is put aside then."""
        about = self.manifest(key)
        files = {name: self.read(key, name) for name in about["files"]}
        try:
            self.remote.publish(key, about, files)
        except InvariantError:
            self.local.quarantine(key)
            raise
        except ConfigError as error:
            raise ConfigError(f"{error}; what was made is kept here, and brought there by the next run") from error
        self._mark(key)

    def leases(self, expiry: float = EXPIRY) -> Leases:
        """This process's leases at the URL."""
        return self.remote.leases(expiry)

    def quarantine(self, key: str) -> Path:
        """Take a step away from the URL, and what there is of it here; returns the folder with what it was."""
        if not self.exists(key):
            return self.remote.quarantine(key)
        if self.remote.exists(key):
            self.remote.quarantine(key)
        return self.local.quarantine(key)

    def home(self) -> Store:
        """The one at the URL."""
        return self.remote

    def verify(self) -> Iterator[maintenance.Problem]:
        """Read everything at the URL; every step that is not what was written, and why."""
        return self.remote.verify()

    def leftovers(self, leases: Leases) -> Iterator[maintenance.Leftover]:
        """What killed processes left behind, here and there, and here what was put aside."""
        return self.remote.leftovers(leases)

    def require_marked(self) -> None:
        """ConfigError where there is anything at the URL, and no marker. The folder here is named by us."""
        self.remote.require_marked()

    def _fetch(self, key: str) -> None:
        """Bring here what the step has there and not here; nothing when it is not there any more."""
        here = self._listed(key)
        try:
            manifest = self.remote.content(key, MANIFEST)
            listed = read_manifest(key, manifest)["files"]
            files = self._read_all(key, {name: entry for name, entry in listed.items() if here.get(name) != entry})
        except FileNotFoundError:
            return
        except ConfigError:
            self._cut = True
            raise
        self._cut = False
        files[MANIFEST] = manifest
        with writing(self.root):
            if not publish_folder(self.folder(key), files):
                with locked(self.root / ".lock"):
                    for name, content in files.items():
                        replace_file(self.folder(key) / name, content)
            self._mark(key)

    def _read_all(self, key: str, entries: Mapping[str, FileEntry]) -> dict[str, bytes]:
        """Files of a step at the URL, with their entries in its list; CorruptionError when one is not what was
        written."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = {name: pool.submit(self.remote.read_listed, key, name, listed) for name, listed in entries.items()}
            return {name: content.result() for name, content in read.items()}

    def _listed(self, key: str) -> dict[str, FileEntry]:
        try:
            return self.local.manifest(key)["files"]
        except (KeyError, CorruptionError):
            return {}

    def _mark(self, key: str) -> None:
        (self.root / SHARED).mkdir(exist_ok=True)
        (self.root / SHARED / key).touch()

    def _unshared(self) -> Iterator[str]:
        """Steps made here of which it is not known that they are there as well, with all their files."""
        for key in self.local.stored():
            if not (self.root / SHARED / key).exists() or self.names(key) - self.remote.names(key):
                yield key
