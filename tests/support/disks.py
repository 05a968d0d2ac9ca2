"""Disks that are full: one that refuses a certain write, and real ones of any size."""

import errno
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Stands before the system's calls that take room below a folder, and refuses the one of that number."""

    def __init__(self, folder: Path, refused: int) -> None:
        self.folder, self.refused, self.calls = str(folder), refused, 0

    def take(self, path: Any) -> bool:
        """Count a call, and tell whether it is the one to refuse."""
        if isinstance(path, str | Path) and str(path).startswith(self.folder):
            self.calls += 1
            return self.calls == self.refused
        return False

    def guard(self, path: Any) -> None:
        if self.take(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "rename", "replace"):
                patch.setattr(os, name, self._guarded(getattr(os, name)))
            real_open, real_io = os.open, io.open
            patch.setattr(os, "open", self._guarded(real_open, lambda path, flags, *_: bool(flags & os.O_CREAT)))
            patch.setattr(io, "open", lambda path, mode="r", *rest, **named: (
                self._file(path, mode) if mode in ("wb", "xb") else real_io(path, mode, *rest, **named)
            ))  # fmt: skip
            yield

    def _guarded(self, real: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            if counts(path, *rest):
                self.guard(path)
            return real(path, *rest, **named)

        return call

    def _file(self, path: Any, mode: str) -> io.FileIO:
        self.guard(path)
        return _File(self, path, mode)


class _File(io.FileIO):
    """A file of which half is written when the disk is full."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, content: Any) -> int:
        if self._disk.take(self._path):
            super().write(bytes(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, such as one of `size=256k`; the test is skipped where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        if os.name == "nt" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small file system can only be mounted by root")
    except OSError:
        pytest.skip("no mount command")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
