"""A store at a URL that is worked with through a folder of this machine: read from there, and written there first."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from prunetune.core.files import locked, publish_folder, replace_file
from prunetune.errors import ConfigError, CorruptionError, InvariantError
from prunetune.store import maintenance as upkeep
from prunetune.store.backend import writing
from prunetune.store.layout import MANIFEST, MARKER, digest_bytes, read_manifest, state_file
from prunetune.store.leases import EXPIRY, Leases
from prunetune.store.remote import Remote, RemoteLeases
from prunetune.store.store import Store
from prunetune.training.recipe import Point

SHARED = "shared"  # an empty file for each step that is known to be at the URL as it is here


def user_cache() -> Path:
    """The folder of the user's cache that is ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunetune"


def open_store(where: str | Path) -> Store:
    """The store in a folder or at a URL; ConfigError when there cannot be one."""
    return CachedStore(str(where)) if "://" in str(where) else Store(where)


class CachedStore(Store):
    """The store at a URL, and a folder of the user's cache with what this machine has read and made of it.

    A step is fetched whole when it is first read, and compared with its checksums; what is made here goes there when it
    is done, or with the next `prepare` when that failed. The folder can be deleted at any time.
    """

    def __init__(self, url: str) -> None:
        self.remote = Remote(url)
        self._cut = False  # whether the last fetch failed: then what is here is all there is, for a report of it
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.remote.url)[:60]
        super().__init__(user_cache() / "remote" / f"{readable}-{digest_bytes(self.remote.url.encode())[:8]}")

    def prepare(self) -> None:
        """Create the store, or prove that it can be written to; and bring there what was made here and is not there.

        ConfigError when one of them fails; CorruptionError when another machine was first, with other bytes.
        """
        super().prepare()
        (self.root / SHARED).mkdir(exist_ok=True)
        self.remote.prepare()
        for key in list(self._unshared()):
            try:
                self.share(key)
            except CorruptionError:
                super().quarantine(key)
            except InvariantError as error:
                raise CorruptionError(f"{error}; what was made here is put aside: give the command again") from error

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are at the URL."""
        return self.remote.stored()

    def has(self, key: str, points: Collection[Point] = ()) -> bool:
        """Whether the step is stored, here or there, with its states at these points."""
        if self.exists(key) and super().has(key, points):
            return True
        names = set() if self._cut else self.remote.names(key)
        if MANIFEST not in names:
            return False
        if not self.exists(key) and names.issuperset(map(state_file, points)):
            return True
        with contextlib.suppress(CorruptionError):
            self._fetch(key)
        return super().has(key, points)

    def manifest(self, key: str) -> dict[str, Any]:
        """The step's list of files; the step is fetched for it if need be."""
        if not self.exists(key) and not self._cut and self.remote.exists(key):
            self._fetch(key)
        return super().manifest(key)

    def check(self, key: str) -> None:
        """Bring the step here and read all its files; CorruptionError when one is not what was written there."""
        if self.remote.exists(key) and self.remote.names(key) - self.names(key):
            self._fetch(key)
        try:
            super().check(key)
        except CorruptionError:
            if not self.remote.exists(key):
                raise
            super().quarantine(key)  # a copy
            self._fetch(key)
            super().check(key)

    def share(self, key: str) -> None:
        """Bring a step to the URL. InvariantError when it is there with other bytes, and this one is put aside then."""
        about = self.manifest(key)
        files = {name: self.read(key, name) for name in about.pop("files")}
        try:
            self.remote.publish(key, about, files)
        except InvariantError:
            super().quarantine(key)
            raise
        except ConfigError as error:
            raise ConfigError(f"{error}; what was made is kept here, and brought there by the next run") from error
        self._mark(key)

    def claims(self, expiry: float = EXPIRY) -> RemoteLeases:
        """This process's claims at the URL."""
        return RemoteLeases(self.remote, self.root, expiry)

    def quarantine(self, key: str) -> Path:
        """Take a step away from the URL, and put what it was aside here; returns where."""
        taken = self.remote.take_out(key)
        if self.exists(key):
            return super().quarantine(key)
        target = self.aside(key)
        with writing(target):
            publish_folder(target, taken)
        return target

    def ls(self) -> Iterator[upkeep.Entry]:
        """What is stored at the URL, a step each."""
        return upkeep.entries(self.remote)

    def verify(self) -> Iterator[upkeep.Problem]:
        """Read everything at the URL; every step that is not what was written, and why."""
        return upkeep.problems(self.remote)

    def leftovers(self, claims: Leases) -> Iterator[upkeep.Leftover]:
        """What killed processes left behind, here and there, and here what was put aside."""
        yield from super().leftovers(claims)
        yield from self.remote.leftovers(claims)

    def require_marked(self) -> None:
        """ConfigError where there is anything at the URL, and no marker. The folder here is named by us."""
        if not self.remote.is_marked() and self.remote.paths(""):
            raise ConfigError(f"store: '{self.remote.url}' is no store, for it has no {MARKER}; nothing was changed")

    def _refuse_filled(self) -> None:
        """What lies in the folder here was fetched, or is what an earlier run made."""

    def _fetch(self, key: str) -> None:
        """Bring here what the step has there and not here; nothing when it is not there any more."""
        here = self._listed(key)
        try:
            content = self.remote.content(key, MANIFEST)
            listed = read_manifest(key, content)["files"]
            files = self.remote.fetch(key, {name: entry for name, entry in listed.items() if here.get(name) != entry})
        except FileNotFoundError:
            return
        except ConfigError:
            self._cut = True
            raise
        self._cut = False
        with writing(self.root):
            if not publish_folder(self.folder(key), {**files, MANIFEST: content}):
                with locked(self.root / ".lock"):
                    for name, new in {**files, MANIFEST: content}.items():
                        replace_file(self.folder(key) / name, new)
            self._mark(key)

    def _listed(self, key: str) -> dict[str, Any]:
        try:
            return super().manifest(key)["files"]
        except (KeyError, CorruptionError):
            return {}

    def _mark(self, key: str) -> None:
        (self.root / SHARED).mkdir(exist_ok=True)
        (self.root / SHARED / key).touch()

    def _unshared(self) -> Iterator[str]:
        """Steps made here of which it is not known that they are there as well, with all their files."""
        for key in super().stored():
            if not (self.root / SHARED / key).exists() or self.names(key) - self.remote.names(key):
                yield key
