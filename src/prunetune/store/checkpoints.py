"""Checkpoints of trainings under way, in the store: so that a killed one loses a minute and not hours.

`partial/KEY` is 32 bytes of SHA-256 and then, of which they are the digest, what `torch.save` wrote: tensors keep their
memory order in it, on which the last bits of a training depend.
"""

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from prunetune.core.files import replace_file
from prunetune.errors import CorruptionError
from prunetune.steps.steps import Train
from prunetune.store.layout import is_object, json_bytes
from prunetune.training.distributed import World
from prunetune.training.training_state import Checkpoints, Saved

EVERY = 60.0  # seconds of training between two checkpoints, and before the first
CHECKPOINTS = "partial"
_DIGEST = 32


class StoppedError(Exception):
    """A training has ended early, as it was asked to, and has left a checkpoint."""


class Partial:
    """The checkpoint of one training in the store at `root`, taken at the end of an epoch and at most every `every` s.

    `origin` is all that the bytes of the training depend on beside its step: the checksums of its inputs, and the
    environment. A checkpoint of another origin is not gone on from. Once `stopping` says so, the next one is the last.
    `tell` is given what a person should know of it.
    """

    def __init__(
        self,
        root: Path,
        step: Train,
        origin: Mapping[str, Any],
        tell: Callable[[str], None],
        every: float = EVERY,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = root / CHECKPOINTS / step.key
        self._step = step
        self._about = json_bytes({"key": step.key, **origin}).decode()
        self._tell = tell
        self._every = every
        self._stopping = stopping
        self._latest = time.monotonic()

    def load(self) -> Saved | None:
        """What an earlier attempt left, if it is whole and of the same origin."""
        try:
            found = _read(self._path)
        except FileNotFoundError:
            return None
        except (OSError, CorruptionError) as error:
            self._tell(f"starts over: its checkpoint {error}")
            return None
        if found["about"] != self._about:
            self._tell("starts over: its checkpoint was made in another environment or from other inputs")
            return None
        done = len(found["state"]["train_loss"])
        self._tell(f"goes on after epoch {done} of {self._step.recipe.epochs}, from its checkpoint")
        return found["state"]

    def offer(self, capture: Callable[[], Saved]) -> None:
        """Write a checkpoint if the latest is old enough; a disk that takes none costs the checkpoint only.

        Raises StoppedError behind the last one.
        """
        stopping = self._stopping()
        if not stopping and time.monotonic() - self._latest < self._every:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            _write(self._path, {"about": self._about, "state": capture()})
        except OSError as error:
            self._tell(f"no checkpoint could be written: {error.strerror or error}")
        self._latest = time.monotonic()
        if stopping:
            raise StoppedError


class Shared:
    """The first rank's checkpoints: it alone keeps them, and all ranks go on from them."""

    def __init__(self, checkpoints: Checkpoints, ranks: World) -> None:
        self._checkpoints = checkpoints
        self._ranks = ranks

    def load(self) -> Saved | None:
        """What the first rank finds."""
        return self._ranks.from_first(self._checkpoints.load() if self._ranks.rank == 0 else None)

    def offer(self, capture: Callable[[], Saved]) -> None:
        """Offer it to the first rank's."""
        if self._ranks.rank == 0:
            self._checkpoints.offer(capture)


def discard(root: Path, key: str) -> None:
    """Remove the checkpoint of a training that is stored."""
    with contextlib.suppress(OSError):
        (root / CHECKPOINTS / key).unlink(missing_ok=True)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    saved = buffer.getvalue()
    replace_file(path, hashlib.sha256(saved).digest() + saved)


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        raise CorruptionError("is not what was written (checksum)")
    try:
        found = torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)
    except Exception as error:  # what is no checkpoint of ours may fail in any way
        raise CorruptionError("cannot be read") from error
    if not is_object(found) or found.keys() != {"about", "state"}:
        raise CorruptionError("is not one of a training")
    return found
