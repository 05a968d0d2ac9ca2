"""Files that are there whole or not at all, and the traces of processes that were killed while writing."""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunetune.core.files import TEMPORARY_NAME, sync_folder, temporary_beside, this_owner, write_file
from prunetune.errors import ConfigError
from prunetune.store.process import is_alive

ABANDONED_AFTER = 24 * 3600.0  # seconds, after which a temporary file belongs to nobody whatever its name says


def user_cache() -> Path:
    """The folder of the user's cache that is ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunetune"


def clock_of(folder: Path) -> float:
    """The time, in seconds, by the clock that sets the times of files in a folder."""
    clock = folder / ".clock"
    clock.touch()
    return clock.stat().st_mtime


def is_abandoned(path: Path, now: float) -> bool:
    """Whether nobody will finish this temporary file or folder: its process is gone, or it is older than a day.

    `now` is the time by the clock of its file system. False for names of another form.
    """
    found = TEMPORARY_NAME.fullmatch(path.name)
    if found is None or path.is_symlink():
        return False
    if found["owner"] == this_owner() and not is_alive(int(found["pid"])):
        return True
    return is_old(path, now)


def is_old(path: Path, now: float) -> bool:
    """Whether a file, or a folder and all that is in it, was last written more than a day before `now`."""
    try:
        times = [inner.lstat().st_mtime for inner in (path, *path.rglob("*"))]
    except FileNotFoundError:
        return False
    return now - max(times) > ABANDONED_AFTER


def publish_folder(path: Path, files: dict[str, bytes]) -> bool:
    """Create a folder with all these files at once; False, and nothing changed, when it exists already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_file(temporary / name, content)
        sync_folder(temporary)
        return _rename_new(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all the files in a folder; 0 where there is nothing any more."""
    with contextlib.suppress(FileNotFoundError):
        if not path.is_dir():
            return path.stat().st_size
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return 0


def remove(path: Path) -> int:
    """Remove a file or a folder with all that is in it; returns the bytes freed, 0 where another one was faster."""
    freed = size_of(path)
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return freed
    return 0


def json_bytes(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def finite(value: float) -> float | None:
    """Strict JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing into one line: ConfigError `store: cannot write to ...`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room and run the same command again, what is stored is kept" if full else ""
        raise ConfigError(f"store: cannot write to '{path}': {error.strerror or error}{advice}") from error


def _rename_new(temporary: Path, path: Path) -> bool:
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) or (os.name == "nt" and path.exists()):
            return False
        raise
    sync_folder(path.parent)
    return True
