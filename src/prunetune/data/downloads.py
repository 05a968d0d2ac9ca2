"""Data sets made of files with published checksums: found on this machine, or downloaded whole and verified."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prunetune.core.files import locked, user_cache
from prunetune.data.dataset import OFFICIAL, Dataset, Source
from prunetune.errors import ConfigError

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without an answer


def cache_folders() -> tuple[Path, ...]:
    """Where downloads are looked for; they are kept in the first: $PRUNETUNE_DATA, else `data` in the user's cache.

    Up to version 0.2 they were kept in ~/.cache wherever $XDG_CACHE_HOME was, and are still found there.
    """
    if named := os.environ.get("PRUNETUNE_DATA"):
        return (Path(named).expanduser(),)
    return tuple(dict.fromkeys((user_cache() / "data", Path.home() / ".cache" / "prunetune" / "data")))


def checksum(content: bytes, published: str) -> str:
    """Hexadecimal digest of `content` by the algorithm of a published one: MD5 (32 digits) or SHA-256 (64)."""
    hasher = _hasher(published)
    hasher.update(content)
    return hasher.hexdigest()


def digest_files(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents of files, in the order of their names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def download(url: str, target: Path, published: str, what: str) -> None:
    """Fetch `url` to `target`, which appears only once its checksum has been found right.

    One process downloads while others wait. ConfigError, naming `what`, the address and the place to put the file by
    hand, when the network, the folder or the content is not as it must be.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                _stream(url, target, published)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it carries the connection
        raise ConfigError(
            f"data: {what} is not on this machine and downloading {url} failed ({error}); "
            f"put the file at {target}, or name its folder with data_args.root"
        ) from error


def _stream(url: str, target: Path, published: str) -> None:
    part = target.with_name(f".{target.name}.{os.urandom(8).hex()}.part")
    hasher = _hasher(published)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as file:
            while chunk := response.read(CHUNK):
                hasher.update(chunk)
                file.write(chunk)
        if hasher.hexdigest() != published:
            raise OSError(f"wrong checksum {hasher.hexdigest()}, published is {published}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _hasher(published: str) -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False) if len(published) == 32 else hashlib.sha256()


class Published(Source):
    """A source whose content is a handful of named files; the published checksums tell official content from other.

    A folder that the user names may hold other content of the same format (a re-encoded copy, a part): it is read,
    pinned by its own digest and marked by a note. An archive, a download, and whatever is found without being named,
    must be official.
    """

    options = MappingProxyType({"root": str})
    official_order = True
    name: str
    expected: str  # what a folder must hold, in words
    checksums: Mapping[str, str]  # name to published MD5 or SHA-256 of the content that `files` returns under it
    system_folders: tuple[Path, ...] = ()  # where packages of the operating system put the files
    cache_name = ""  # folder within the cache

    @abstractmethod
    def files(self, folder: Path) -> dict[str, bytes]:
        """Contents found in `folder`, by name: all of `checksums`, or fewer where some are missing."""

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Download the official content, so that `files(folder)` finds it."""

    @abstractmethod
    def decode(self, files: Mapping[str, bytes]) -> Dataset:
        """Read images and labels; ConfigError naming the file that is damaged."""

    def digest(self, root: str = "", **options: Any) -> str:
        """OFFICIAL when the checksums are the published ones or no file is there; else SHA-256 of the content."""
        files = self._named(root) if root else self._unnamed()
        return self._digest(files) if files else OFFICIAL

    def read(self, root: str = "", **options: Any) -> tuple[Dataset, str]:
        """Find or download, verify and decode."""
        files = self._named(root) if root else self._unnamed() or self._download()
        if not files:
            raise ConfigError(f"data_args.root: '{root}' holds no {self.name}; expected there: {self.expected}")
        digest, data = self._digest(files), self.decode(files)
        if digest == OFFICIAL:
            return replace(data, official=True), digest
        counts = f"{len(data.train_labels)} training and {len(data.test_labels)} test images"
        return replace(
            data, note=f"not the official {self.name} ({counts}): checksums differ from the published"
        ), digest

    def _named(self, root: str) -> dict[str, bytes]:
        files = self._files(Path(root))
        if files and (missing := sorted(set(self.checksums) - set(files))):
            raise ConfigError(f"data_args.root: '{root}' holds no {missing[0]}; expected there: {self.expected}")
        return files

    def _unnamed(self) -> dict[str, bytes]:
        for folder in (*self.system_folders, *(cache / self.cache_name for cache in cache_folders())):
            files = self._files(folder)
            if files.keys() == self.checksums.keys():
                if self._digest(files) != OFFICIAL:
                    raise ConfigError(f"data: {self.name} in {folder} is damaged (wrong checksum); delete it")
                return files
        return {}

    def _download(self) -> dict[str, bytes]:
        self.fetch(cache_folders()[0] / self.cache_name)
        return self._unnamed()

    def _files(self, folder: Path) -> dict[str, bytes]:
        try:
            return self.files(folder)
        except OSError as error:
            raise ConfigError(f"data: {self.name} cannot be read: {error}") from error

    def _digest(self, files: Mapping[str, bytes]) -> str:
        official = all(checksum(files[name], published) == published for name, published in self.checksums.items())
        return OFFICIAL if official else digest_files(files)
