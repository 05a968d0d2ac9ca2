"""Which process wrote something into a store, and whether it is still there."""

import os
from pathlib import Path
from typing import NamedTuple

from prunetune.core.files import this_host, this_machine

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


def _fields(pid: int) -> list[str]:
    """What /proc says of a process behind its name; empty where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
