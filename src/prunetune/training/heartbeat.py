"""Signs of life: what works through batches gives one for each, so that who waits for it can tell slow from stuck."""

from collections.abc import Callable

_LISTENERS: list[Callable[[], None]] = []


def beat() -> None:
    """A batch is done."""
    for listener in _LISTENERS:
        listener()


def on_beat(listener: Callable[[], None]) -> None:
    """Call `listener` after every batch that this process trains on or scores from now on."""
    _LISTENERS.append(listener)
