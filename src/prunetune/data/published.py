"""Data sets that are made of files with published checksums, found on this machine or downloaded."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prunetune.data.base import OFFICIAL, Dataset, Source
from prunetune.data.fetch import cache_folder, checksum, digest_files
from prunetune.errors import ConfigError


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
        for folder in (*self.system_folders, self._cache):
            files = self._files(folder)
            if files.keys() == self.checksums.keys():
                if self._digest(files) != OFFICIAL:
                    raise ConfigError(f"data: {self.name} in {folder} is damaged (wrong checksum); delete it")
                return files
        return {}

    @property
    def _cache(self) -> Path:
        return cache_folder() / self.cache_name

    def _download(self) -> dict[str, bytes]:
        self.fetch(self._cache)
        return self._unnamed()

    def _files(self, folder: Path) -> dict[str, bytes]:
        try:
            return self.files(folder)
        except OSError as error:
            raise ConfigError(f"data: {self.name} cannot be read: {error}") from error

    def _digest(self, files: Mapping[str, bytes]) -> str:
        official = all(checksum(files[name], published) == published for name, published in self.checksums.items())
        return OFFICIAL if official else digest_files(files)
