"""A worker process: does one step after another, and ends with the process that started it.

Steps come in on the standard input and events go out on what was the standard output; both are taken for this alone.
Whatever libraries and the user's code print goes to the worker's log in the store. Imports that take their time are
made after the watchdog stands.
"""

import os
import queue
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from prunetune.run.events import Blocked, Done, Failed
    from prunetune.run.execute import Tell
    from prunetune.run.store import Store
    from prunetune.run.wire import Assignment


def main(store: str, log: str) -> None:
    """Serve until the standard input ends: `store` is the store's folder, `log` the file for everything printed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the study decides what becomes of it
    commands, events = _take_pipes(log)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(commands, inbox), daemon=True).start()
    _serve(store, inbox, events)


def _take_pipes(log: str) -> tuple[BinaryIO, BinaryIO]:
    """Move both pipes to descriptors that nobody else knows, and put the log in the place of the standard streams."""
    commands, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)
    return commands, events


def _watch(commands: BinaryIO, inbox: "queue.SimpleQueue[bytes]") -> None:
    """Pass messages on; when the other side is gone, by whatever death, end at once in the middle of any work."""
    from prunetune.run.wire import receive

    while (message := receive(commands)) is not None:
        inbox.put(message)
    os._exit(0)


def _serve(store: str, inbox: "queue.SimpleQueue[bytes]", events: BinaryIO) -> None:
    import pickle

    import torch

    from prunetune.run.environment import THREADS_PER_TRAINING
    from prunetune.run.store import Store
    from prunetune.run.wire import send

    torch.set_num_threads(THREADS_PER_TRAINING)
    opened = Store(store)
    while True:
        assignment = pickle.loads(inbox.get())
        send(events, do(assignment, opened, lambda event: send(events, event)))
        sys.stdout.flush()


def do(assignment: "Assignment", store: "Store", tell: "Tell") -> "Done | Failed | Blocked":
    """The event that a step ends with: an error becomes one line, and the traceback of a surprise is printed."""
    from prunetune.errors import BreachError, DamageError, DivergedSourceError, RequestError, one_line
    from prunetune.run.events import Blocked, Done, Failed, label
    from prunetune.run.execute import execute

    step = assignment.step
    try:
        finished = execute(step, store, assignment.points, tell, assignment.checkpoint_every)
    except DivergedSourceError as error:
        return Blocked(step.key, str(error))
    except (RequestError, BreachError, DamageError) as error:
        return Failed(step.key, one_line(error), type(error).__name__)
    except Exception as error:
        traceback.print_exc()
        return Failed(step.key, one_line(f"{label(step)}: {type(error).__name__}: {error}"), type(error).__name__)
    return Done(step.key, *finished)
