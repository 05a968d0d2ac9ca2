"""A variant in a process of its own: allocator settings and thread counts are fixed when a process starts."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, TypeVar, cast

from prunetune.execution.executors.launch import WORKER_ENVIRONMENT, default_jobs
from prunetune.execution.executors.protocol import receive, send

T = TypeVar("T")

PRODUCT = WORKER_ENVIRONMENT  # one thread, and memory that is kept
_ALLOCATOR = ("MALLOC_", "GLIBC_")  # what variables that set the allocator begin with
USUAL = {name: value for name, value in PRODUCT.items() if not name.startswith(_ALLOCATOR)}  # one thread
CORES = default_jobs()
USUAL_ALL_CORES = dict.fromkeys((name for name in USUAL), str(CORES))  # as torch does by itself: one process, all cores
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from benchmarks.serving import serve; serve()"


@contextmanager
def served(make: Callable[[], Callable[[], T]], environment: Mapping[str, str] = PRODUCT) -> Iterator[Callable[[], T]]:
    """Call `make`, which must be picklable, in a new process; each call of what is yielded calls its result there.

    Between calls the process sleeps. Raises RuntimeError when it dies; its error stands on the standard error.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith(_ALLOCATOR)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, *map(str, sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=outside | dict(environment),
    )
    inbox, outbox = cast(BinaryIO, process.stdout), cast(BinaryIO, process.stdin)

    def call() -> T:
        send(outbox, None)
        message = receive(inbox)
        if message is None:
            raise RuntimeError(f"the process of a variant ended with status {process.wait()}")
        return pickle.loads(message)

    try:
        send(outbox, make)
        yield call
    finally:
        process.kill()
        process.communicate()


@contextmanager
def several(make: Callable[[], Callable[[], float]], count: int) -> Iterator[Callable[[], float]]:
    """`count` processes of one thread that do the same at once: the slowest one's speed, `count` times."""
    with ExitStack() as stack:
        calls = [stack.enter_context(served(make)) for _ in range(count)]
        pool = stack.enter_context(ThreadPoolExecutor(count))
        yield lambda: count * min(pool.map(lambda call: call(), calls))


def serve() -> None:
    """The process's side. What libraries print goes to the standard error."""
    commands, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    work = pickle.loads(receive(commands) or b"")()
    while receive(commands) is not None:
        send(results, work())
