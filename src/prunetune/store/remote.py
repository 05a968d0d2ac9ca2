"""The files of a store at a URL: s3://bucket/folder, and what else fsspec reaches.

There are no folders that appear at once, so a step's manifest is written last, and exclusively: with it the step is
there, without it nothing is.
"""

# fsspec ships no types; `_FileSystem` says what is used of it.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from prunetune.core.files import create_file, publish_folder, replace_file, user_cache
from prunetune.errors import ConfigError
from prunetune.store.backend import LEASE_FOLDER
from prunetune.store.layout import MANIFEST, MARKER, check_version, digest_bytes, folder_of, marker_bytes

PAUSES = (0.5, 2.0, 8.0)  # seconds before a request is tried again
AT_ONCE = 8  # requests for the files of a step
_STEP_FILE = re.compile(r"steps/(?P<shelf>[0-9a-f]{2})/(?P<key>(?P=shelf)[0-9a-f]{62})/(?P<name>[^/.][^/]*)")
_OURS = re.compile(r"step\.json|metrics\.json|mask\.safetensors|state(@[^/]+)?\.safetensors")

T = TypeVar("T")


class _FileSystem(Protocol):
    """What is used of fsspec's file systems; their methods raise errors of their own beside OSError."""

    def invalidate_cache(self) -> None: ...

    def cat_file(self, path: str) -> bytes: ...

    def pipe_file(self, path: str, value: bytes, mode: str = ...) -> object: ...

    def rm_file(self, path: str) -> object: ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int | None: ...

    def modified(self, path: str) -> datetime: ...

    def find(self, path: str) -> list[str]: ...

    def ls(self, path: str, detail: bool) -> list[str]: ...


class FsspecBackend:
    """A place at a URL. All its steps are listed once, and then looked at one by one. Opening asks for nothing yet.

    Methods raise ConfigError, one line, when the place cannot be reached, after some tries where it could before.
    """

    pause = 0.5

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.place)[:60]
        self.root = user_cache() / "remote" / f"{readable}-{digest_bytes(self.place.encode())[:8]}"
        self._files, top = _connect(self.place)
        self._top = top.rstrip("/")
        self._known: dict[str, set[str]] | None = None  # key -> names of files
        self._clock: float | None = None
        self._answered = False

    def is_there(self) -> bool:
        """Whether there is anything at the place."""
        return bool(self.paths(""))

    def is_marked(self) -> bool:
        """Whether the place says that it is a store; ConfigError when that was written by a newer prunetune."""
        try:
            check_version(self.place, lambda: self.get(MARKER))
        except FileNotFoundError:
            return False
        return True

    def contents(self) -> Set[str]:
        """The names at the top of the place, without hidden ones."""
        try:
            found = self._ask(lambda: self._files.ls(self._top, detail=False))
        except FileNotFoundError:
            return set()
        names = {path.removeprefix(self._top).strip("/") for path in found}
        return {name for name in names if name[:1] not in ("", ".")}

    def prepare(self) -> None:
        """Write the marker of a store."""
        self.put(MARKER, marker_bytes())

    def get(self, path: str) -> bytes:
        """A file's content."""
        try:
            return self._ask(lambda: self._files.cat_file(f"{self._top}/{path}"))
        except FileNotFoundError:
            self._forget(path)
            raise

    def put(self, path: str, content: bytes) -> None:
        """Write a file whole, over what is there."""
        try:
            self._ask(lambda: _write(self._files, f"{self._top}/{path}", content))
        except OSError as error:
            self._give_up(error)
        if (step_file := _STEP_FILE.fullmatch(path)) and self._known is not None:
            self._known.setdefault(step_file["key"], set()).add(step_file["name"])

    def create(self, path: str, content: bytes) -> bool:
        """Write a file whole where none is."""
        try:
            self._ask(lambda: _write_new(self._files, f"{self._top}/{path}", content))
        except (FileExistsError, FileNotFoundError):  # the latter: another machine has just removed one
            return False
        except OSError as error:
            self._give_up(error)
        return True

    def renew(self, path: str, content: bytes) -> None:
        """Write a file again: objects have no time but that."""
        self.put(path, content)

    def remove(self, path: str) -> int:
        """Remove a file; the bytes freed."""
        try:
            size = self.size(path)
            self._ask(lambda: self._files.rm_file(f"{self._top}/{path}"))
        except FileNotFoundError:
            return 0
        return size

    def size(self, path: str) -> int:
        """A file's size in bytes."""
        return self._ask(lambda: self._files.size(f"{self._top}/{path}")) or 0

    def age(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the place."""
        if self._clock is None:
            self.put(f"{LEASE_FOLDER}/.clock", b"")
            self._clock = self._written(f"{LEASE_FOLDER}/.clock") - time.monotonic()
        return self._clock + time.monotonic() - self._written(path)

    def files_in(self, folder: str) -> Set[str]:
        """The files below a folder, named from there."""
        return {path.removeprefix(f"{folder}/") for path in self.paths(folder)}

    def paths(self, under: str) -> list[str]:
        """All files below a folder."""
        try:
            found = self._ask(lambda: self._files.find(f"{self._top}/{under}"))
        except FileNotFoundError:
            return []
        return [path.removeprefix(f"{self._top}/") for path in found]

    def keys(self) -> Iterator[str]:
        """The keys of all steps that are there whole, in order."""
        yield from sorted(key for key, names in self._listing().items() if MANIFEST in names)

    def exists(self, key: str) -> bool:
        """Whether the step was there, when its folder was last listed."""
        return MANIFEST in self.names(key)

    def names(self, key: str) -> Set[str]:
        """The names of a step's files when its folder was last listed."""
        return self._listing().get(key, set())

    def refresh(self, key: str) -> None:
        """List the folder of one step again."""
        self._listing()[key] = self._find(folder_of(key)).get(key, set())

    def publish(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Write a step, its manifest last.

        What is there of an attempt without a manifest may be a part of a file, or another result.
        """
        folder = folder_of(key)
        with contextlib.suppress(FileNotFoundError):
            self.get(f"{folder}/{MANIFEST}")
            self.refresh(key)
            return False

        def place(name: str) -> None:
            if not self.create(f"{folder}/{name}", files[name]) and self.get(f"{folder}/{name}") != files[name]:
                self.put(f"{folder}/{name}", files[name])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(place, files.keys() - {MANIFEST}))
        if not self.create(f"{folder}/{MANIFEST}", files[MANIFEST]):
            self.refresh(key)
            return False
        self._listing()[key] = set(files)
        return True

    def move_out(self, key: str, target: Path) -> None:
        """Copy a step to a folder of this machine, and remove it from the place."""
        found: dict[str, bytes] = {}
        for name in sorted(self.names(key), key=lambda name: name != MANIFEST):  # the manifest first: then it is gone
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.get(f"{folder_of(key)}/{name}")
                self.remove(f"{folder_of(key)}/{name}")
        self._listing().pop(key, None)
        publish_folder(target, found)

    def unfinished(self) -> Mapping[str, Set[str]]:
        """All that look like ours of steps without a manifest, asked for anew."""
        torn = {key: names for key, names in self._find("steps").items() if MANIFEST not in names}
        return {
            key: {f"{folder_of(key)}/{name}" for name in names if _OURS.fullmatch(name)} for key, names in torn.items()
        }

    def _written(self, path: str) -> float:
        return self._ask(lambda: self._files.modified(f"{self._top}/{path}")).timestamp()

    def _listing(self) -> dict[str, set[str]]:
        if self._known is None:
            self.is_marked()  # by no newer prunetune
            self._known = self._find("steps")
        return self._known

    def _forget(self, path: str) -> None:
        """A step whose manifest has gone is gone."""
        step_file = _STEP_FILE.fullmatch(path)
        if step_file and step_file["name"] == MANIFEST and self._known is not None:
            self._known.pop(step_file["key"], None)

    def _find(self, under: str) -> dict[str, set[str]]:
        """The names of the files of each step below a folder."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for path in self.paths(under):
            if match := _STEP_FILE.fullmatch(path):
                found[match["key"]].add(match["name"])
        return dict(found)

    def _ask(self, request: Callable[[], T]) -> T:
        """Do it, again after pauses where it fails; without them before the place has answered, or answered again."""
        for pause in (*(PAUSES if self._answered else ()), None):
            try:
                self._files.invalidate_cache()  # others write there
                answer = request()
            except (FileNotFoundError, FileExistsError):
                self._answered = True
                raise
            except Exception as error:  # every file system has errors of its own
                if pause is None or isinstance(error, PermissionError):
                    self._answered = False
                    self._give_up(error)
                time.sleep(pause)
            else:
                self._answered = True
                return answer
        raise AssertionError("the last try returns or raises")

    def _give_up(self, error: Exception) -> NoReturn:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        why = " ".join(told.split()) or type(error).__name__
        raise ConfigError(f"store: '{self.place}' cannot be used: {why}") from error


def _connect(url: str) -> tuple[_FileSystem, str]:
    """The file system of a URL, and the path in it; ConfigError when there is none, or its package is missing."""
    try:
        return cast(tuple[_FileSystem, str], fsspec.url_to_fs(url))
    except ImportError as error:
        extra = "; pip install 'prunetune[s3]'" if url.startswith(("s3:", "s3a:")) else ""
        raise ConfigError(f"store: '{url}' needs a package that is not installed: {error}{extra}") from error
    except Exception as error:  # every file system has errors of its own
        why = " ".join(str(error).split())
        raise ConfigError(f"store: '{url}': {why}; give a folder, or a URL such as s3://bucket/folder") from error


def _write(files: _FileSystem, path: str, content: bytes) -> None:
    if isinstance(files, LocalFileSystem):  # which by itself writes in place
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), content)
    else:
        files.pipe_file(path, content)


def _write_new(files: _FileSystem, path: str, content: bytes) -> None:
    """FileExistsError when there is a file."""
    if isinstance(files, LocalFileSystem):  # which by itself looks first, and writes then
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        create_file(Path(path), content)
        return
    try:
        files.pipe_file(path, content, mode="create")
    except FileExistsError:
        raise
    except OSError as error:  # S3 servers refuse in several ways
        if files.exists(path):
            raise FileExistsError(path) from error
        raise
