"""A worker process: does one step after another, and ends with the process that started it.

Steps come in on the standard input and events go out on what was the standard output; both are taken for this alone.
Whatever libraries and the user's code print goes to the worker's log in the store. Imports that take their time are
made after the watchdog stands. While batches are worked through, signs of life go out too.

A worker may be several ranks that share its pipes (docs/reference/design.md). The first one serves as a worker alone
does, and has the others take part in every training; the others only see the end of the standard input, and read
nothing of it.
"""

import contextlib
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

from prunetune.core.interrupts import leave_to_parent

if TYPE_CHECKING:
    from prunetune.execution.events import Done, Failed, Skipped
    from prunetune.execution.executors.protocol import Assignment
    from prunetune.execution.run_step import Tell
    from prunetune.store.store import Store, StoreWriter
    from prunetune.training.distributed import World

SIGN_EVERY = 1.0  # seconds, at the least, between two signs of life
FIRST_WAITS, OTHERS_WAIT = 3.0, 10.0  # seconds after an error in a training that ranks share


def main(store: str, log: str, rendezvous: str) -> None:
    """Serve until the standard input ends, or a nudge asks to end with the epoch.

    `store` is the store's folder, `log` the file for everything printed, `rendezvous` the file by which ranks meet that
    torchrun has started, empty where the worker is one process.
    """
    # Ctrl-C reaches the whole group, and so do other signals; torchrun ends ranks, a group of their own, by SIGTERM
    leave_to_parent(but_sigterm=bool(rendezvous))
    commands, events = _take_pipes(log)
    if rendezvous and int(os.environ["RANK"]) > 0:
        threading.Thread(target=_await_end, args=(commands,), daemon=True).start()
        _take_part(store, rendezvous)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stopping = threading.Event()
    threading.Thread(target=_watch, args=(commands, inbox, stopping), daemon=True).start()
    _serve(store, rendezvous, inbox, events, stopping.is_set)


def _take_pipes(log: str) -> tuple[BinaryIO, BinaryIO]:
    """Move both pipes to descriptors that nobody else knows, and put the log in the place of the standard streams."""
    commands, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # a full disk costs the log only
        file = os.open(os.devnull, os.O_WRONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)
    return commands, events


def _watch(commands: BinaryIO, inbox: "queue.SimpleQueue[bytes]", stopping: threading.Event) -> None:
    """Pass messages on; when the other side is gone, by whatever death, end at once in the middle of any work."""
    from prunetune.execution.executors.protocol import receive

    while (message := receive(commands)) is not None:
        if not message:
            stopping.set()
        inbox.put(message)
    os._exit(0)


def _await_end(commands: BinaryIO) -> None:
    """The same end for a rank, without reading what is the first one's."""
    poll = select.poll()
    poll.register(commands, 0)  # a hang-up is always told
    poll.poll()
    os._exit(0)


def _serve(
    store: str, rendezvous: str, inbox: "queue.SimpleQueue[bytes]", events: BinaryIO, stopping: Callable[[], bool]
) -> None:
    import pickle

    from prunetune.execution.executors.protocol import send
    from prunetune.store.checkpoints import StoppedError
    from prunetune.training.batches import on_heartbeat

    opened, ranks = _set_up(store, rendezvous)
    on_heartbeat(_signs(events))
    with contextlib.suppress(StoppedError):
        while message := inbox.get():
            send(events, do(pickle.loads(message), opened, partial(send, events), stopping, ranks))
            with contextlib.suppress(OSError):
                sys.stdout.flush()
    if ranks.count > 1:
        os._exit(1)  # for torchrun to end the others


def _take_part(store: str, rendezvous: str) -> NoReturn:
    """What every other rank does. An error ends it, and with it all; but first it waits for the first one to tell of
    the same, upon which the study ends them."""
    from prunetune.execution.run_step import take_part

    opened, ranks = _set_up(store, rendezvous)
    while True:
        step, points = cast(Any, ranks.from_first(None))
        try:
            take_part(step, opened, points, ranks)
        except Exception:
            time.sleep(OTHERS_WAIT)
            traceback.print_exc()
            os._exit(1)


def _set_up(store: str, rendezvous: str) -> "tuple[Store, World]":
    import torch

    from prunetune.core.environment import THREADS_PER_TRAINING
    from prunetune.store.store import Store
    from prunetune.training.distributed import SINGLE, join

    torch.set_num_threads(THREADS_PER_TRAINING)
    return Store(store), join(rendezvous) if rendezvous else SINGLE


def _signs(events: BinaryIO) -> Callable[[], None]:
    """What sends a sign of life, but not every time."""
    from prunetune.execution.executors.protocol import nudge

    latest = 0.0

    def sign() -> None:
        nonlocal latest
        if time.monotonic() - latest >= SIGN_EVERY:
            latest = time.monotonic()
            nudge(events)

    return sign


def do(
    assignment: "Assignment",
    store: "StoreWriter",
    tell: "Tell",
    stopping: Callable[[], bool] = lambda: False,
    ranks: "World | None" = None,
) -> "Done | Failed | Skipped":
    """The event that a step ends with: an error becomes one line, and the traceback of a surprise is printed.

    Once `stopping` says so, a training ends with its epoch, and raises StoppedError. `ranks` of which this is the first
    do a training on several devices with it.
    """
    from prunetune.errors import ConfigError, CorruptionError, DivergedSourceError, InvariantError, one_line
    from prunetune.execution.events import Done, Failed, Skipped
    from prunetune.execution.run_step import execute
    from prunetune.steps.steps import Train
    from prunetune.store.checkpoints import StoppedError
    from prunetune.training.distributed import SINGLE

    step, points = assignment.step, assignment.points
    together = ranks if ranks is not None and isinstance(step, Train) and step.devices else SINGLE
    try:
        together.from_first((step, points))
        finished = execute(step, store, points, tell, assignment.checkpoint_every, stopping, together)
    except StoppedError:
        raise
    except DivergedSourceError as error:
        return Skipped(step.key, str(error))
    except (ConfigError, InvariantError, CorruptionError) as error:
        return Failed(step.key, one_line(error), type(error).__name__)
    except Exception as error:
        if together.count > 1:
            time.sleep(FIRST_WAITS)  # if another rank's death is the reason, torchrun ends this one meanwhile
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Failed(step.key, one_line(f"{step.label}: {type(error).__name__}: {error}"), type(error).__name__)
    return Done(step.key, *finished)
