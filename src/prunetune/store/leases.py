"""Which process is at which step, so that several processes on one store share the work; and at which study.

A lease is a file `claims/KEY` that is created exclusively and renewed again and again while its process lives. It saves
work and guards nothing: should two processes do the same step after all, the store lets the first write win and
reports a difference.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prunetune.core.files import locked, this_host, this_machine
from prunetune.errors import ConfigError, short
from prunetune.store.backend import LEASE_FOLDER, Backend
from prunetune.store.layout import is_key, is_object

EXPIRY = 300.0  # seconds without a sign of life; well above the minute for which NFS may show an old time
RENEWALS = 10  # signs of life within that time
LAST_PAUSE = 10.0  # seconds, at the most, until a step that another process is at is looked at again
# A store that cannot be written or reached costs a lease, which guards nothing.
LEASE_ERRORS = (OSError, ConfigError)
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat behind the name: the state, the start in ticks since boot
_OF_STUDY = re.compile("study-[0-9a-f]{16}")  # the name of a lease that is on no step
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
    """This process's leases on the steps of one store, and a thread that keeps them alive.

    Ages are by the clock of the place where the store lies, so that machines' clocks may differ. A dead process's lease
    is removed under a lock among the processes of this machine. Where there is no lock, as between machines at a URL,
    two may get the step, which costs time and no result.
    """

    def __init__(self, backend: Backend, expiry: float = EXPIRY) -> None:
        self._backend = backend
        self._lock = backend.root / ".lock"
        self._expiry = expiry
        # No other lease has the same content.
        self._who = {**Process.this()._asdict(), "token": os.urandom(8).hex()}
        self._mine: dict[str, bytes] = {}  # key -> the lease's content
        self._pauses: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, key: str) -> bool:
        """Whether the step is this process's to do: nobody's so far, or that of a process that is dead.

        Either way the store is asked anew for the step, unless this comes soon after the last time.
        """
        if key in self._mine:
            return True
        if time.monotonic() < self._not_before.get(key, 0.0):
            return False
        taken = self._take(key)
        with contextlib.suppress(*LEASE_ERRORS):
            self._backend.refresh(key)
        pause = self._pauses.get(key, self._backend.pause)
        self._not_before[key] = time.monotonic() + pause
        self._pauses[key] = min(2 * pause, LAST_PAUSE, self._expiry / RENEWALS)
        return taken

    def hold(self, study: str) -> None:
        """Say that this process is at a study, whichever of its steps it is at; several processes may be at one."""
        self._take(f"study-{os.urandom(8).hex()}", {"study": study})

    def at_studies(self, studies: Sequence[str]) -> str | None:
        """A lease of some process that is at one of these studies, by its name; None where none is."""
        names = (name for name in sorted(self._leased()) if self._content(name).get("study") in studies)
        return next((name for name in names if not self._is_dead(name)), None)

    def release(self, key: str) -> None:
        """Give up a lease; one that another process has taken over meanwhile stays that one's.

        Where the disk refuses, it stays ours until `close` tries again.
        """
        if key not in self._mine:
            return
        with contextlib.suppress(*LEASE_ERRORS), locked(self._lock):
            if self._is(key, self._mine[key]):
                self._backend.remove(_path(key))
            del self._mine[key]

    def close(self) -> None:
        """Give up all leases."""
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
        parts = [str(_holder(content) or "another process")]
        if since := content.get("since"):
            parts.append(f"since {short(since)}")
        with contextlib.suppress(*LEASE_ERRORS):
            parts.append(f"last sign of life {max(self._backend.age(_path(key)), 0.0):.0f} s ago")
        return ", ".join(parts)

    def way_out(self, key: str) -> str:
        """When the step is this process's to do though the one that is at it says no more."""
        where = f"{self._backend.place}/{_path(key)}"
        return f"after {self._expiry:.0f} s without such a sign, or as soon as {where} is removed"

    def dead(self) -> list[str]:
        """The steps leased by processes that are gone, or have given no sign of life for long."""
        return [key for key in self._leased() if self._is_dead(key)]

    def remove_dead(self, key: str) -> int:
        """Remove the lease of such a process; the bytes freed, 0 where one that lives has taken it over."""
        with locked(self._lock):
            return self._backend.remove(_path(key)) if self._is_dead(key) else 0

    def is_alive(self, key: str) -> bool:
        """Whether some process is at the step."""
        return key in self._leased() and not self._is_dead(key)

    def any_alive(self) -> bool:
        """Whether some process is at any step."""
        return any(not self._is_dead(key) for key in self._leased())

    def size(self, key: str) -> int:
        """Bytes of the lease on a step; 0 where there is none."""
        try:
            return self._backend.size(_path(key))
        except OSError:
            return 0

    def _take(self, key: str, about: Mapping[str, str] | None = None) -> bool:
        since = datetime.now(UTC).isoformat(" ", "seconds")
        content = json.dumps({**self._who, "since": since, **(about or {})}).encode()
        if not self._create(key, content) and not (
            self._is_dead(key) and self._evict(key) and self._create(key, content)
        ):
            return False
        self._mine[key] = content
        self._keep_alive()
        return True

    def _create(self, key: str, content: bytes) -> bool:
        """Exclusively. Where nothing can be written the step is done unleased: writing its result will say why."""
        try:
            return self._backend.create(_path(key), content) or self._is(key, content)
        except LEASE_ERRORS:
            return True

    def _is_dead(self, key: str) -> bool:
        holder = self.holder(key)
        if holder is not None and holder.is_gone():
            return True
        try:
            return self._backend.age(_path(key)) > self._expiry
        except LEASE_ERRORS:
            return False

    def _evict(self, key: str) -> bool:
        """Remove a dead process's lease, under the lock, since another process may be about to do the same."""
        with contextlib.suppress(*LEASE_ERRORS), locked(self._lock):
            if self._is_dead(key):
                self._backend.remove(_path(key))
                return True
        return False

    def _is(self, key: str, content: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._backend.get(_path(key)) == content
        return False

    def _keep_alive(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, daemon=True)
            self._thread.start()

    def _renew(self) -> None:
        while not self._closing.wait(self._expiry / RENEWALS):
            for key, content in self._mine.copy().items():
                with contextlib.suppress(*LEASE_ERRORS):
                    if self._is(key, content):
                        self._backend.renew(_path(key), content)

    def _content(self, key: str) -> dict[str, Any]:
        """What a lease says; empty where there is none, or it makes no sense."""
        with contextlib.suppress(*LEASE_ERRORS, ValueError, RecursionError):
            content = json.loads(self._backend.get(_path(key)))
            return content if is_object(content) else {}
        return {}

    def _leased(self) -> set[str]:
        names = self._backend.files_in(LEASE_FOLDER)
        return {name for name in names if is_key(name) or _OF_STUDY.fullmatch(name)}


def _path(key: str) -> str:
    return f"{LEASE_FOLDER}/{key}"


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
