"""Files and folders written whole or not at all, their names until then, locks between processes, the cache's place."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows, where files can always be locked
    fcntl = None

TEMPORARY = ".tmp-"
TEMPORARY_NAME = re.compile(r"\.tmp-(?P<owner>\w+)-(?P<pid>[0-9]+)-[0-9a-f]{8}")  # `temporary_beside`, nothing else
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})


def user_cache() -> Path:
    """Our folder of the user's cache: in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunetune"


def temporary_beside(path: Path) -> Path:
    """A free name in the same folder, so that a rename is atomic, which tells the process that owns it."""
    return path.parent / f"{TEMPORARY}{this_owner()}-{os.getpid()}-{os.urandom(4).hex()}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put a whole file in the place of what is there; a reader sees the old or the new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def create_file(path: Path, content: bytes) -> None:
    """Put a whole file where none is; FileExistsError, and nothing changed, when there is one."""
    temporary = temporary_beside(path)
    try:
        write_file(temporary, content)
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of `path` when all went well, and is gone when not."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def publish_folder(path: Path, files: Mapping[str, bytes]) -> bool:
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


def sync_folder(path: Path) -> None:
    """Wait until a folder's list of names is on the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
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


@cache
def this_machine() -> str:
    """Within which process ids mean the same: boot and process namespace, or the host where a system has no such.

    A container that does not tell is one of which no other process knows anything: neither a host name nor a process
    id nor a network address is its alone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        of_its_own = os.urandom(8).hex() if sys.platform == "linux" else f"{uuid.getnode():012x}"
        return f"{this_host()} {of_its_own}"


def this_owner() -> str:
    """This machine as temporary names have it: host, and what tells it from others of that name."""
    return f"{this_host()}_{hashlib.sha256(this_machine().encode()).hexdigest()[:8]}"


def this_host() -> str:
    """This machine's name, of letters, digits and `_`."""
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())


def slug(name: str) -> str:
    """A name as a part of a file's name.

    >>> slug("admm@0.1"), slug("../../<b>")
    ('admm-0-1', '-b-')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)


def _rename_new(temporary: Path, path: Path) -> bool:
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) or (os.name == "nt" and path.exists()):
            return False
        raise
    sync_folder(path.parent)
    return True
