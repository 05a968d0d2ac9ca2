"""Which process is at which step, so that several processes on one store share the work.

A claim is a file `claims/KEY` that is created exclusively and touched again and again while its process lives. It saves
work and guards nothing: should two processes do the same step after all, the store lets the first write win and
reports a difference.
"""

import contextlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prunetune.core.files import locked, this_host, this_machine
from prunetune.errors import ConfigError, short
from prunetune.store.backend import clock_of
from prunetune.store.layout import is_key

EXPIRY = 300.0  # seconds without a sign of life; well above the minute for which NFS may show an old time
RENEWALS = 10  # signs of life within that time
CLAIMS = "claims"
LEASE_ERRORS = (
    OSError,
    ConfigError,
)  # a store that cannot be written or reached: that costs a claim, which guards nothing
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat behind the name: the state, the start in ticks since boot
_ENDED = ("Z", "X")  # a process that is dead and only not yet taken note of


class Process(NamedTuple):
    """A process as another one can recognise it, on this machine and elsewhere."""

    host: str  # for people; the same name may stand for many machines and containers
    machine: str  # within which process ids mean the same (`this_machine`)
    pid: int
    started: str  # tells it from a later process of the same id; empty where the system does not say

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def this(cls) -> "Process":
        """The process that asks."""
        fields = _fields(os.getpid())
        return cls(this_host(), this_machine(), os.getpid(), fields[_STARTED] if fields else "")

    def is_gone(self) -> bool:
        """Whether it has ended for certain; False for processes of other machines, of which nothing is known."""
        if self.machine != this_machine():
            return False
        if not is_alive(self.pid):
            return True
        fields = _fields(self.pid)
        return bool(fields) and (fields[_STATE] in _ENDED or fields[_STARTED] != self.started)


def is_alive(pid: int) -> bool:
    """Whether this machine has a process of that id; taken for granted where that cannot be asked."""
    if os.name == "nt":  # there, signal 0 is no question but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there and somebody else's
        return True
    return True


class Leases:
    """This process's claims on the steps of the store in the folder `root`, and a thread that keeps them alive.

    Ages are differences of two times that the store's own file system has set, so that clocks may differ.
    """

    def __init__(self, root: Path, expiry: float = EXPIRY) -> None:
        self._folder = root / CLAIMS
        self._lock = root / ".lock"
        self._expiry = expiry
        self._who = {**Process.this()._asdict(), "token": os.urandom(8).hex()}  # no other claim has the same content
        self._mine: dict[str, bytes] = {}  # key -> the claim's content
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, key: str) -> bool:
        """Whether the step is this process's to do: nobody's so far, or that of a process that is dead."""
        if key in self._mine:
            return True
        content = json.dumps({**self._who, "since": datetime.now(UTC).isoformat(" ", "seconds")}).encode()
        if not self._create(key, content) and not (
            self._is_dead(key) and self._evict(key) and self._create(key, content)
        ):
            return False
        self._mine[key] = content
        self._keep_alive()
        return True

    def release(self, key: str) -> None:
        """Give up a claim; one that another process has taken over meanwhile stays that one's.

        Where the disk refuses, it stays ours until `close` tries again.
        """
        if key not in self._mine:
            return
        with contextlib.suppress(*LEASE_ERRORS), locked(self._lock):
            if self._is(key, self._mine[key]):
                self._remove(key)
            del self._mine[key]

    def close(self) -> None:
        """Give up all claims."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._mine):
            self.release(key)

    def holder(self, key: str) -> Process | None:
        """Who is at a step; None when nobody is, or it cannot be read."""
        return _holder(self._content(key))

    def story(self, key: str) -> str:
        """Who is at a step, since when by the clock there, and how long ago it gave a sign of life."""
        content = self._content(key)
        words = [str(_holder(content) or "another process")]
        if since := content.get("since"):
            words.append(f"since {short(since)}")
        with contextlib.suppress(*LEASE_ERRORS):
            words.append(f"last sign of life {max(self._age(key), 0.0):.0f} s ago")
        return ", ".join(words)

    def way_out(self, key: str) -> str:
        """When the step is this process's to do though the one that is at it says no more."""
        return f"after {self._expiry:.0f} s without such a sign, or as soon as {self._where(key)} is removed"

    def dead(self) -> list[str]:
        """The steps claimed by processes that are gone, or have given no sign of life for long."""
        return [key for key in self._claimed() if self._is_dead(key)]

    def remove_dead(self, key: str) -> int:
        """Remove the claim of such a process; the bytes freed, 0 where one that lives has taken it over."""
        with locked(self._lock):
            return self._remove(key) if self._is_dead(key) else 0

    def is_alive(self, key: str) -> bool:
        """Whether some process is at the step."""
        return key in self._claimed() and not self._is_dead(key)

    def any_alive(self) -> bool:
        """Whether some process is at any step."""
        return any(not self._is_dead(key) for key in self._claimed())

    def size(self, key: str) -> int:
        """Bytes of the claim on a step; 0 where there is none."""
        try:
            return len(self._read(key))
        except OSError:
            return 0

    def _is_dead(self, key: str) -> bool:
        holder = self.holder(key)
        if holder is not None and holder.is_gone():
            return True
        try:
            return self._age(key) > self._expiry
        except LEASE_ERRORS:
            return False

    def _evict(self, key: str) -> bool:
        """Remove a dead process's claim, under the lock, since another process may be about to do the same. Where there
        is no lock, two may get the step, which costs time and no result."""
        with contextlib.suppress(*LEASE_ERRORS), locked(self._lock):
            if self._is_dead(key):
                self._remove(key)
                return True
        return False

    def _is(self, key: str, content: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._read(key) == content
        return False

    def _keep_alive(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        while not self._closing.wait(self._expiry / RENEWALS):
            for key, content in self._mine.copy().items():
                with contextlib.suppress(*LEASE_ERRORS):
                    if self._is(key, content):
                        self._renew(key, content)

    def _content(self, key: str) -> dict[str, Any]:
        """What a claim says; empty where there is none, or it makes no sense."""
        with contextlib.suppress(*LEASE_ERRORS, ValueError, RecursionError):
            found = json.loads(self._read(key))
            return found if isinstance(found, dict) else {}
        return {}

    def _where(self, key: str) -> str:
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / key

    def _claimed(self) -> set[str]:
        return {path.name for path in self._folder.glob("*") if is_key(path.name) and path.is_file()}

    def _create(self, key: str, content: bytes) -> bool:
        """Exclusively. On a disk that takes no more the step is done unclaimed: writing its result will say why."""
        try:
            with self._path(key).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        except OSError:
            with contextlib.suppress(OSError):
                self._path(key).unlink(missing_ok=True)
        return True

    def _read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def _age(self, key: str) -> float:
        """In seconds, by the clock that sets the times of files in the store."""
        return clock_of(self._folder) - self._path(key).stat().st_mtime

    def _renew(self, key: str, content: bytes) -> None:
        os.utime(self._path(key))

    def _remove(self, key: str) -> int:
        """The bytes freed; nothing happens where another process was faster."""
        with contextlib.suppress(FileNotFoundError):
            freed = self._path(key).stat().st_size
            self._path(key).unlink()
            return freed
        return 0


def _holder(content: dict[str, Any]) -> Process | None:
    try:
        return Process(str(content["host"]), str(content["machine"]), int(content["pid"]), str(content["started"]))
    except (ValueError, KeyError, TypeError):
        return None


def _fields(pid: int) -> list[str]:
    """What /proc says of a process behind its name; empty where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
