"""A store at a URL (s3://bucket/folder and what else fsspec reaches), with the files of one in a folder.

There are no folders that appear at once, so a step's manifest is written last, and exclusively: with it the step is
there, without it nothing is.
"""

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from prunetune.core.files import create_file, replace_file
from prunetune.errors import ConfigError, InvariantError
from prunetune.store.layout import (
    MANIFEST,
    MARKER,
    StoreReader,
    check_version,
    digest_bytes,
    entry,
    folder_of,
    is_key,
    manifest_bytes,
    marker_bytes,
)
from prunetune.store.leases import CLAIMS, EXPIRY, LEASE_ERRORS, RENEWALS, Leases
from prunetune.store.maintenance import ABANDONED_AFTER, Leftover

PAUSES = (0.5, 2.0, 8.0)  # seconds before a request is tried again
AT_ONCE = 8  # requests for the files of a step
_STEP_FILE = re.compile(r"steps/(?P<shelf>[0-9a-f]{2})/(?P<key>(?P=shelf)[0-9a-f]{62})/(?P<name>[^/.][^/]*)")
_OURS = re.compile(r"step\.json|metrics\.json|mask\.safetensors|state(@[^/]+)?\.safetensors")
FIRST_PAUSE = 0.5  # seconds until a step that another one has claimed is looked at again; twice as long each time,
LAST_PAUSE = 10.0  # and no longer

T = TypeVar("T")


class Remote(StoreReader):
    """The steps at a URL, all listed once and then looked at one by one. Opening asks for nothing yet.

    Methods raise ConfigError, one line, when the place cannot be reached, after some tries where it could before.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, root = _connect(self.url)
        self._root = root.rstrip("/")
        self._known: dict[str, set[str]] | None = None
        self._clock: float | None = None
        self._answered = False

    def prepare(self) -> None:
        """Create the store, or prove that it can be written to. Where anything lies, none is created."""
        try:
            check_version(self.url, lambda: self.get(MARKER))
        except FileNotFoundError:
            self._refuse_foreign()
        self.put(MARKER, marker_bytes())

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are there whole, damaged ones too, in order."""
        yield from sorted(key for key, names in self._listing().items() if MANIFEST in names)

    def exists(self, key: str) -> bool:
        """Whether the step is there, when its folder was last listed."""
        return MANIFEST in self.names(key)

    def names(self, key: str) -> set[str]:
        """The names of a step's files when its folder was last listed."""
        return self._listing().get(key, set())

    def content(self, key: str, name: str) -> bytes:
        """A file as it lies there; OSError when it cannot be read."""
        try:
            return self.get(f"{folder_of(key)}/{name}")
        except FileNotFoundError:
            if name == MANIFEST:
                self._listing().pop(key, None)
            raise

    def look(self, key: str) -> None:
        """List the folder of one step again."""
        self._listing()[key] = self._find(folder_of(key)).get(key, set())

    def fetch(self, key: str, entries: Mapping[str, Any]) -> dict[str, bytes]:
        """Files of a step, with their entries in its list; CorruptionError when one is not what was written."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = pool.map(lambda name: self.read_listed(key, name, entries[name]), entries)
            return dict(zip(entries, read, strict=True))

    def publish(self, key: str, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Write a step, its manifest last. The first write wins: where the step is there, files that both have must
        be equal, InvariantError otherwise, and those that are missing are added."""
        try:
            self.manifest(key)
        except KeyError:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda name: self._place(f"{folder_of(key)}/{name}", files[name]), files))
            listed = {name: entry(content) for name, content in files.items()}
            if self.create(f"{folder_of(key)}/{MANIFEST}", manifest_bytes(about, listed)):
                self._listing()[key] = {*files, MANIFEST}
                return
        self._complete(key, files)

    def take_out(self, key: str) -> dict[str, bytes]:
        """Remove a step; what its files held."""
        found = {}
        for name in sorted(self.names(key), key=lambda name: name != MANIFEST):  # the manifest first: then it is gone
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.content(key, name)
                self.remove(f"{folder_of(key)}/{name}")
        self._listing().pop(key, None)
        return found

    def is_marked(self) -> bool:
        """Whether the place says of itself that it is a store."""
        try:
            self.get(MARKER)
        except FileNotFoundError:
            return False
        return True

    def leftovers(self, claims: Leases) -> Iterator[Leftover]:
        """The files of steps whose writing ended before the manifest, all a day ago or more, and that nobody is at."""
        if not self.is_marked():
            return
        for key, names in sorted(self._find("steps").items()):
            paths = [f"{folder_of(key)}/{name}" for name in sorted(names) if _OURS.fullmatch(name)]
            if MANIFEST in names or any(self.age(path) <= ABANDONED_AFTER for path in paths) or claims.is_alive(key):
                continue
            for path in paths:
                yield Leftover(path, self._size(path), "never finished", partial(self._remove_torn, key, path))

    def paths(self, under: str) -> list[str]:
        """All files below a folder of the store, named from the store's root."""
        try:
            found = self._ask(lambda: self._files.find(f"{self._root}/{under}"))
        except FileNotFoundError:
            return []
        return [path.removeprefix(f"{self._root}/") for path in found]

    def get(self, path: str) -> bytes:
        """A file's content; FileNotFoundError when it is not there."""
        return self._ask(lambda: self._files.cat_file(f"{self._root}/{path}"))

    def put(self, path: str, content: bytes) -> None:
        """Write a file whole, over what is there."""
        try:
            self._ask(lambda: _write(self._files, f"{self._root}/{path}", content))
        except OSError as error:
            self._give_up(error)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file whole where none is; False, and nothing changed, when there is one."""
        try:
            self._ask(lambda: _write_new(self._files, f"{self._root}/{path}", content))
        except FileExistsError:
            return False
        except OSError as error:
            self._give_up(error)
        return True

    def remove(self, path: str) -> int:
        """Remove a file; its size in bytes, 0 when it was not there."""
        try:
            size = self._size(path)
            self._ask(lambda: self._files.rm_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return 0
        return size

    def age(self, path: str) -> float:
        """Seconds since a file was written, both times by the clock of the place; FileNotFoundError without one."""
        if self._clock is None:
            self.put(f"{CLAIMS}/.clock", b"")
            self._clock = self._written(f"{CLAIMS}/.clock") - time.monotonic()
        return self._clock + time.monotonic() - self._written(path)

    def _size(self, path: str) -> int:
        return self._ask(lambda: self._files.size(f"{self._root}/{path}")) or 0

    def _remove_torn(self, key: str, path: str) -> int:
        """Remove a file of a step that has no manifest; 0 where it has one by now."""
        self.look(key)
        return 0 if self.exists(key) else self.remove(path)

    def _written(self, path: str) -> float:
        return self._ask(lambda: self._files.modified(f"{self._root}/{path}")).timestamp()

    def _listing(self) -> dict[str, set[str]]:
        if self._known is None:
            with contextlib.suppress(FileNotFoundError):
                check_version(self.url, lambda: self.get(MARKER))
            self._known = self._find("steps")
        return self._known

    def _find(self, under: str) -> dict[str, set[str]]:
        """The names of the files of each step below a folder."""
        found = defaultdict(set)
        for path in self.paths(under):
            if match := _STEP_FILE.fullmatch(path):
                found[match["key"]].add(match["name"])
        return dict(found)

    def _place(self, path: str, content: bytes) -> None:
        """Write a file of a step that has no manifest: what is there of another one's attempt may be no more than a
        part, or otherwise."""
        if not self.create(path, content) and self.get(path) != content:
            self.put(path, content)

    def _complete(self, key: str, files: Mapping[str, bytes]) -> None:
        about = self.manifest(key)
        listed = about.pop("files")
        self._listing()[key] = {*listed, MANIFEST}
        for name in files.keys() & listed.keys():
            if digest_bytes(files[name]) != listed[name]["sha256"]:
                raise InvariantError(
                    f"{about['kind']} {key[:12]}: not reproducible here: {name} came out otherwise than it is stored "
                    f"at '{self.url}'; see its manifest.json there for the environment that it was made in"
                )
        new = {name: content for name, content in files.items() if name not in listed}
        for name, content in new.items():
            self.put(f"{folder_of(key)}/{name}", content)
        if new:
            added = {name: entry(content) for name, content in new.items()}
            self.put(f"{folder_of(key)}/{MANIFEST}", manifest_bytes(about, listed | added))
            self._listing()[key] |= new.keys()

    def _refuse_foreign(self) -> None:
        try:
            found = self._ask(lambda: self._files.ls(self._root, detail=False))
        except FileNotFoundError:
            return
        foreign = {path.removeprefix(self._root).strip("/") for path in found}
        foreign = {name for name in foreign if name[:1] not in ("", ".")}
        if foreign and not self.is_marked():  # by another machine, meanwhile
            raise ConfigError(
                f"store: '{self.url}' is no store and holds other things ('{min(foreign)}'); give a folder of its own"
            )

    def _ask(self, what: Callable[[], T]) -> T:
        """Do it, again after pauses where it fails; without them before the place has answered, or answered again."""
        for pause in (*(PAUSES if self._answered else ()), None):
            try:
                self._files.invalidate_cache()  # others write there
                found = what()
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
                return found
        raise AssertionError("the last try returns or raises")

    def _give_up(self, error: Exception) -> NoReturn:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        why = " ".join(told.split()) or type(error).__name__
        raise ConfigError(f"store: '{self.url}' cannot be used: {why}") from error


class RemoteLeases(Leases):
    """This process's claims at a URL; `root` is a folder of this machine, for the lock among its processes.

    Between machines a dead claim is removed without a lock. Two that do so at the same moment may both get the step,
    which costs time and no result.
    """

    def __init__(self, remote: Remote, root: Path, expiry: float = EXPIRY) -> None:
        super().__init__(root, expiry)
        self._remote = remote
        self._pauses: dict[str, float] = {}
        self._again: dict[str, float] = {}

    def take(self, key: str) -> bool:
        """Whether the step is this process's to do; either way its folder has been listed anew, unless this comes
        soon after the last time."""
        if key in self._mine:
            return True
        if time.monotonic() < self._again.get(key, 0.0):
            return False
        taken = super().take(key)
        with contextlib.suppress(*LEASE_ERRORS):
            self._remote.look(key)
        pause = self._pauses.get(key, FIRST_PAUSE)
        self._again[key] = time.monotonic() + pause
        self._pauses[key] = min(2 * pause, LAST_PAUSE, self._expiry / RENEWALS)
        return taken

    def _where(self, key: str) -> str:
        return f"{self._remote.url}/{_name(key)}"

    def _claimed(self) -> set[str]:
        names = (path.removeprefix(f"{CLAIMS}/") for path in self._remote.paths(CLAIMS))
        return {name for name in names if is_key(name)}

    def _create(self, key: str, content: bytes) -> bool:
        """Exclusively. Where nothing can be written, the step is done unclaimed."""
        try:
            return self._remote.create(_name(key), content) or self._is(key, content)
        except FileNotFoundError:  # given up this very moment
            return False
        except ConfigError:
            return True

    def _read(self, key: str) -> bytes:
        return self._remote.get(_name(key))

    def _age(self, key: str) -> float:
        return self._remote.age(_name(key))

    def _renew(self, key: str, content: bytes) -> None:
        self._remote.put(_name(key), content)

    def _remove(self, key: str) -> int:
        return self._remote.remove(_name(key))


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; ConfigError when there is none, or its package is missing."""
    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:
        extra = "; pip install 'prunetune[s3]'" if url.startswith(("s3:", "s3a:")) else ""
        raise ConfigError(f"store: '{url}' needs a package that is not installed: {error}{extra}") from error
    except Exception as error:  # every file system has errors of its own
        why = " ".join(str(error).split())
        raise ConfigError(f"store: '{url}': {why}; give a folder, or a URL such as s3://bucket/folder") from error


def _write(files: Any, path: str, content: bytes) -> None:
    if isinstance(files, LocalFileSystem):  # which by itself writes in place
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), content)
    else:
        files.pipe_file(path, content)


def _write_new(files: Any, path: str, content: bytes) -> None:
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


def _name(key: str) -> str:
    return f"{CLAIMS}/{key}"
