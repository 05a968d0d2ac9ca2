"""Where the files of a store lie: what every such place can do, and a folder of a file system."""

import contextlib
import errno
import os
from collections.abc import Generator, Iterator, Mapping, Set
from pathlib import Path
from typing import Protocol

from prunetune.core.files import TEMPORARY, publish_folder, replace_file
from prunetune.errors import ConfigError
from prunetune.store.layout import MARKER, check_version, folder_of, is_key, marker_bytes

LEASE_FOLDER = "claims"  # the folder of leases
_OF_A_DISK = "lost+found"  # in the root of a fresh one


class Backend(Protocol):
    """A place for the files of one store. Paths are relative to its root, with slashes between their parts.

    A step's files are published together; `keys`, `exists` and `names` tell of published steps, as they were when the
    place was last asked: a place that is far away is asked for all steps once, and again for one by `refresh`.

    Methods raise OSError, or ConfigError (one line) where the place cannot be reached or used at all.
    """

    root: Path  # folder of this machine for what is no step: checkpoints, logs, what was put aside, the lock
    place: str  # as people name it: a folder, or a URL
    pause: float  # seconds until it is worth while to ask again for what another process is at; 0 where asking is cheap

    def is_there(self) -> bool:
        """Whether there is anything at the place."""
        ...

    def is_marked(self) -> bool:
        """Whether the place says of itself that it is a store."""
        ...

    def contents(self) -> Set[str]:
        """The names at the top of the place; hidden files are left out, which file systems and other processes make."""
        ...

    def prepare(self) -> None:
        """Write the marker of a store, over one that is there, and make what a store needs beside it."""
        ...

    def get(self, path: str) -> bytes:
        """A file's content; FileNotFoundError when it is not there."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Write a file whole, over what is there: readers see the old content or the new one."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write a file where none is; False, and nothing changed, when there is one."""
        ...

    def renew(self, path: str, content: bytes) -> None:
        """Set a file's age to zero; `content` is what it holds."""
        ...

    def remove(self, path: str) -> int:
        """Remove a file; its size in bytes, 0 when it was not there."""
        ...

    def size(self, path: str) -> int:
        """A file's size in bytes; FileNotFoundError when it is not there."""
        ...

    def age(self, path: str) -> float:
        """Seconds since a file was written, both times by the clock of the place; FileNotFoundError without one."""
        ...

    def files_in(self, folder: str) -> Set[str]:
        """The files in a folder, named from there; what lies deeper may be among them."""
        ...

    def keys(self) -> Iterator[str]:
        """The keys of all steps, damaged ones too, in order."""
        ...

    def exists(self, key: str) -> bool:
        """Whether a step is there, damaged or not."""
        ...

    def names(self, key: str) -> Set[str]:
        """The names of a step's files, those under way left out."""
        ...

    def refresh(self, key: str) -> None:
        """Look anew whether a step is there, and with which files."""
        ...

    def publish(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Let a step appear with all these files at once; False, and nothing changed, when it is there already."""
        ...

    def move_out(self, key: str, target: Path) -> None:
        """Take a step away from the place, to a folder of this machine."""
        ...

    def unfinished(self) -> Mapping[str, Set[str]]:
        """Key -> paths of files that were written for a step which has not been published."""
        ...


class LocalBackend:
    """A folder. A path where nothing is yet is an empty store.

    Raises ConfigError when the path is no folder, or was written by a newer prunetune.
    """

    pause = 0.0

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()
        self.place = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"store: '{self.root}' is a file; it must be a folder")
        if self.root.exists():
            with contextlib.suppress(FileNotFoundError):
                check_version(self.root, (self.root / MARKER).read_bytes)

    def is_there(self) -> bool:
        """Whether there is a folder."""
        return self.root.exists()

    def is_marked(self) -> bool:
        """Whether the folder says of itself that it is a store."""
        return (self.root / MARKER).is_file()

    def contents(self) -> Set[str]:
        """The names in the folder, without hidden files."""
        found = {path.name for path in self.root.glob("*") if path.name[0] != "." or path.is_dir()}
        return found - {_OF_A_DISK}

    def prepare(self) -> None:
        """Make the folder, its marker and the folders in it."""
        self.root.mkdir(parents=True, exist_ok=True)
        replace_file(self.root / MARKER, marker_bytes())
        for name in ("steps", "logs", "studies", LEASE_FOLDER):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / ".lock").touch()  # while there is room: leases are given up under it on a full disk too

    def get(self, path: str) -> bytes:
        """A file's content."""
        return (self.root / path).read_bytes()

    def put(self, path: str, content: bytes) -> None:
        """Write a file beside its place, and rename it."""
        replace_file(self.root / path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file where none is. It is cut short when its process is killed meanwhile: readers must bear that."""
        try:
            with (self.root / path).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        except OSError:
            with contextlib.suppress(OSError):
                (self.root / path).unlink(missing_ok=True)
            raise
        return True

    def renew(self, path: str, content: bytes) -> None:
        """Touch a file."""
        os.utime(self.root / path)

    def remove(self, path: str) -> int:
        """Remove a file; the bytes freed."""
        with contextlib.suppress(FileNotFoundError):
            freed = self.size(path)
            (self.root / path).unlink()
            return freed
        return 0

    def size(self, path: str) -> int:
        """A file's size in bytes."""
        return (self.root / path).stat().st_size

    def age(self, path: str) -> float:
        """Seconds since a file was written, by the clock that sets the times of files in the store."""
        return clock_of(self.root / LEASE_FOLDER) - (self.root / path).stat().st_mtime

    def files_in(self, folder: str) -> Set[str]:
        """The files in a folder."""
        return {path.name for path in (self.root / folder).glob("*") if path.is_file()}

    def keys(self) -> Iterator[str]:
        """The keys of all steps that have a folder, in order."""
        folders = self.root.glob("steps/[0-9a-f][0-9a-f]/*")
        yield from sorted(path.name for path in folders if is_key(path.name) and path.name[:2] == path.parent.name)

    def exists(self, key: str) -> bool:
        """Whether a step has a folder."""
        return (self.root / folder_of(key)).exists()

    def names(self, key: str) -> Set[str]:
        """The names of the files in a step's folder, without temporary ones."""
        return {path.name for path in (self.root / folder_of(key)).glob("*") if not path.name.startswith(TEMPORARY)}

    def refresh(self, key: str) -> None:
        """Nothing is remembered of a folder."""

    def publish(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Write a step's folder beside its place, and rename it."""
        return publish_folder(self.root / folder_of(key), files)

    def move_out(self, key: str, target: Path) -> None:
        """Rename a step's folder."""
        (self.root / folder_of(key)).rename(target)

    def unfinished(self) -> Mapping[str, Set[str]]:
        """None: what is not published has a temporary name."""
        return {}


def clock_of(folder: Path) -> float:
    """The time, in seconds, by the clock that sets the times of files in a folder."""
    clock = folder / ".clock"
    clock.touch()
    return clock.stat().st_mtime


@contextlib.contextmanager
def writing(path: Path | str) -> Generator[None]:
    """Turn what the system says against writing into one line: ConfigError `store: cannot write to ...`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room and run the same command again, what is stored is kept" if full else ""
        raise ConfigError(f"store: cannot write to '{path}': {error.strerror or error}{advice}") from error
