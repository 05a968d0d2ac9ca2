"""Files that are there whole or not at all: written beside their place, on the disk, and then renamed."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"


def temporary_beside(path: Path) -> Path:
    """A free name in the same folder, so that a rename is atomic, which tells the process that owns it."""
    return path.parent / f"{TEMPORARY}{this_host()}-{os.getpid()}-{os.urandom(4).hex()}"


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


def sync_folder(path: Path) -> None:
    """Wait until a folder's list of names is on the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def this_host() -> str:
    """This machine's name as temporary names have it: letters, digits and `_`."""
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())
