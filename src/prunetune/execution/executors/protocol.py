"""Messages between a study and its workers: pickles of our own classes, each behind its length in eight bytes.

A message of no bytes is a nudge: from a worker a sign of life, to a worker the wish that it ends soon.
"""

import pickle
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, BinaryIO

from prunetune.steps.steps import Step
from prunetune.training.recipe import TrainingTime

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True)
class Assignment:
    """A step to do, the moments of it whose states must be kept, and how often a training leaves a checkpoint."""

    step: Step
    points: Collection[TrainingTime]
    checkpoint_every: float  # seconds


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message; BrokenPipeError when nobody reads any more."""
    _write(stream, pickle.dumps(message))


def nudge(stream: BinaryIO) -> None:
    """Write a message of no bytes; BrokenPipeError when nobody reads any more."""
    _write(stream, b"")


def receive(stream: BinaryIO) -> bytes | None:
    """The next message, still pickled; None when the other side has gone, in mid-message too."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(head)[0]
    content = stream.read(size)
    return content if len(content) == size else None


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()
