"""Claims in a store at a URL: objects that are created exclusively, and written again as a sign of life."""

import contextlib
import time
from pathlib import Path

from prunetune.errors import ConfigError
from prunetune.store.layout import is_key
from prunetune.store.leases import CLAIMS, EXPIRY, LEASE_ERRORS, RENEWALS, Leases
from prunetune.store.remote import Remote

FIRST_PAUSE = 0.5  # seconds until a step that another one has claimed is looked at again; twice as long each time,
LAST_PAUSE = 10.0  # and no longer


class RemoteLeases(Leases):
    """This process's claims at a URL; `root` is a folder of this machine, for the lock among its processes.

    Between machines a dead claim is removed without a lock. Two that do so at the same moment may both get the step,
    which costs time and no result.
    """

    def __init__(self, remote: Remote, root: Path, expiry: float = EXPIRY) -> None:
        super().__init__(root, expiry)
        self._remote = remote
        self._pauses: dict[str, float] = {}
        self._again: dict[str, float] = {}

    def take(self, key: str) -> bool:
        """Whether the step is this process's to do; either way its folder has been listed anew, unless this comes
        soon after the last time."""
        if key in self._mine:
            return True
        if time.monotonic() < self._again.get(key, 0.0):
            return False
        taken = super().take(key)
        with contextlib.suppress(*LEASE_ERRORS):
            self._remote.look(key)
        pause = self._pauses.get(key, FIRST_PAUSE)
        self._again[key] = time.monotonic() + pause
        self._pauses[key] = min(2 * pause, LAST_PAUSE, self._expiry / RENEWALS)
        return taken

    def _where(self, key: str) -> str:
        return f"{self._remote.url}/{_name(key)}"

    def _claimed(self) -> set[str]:
        names = (path.removeprefix(f"{CLAIMS}/") for path in self._remote.paths(CLAIMS))
        return {name for name in names if is_key(name)}

    def _create(self, key: str, content: bytes) -> bool:
        """Exclusively. Where nothing can be written, the step is done unclaimed."""
        try:
            return self._remote.create(_name(key), content) or self._is(key, content)
        except FileNotFoundError:  # given up this very moment
            return False
        except ConfigError:
            return True

    def _read(self, key: str) -> bytes:
        return self._remote.get(_name(key))

    def _age(self, key: str) -> float:
        return self._remote.age(_name(key))

    def _renew(self, key: str, content: bytes) -> None:
        self._remote.put(_name(key), content)

    def _remove(self, key: str) -> int:
        return self._remote.remove(_name(key))


def _name(key: str) -> str:
    return f"{CLAIMS}/{key}"
