"""Ctrl-C, SIGTERM and SIGHUP: somebody, or the system, wants this process to end."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
TOGETHER = 1.0  # seconds within which signals are one wish: a terminal's end comes from the kernel and from the shell


class Listener:
    """Raises KeyboardInterrupt at each of these signals, and keeps the first one in mind, should a library swallow it.

    A terminal that has gone is written to no more, which would fail.
    """

    def __init__(self) -> None:
        self.heard: int | None = None
        self._latest = -TOGETHER
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def __call__(self, number: int, frame: object) -> None:
        """Take note of a signal."""
        self.heard = number if self.heard is None else self.heard
        for stream in self._terminals:
            if not os.isatty(stream):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream)
                os.close(nothing)
        before, self._latest = self._latest, time.monotonic()
        if number == signal.SIGINT or self._latest - before >= TOGETHER:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener that has the signals, but for those that are ignored (`nohup`) or put to another use."""
    listener = Listener()
    with _handling(listener):
        yield listener


@contextmanager
def first_calls(stop: Callable[[int], None]) -> Iterator[None]:
    """The first of the signals calls `stop` with its number. Ctrl-C is as ever from then on, and the others say nothing
    new. Nothing changes in another thread than the main one, or for signals that are put to another use."""
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    came = False

    def first(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = True
            if signal.getsignal(signal.SIGINT) is first:
                signal.signal(signal.SIGINT, usual[signal.SIGINT])
            stop(number)

    with _handling(first):
        yield


def raise_lost() -> None:
    """Raise KeyboardInterrupt where one of the signals has come before and its exception was swallowed."""
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(handler, Listener) and handler.heard is not None:
            raise KeyboardInterrupt


def ignore_all() -> None:
    """Let none of the signals disturb the end that one of them has brought about."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def leave_to_parent(*, but_sigterm: bool = False) -> None:
    """Let this process go on, as its parent gets the same signals and decides what becomes of it; `but_sigterm` where
    that is how the parent ends it. What is forked or started by it can be ended by SIGTERM as ever."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if but_sigterm:
        return
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@contextmanager
def _handling(handler: Callable[[int, object], None]) -> Iterator[None]:
    """A handler in the place of the usual ones, which are back afterwards."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: usual for number in SIGNALS if _is_usual(usual := signal.getsignal(number))}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def _is_usual(handler: object) -> bool:
    return handler in (signal.default_int_handler, signal.SIG_DFL) or isinstance(handler, Listener)
