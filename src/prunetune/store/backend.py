"""Where the files of a store lie: a folder."""

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetune.core.files import TEMPORARY
from prunetune.errors import ConfigError
from prunetune.store.layout import MARKER, StoreReader, check_version, folder_of, is_key


class LocalShelves(StoreReader):
    """Those under one folder.

    Raises ConfigError when the path is no folder, or was written by a newer prunetune. A path where nothing is yet is
    an empty store.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"store: '{self.root}' is a file; it must be a folder")
        if self.root.exists():
            with contextlib.suppress(FileNotFoundError):
                check_version(self.root, (self.root / MARKER).read_bytes)

    def is_marked(self) -> bool:
        """Whether the folder says of itself that it is a store."""
        return (self.root / MARKER).is_file()

    def folder(self, key: str) -> Path:
        """Where a step's files lie."""
        return self.root / folder_of(key)

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are stored, damaged ones too, in order."""
        folders = self.root.glob("steps/[0-9a-f][0-9a-f]/*")
        yield from sorted(path.name for path in folders if is_key(path.name) and path.name[:2] == path.parent.name)

    def exists(self, key: str) -> bool:
        """Whether a step has a folder."""
        return self.folder(key).exists()

    def names(self, key: str) -> set[str]:
        """The names of the files in a step's folder, without temporary ones."""
        return {path.name for path in self.folder(key).glob("*") if not path.name.startswith(TEMPORARY)}

    def content(self, key: str, name: str) -> bytes:
        """A file as it lies there; OSError when it cannot be read."""
        return (self.folder(key) / name).read_bytes()


def clock_of(folder: Path) -> float:
    """The time, in seconds, by the clock that sets the times of files in a folder."""
    clock = folder / ".clock"
    clock.touch()
    return clock.stat().st_mtime


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing into one line: ConfigError `store: cannot write to ...`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room and run the same command again, what is stored is kept" if full else ""
        raise ConfigError(f"store: cannot write to '{path}': {error.strerror or error}{advice}") from error
