"""What goes wrong within a user's network, loss or metric, as one line that names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prunetune.errors import ConfigError, CorruptionError, DivergedSourceError, InvariantError, one_line
from prunetune.training.numerics import is_short

_OURS = (ConfigError, InvariantError, CorruptionError, DivergedSourceError)


@contextmanager
def users(what: str, on: Any = None) -> Iterator[None]:
    """ConfigError `WHAT raised KIND: …` in the place of what the user's code raises.

    What says that memory is short is let through, and a RuntimeError where `on`, a tensor, lies on an accelerator:
    there it may be the device's, or a step that cannot be recorded.
    """
    try:
        yield
    except _OURS:
        raise
    except Exception as error:
        elsewhere = isinstance(on, torch.Tensor) and on.device.type != "cpu"
        if is_short(error) or (elsewhere and isinstance(error, RuntimeError)):
            raise
        raise ConfigError(f"{what} raised {type(error).__name__}: {one_line(error, 300)}") from error
