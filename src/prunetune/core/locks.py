"""Locks between processes, which not every file system has."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows, where files can always be locked
    fcntl = None

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`; go on without where its file system has none (NFS without lockd, Lustre, some of FUSE).

    It saves work among processes that behave; nothing that it surrounds may lose or mix up data without it.
    """
    with FileLock(path) if _can_lock(path) else contextlib.nullcontext():
        yield


def _can_lock(path: Path) -> bool:
    """Whether the file system knows locks. FileLock itself waits there for the file to go away, or raises."""
    if fcntl is None:
        return True
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # most often: another process has it
            return error.errno not in _NO_LOCKS
    return True
