"""Whether the machine is ours: its idle share before a run, and what others take of it during one."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prunetune.errors import ConfigError

LEAST_IDLE = 0.95  # of all cores' time before a run
MOST_OTHERS = 0.05  # of all cores' time during a round
PATIENCE = 60  # times a second
_TICK = os.sysconf("SC_CLK_TCK")


class Clocks(NamedTuple):
    """Seconds since the start, summed over the cores: in all, idle, and used by this process and its descendants."""

    total: float
    idle: float
    ours: float


Reader = Callable[[], Clocks | None]


def read_clocks() -> Clocks | None:
    """The system's accounts; None where there is no /proc."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, idle, waiting, *rest = map(int, first.split()[1:9])  # the rest: interrupts, and time stolen
    return Clocks((user + nice + system + idle + waiting + sum(rest)) / _TICK, (idle + waiting) / _TICK, _ours())


def idle_share(read: Reader = read_clocks, sleep: Callable[[float], None] = time.sleep) -> float | None:
    """The share of all cores' time that nobody used, over a second."""
    before = read()
    sleep(1.0)
    after = read()
    if before is None or after is None:
        return None
    return (after.idle - before.idle) / (after.total - before.total)


def settled(read: Reader = read_clocks, sleep: Callable[[float], None] = time.sleep) -> float | None:
    """The idle share, asked for again while the machine is busy: what has just ended may take some seconds to go."""
    idle = idle_share(read, sleep)
    for _ in range(PATIENCE - 1):
        if idle is None or idle >= LEAST_IDLE:
            break
        idle = idle_share(read, sleep)
    return idle


def require_idle(idle: float | None, force: bool) -> str | None:
    """ConfigError while the machine is busy; with `force` the remark that it was."""
    if idle is None:
        return "this system does not tell how busy it is"
    if idle >= LEAST_IDLE:
        return None
    busy = f"the machine is busy: {100 * idle:.0f} % idle before the run, at least {100 * LEAST_IDLE:.0f} % wanted"
    if not force:
        raise ConfigError(f"{busy}; wait, or measure all the same with --force")
    return busy


class Watch:
    """What others take of the machine, time stolen by its host among it, from one call of `lap` to the next."""

    def __init__(self, read: Reader = read_clocks) -> None:
        self._read = read
        self._last = read()

    def lap(self) -> float | None:
        """Share of all cores' time since the last call that was neither idle nor ours; None where that is not known."""
        last, self._last = self._last, self._read()
        if last is None or self._last is None or self._last.total <= last.total:
            return None
        total, idle, ours = (now - then for now, then in zip(self._last, last, strict=True))
        return max(0.0, (total - idle - ours) / total)


def _ours() -> float:
    """Seconds of processor time of this process and its descendants; those that have ended count with their parent."""
    times: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for pid, parent, seconds in _processes():
        times[pid] = seconds
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, ()))
    return sum(times.get(pid, 0.0) for pid in found)


def _processes() -> Iterator[tuple[int, int, float]]:
    """(pid, parent, seconds with those of ended children) of everything that runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            yield int(folder.name), int(fields[1]), sum(map(int, fields[11:15])) / _TICK
