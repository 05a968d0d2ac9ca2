"""Processes that start in a moment: forked from a server that has imported prunetune and has done nothing else.

Importing torch takes seconds; a test that wants a process of its own, to kill it or to see what a shell would see,
needs not pay them each time.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from fsspec.config import conf, set_conf_env

from prunetune.execution.executors import launch, worker
from prunetune.store.store import StoreWriter

IMPORTED = [
    *("prunetune.api", "prunetune.compression.compress_models", "prunetune.cli.main", "prunetune.execution.run_step"),
    *("prunetune.execution.executors.worker", "matplotlib.figure", "torch._dynamo"),
]


def environment() -> dict[str, str]:
    """Of this process, but for what pytest changes with every test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@cache
def usual_environment() -> Mapping[str, str]:
    """What `environment` is where no test has changed it: first called before all tests."""
    return environment()


@cache
def server() -> ForkServerContext:
    """The server, started in the usual environment, whatever the test that first needs it has changed."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with mock.patch.dict(os.environ, usual_environment(), clear=True):
        forkserver.ensure_running()
    return context


def run_ranks(function: Callable[..., None], count: int, *arguments: Any) -> list[int]:
    """Call a function with 0, 1, … first, each in a process of its own and all at once; the exit codes."""
    processes = [server().Process(target=function, args=(rank, *arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


def run_forked(function: Callable[..., None], *arguments: Any) -> int:
    """Call a function that can be pickled in a process of its own; its exit code, negative for a signal."""
    process = server().Process(target=function, args=arguments)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def run_command(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """`prunetune` with its arguments in the folder `cwd`; its streams are files.

    In a new interpreter where the environment is not the server's: libraries read it when they are imported.
    """
    if usual_environment() != environment():
        command = [sys.executable, "-c", "from prunetune.cli.main import main; main()", *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    with TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        code = run_forked(_command, arguments, cwd, out, err)
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), err.read_text("utf-8"))


def _command(arguments: list[str], cwd: Path, out: Path, err: Path) -> None:
    os.chdir(cwd)
    for stream, path in (1, out), (2, err):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["prunetune", *arguments]
    from prunetune.cli.main import main

    main()


class Worker:
    """A forked worker of the local executor, with what that uses of `subprocess.Popen`."""

    def __init__(self, store: StoreWriter, log: Path, place: int) -> None:
        context = server()
        commands, self.stdin = _pipe(context, "wb")
        events, self.stdout = _pipe(context, "rb")
        circumstances = str(Path.cwd()), launch.environment(place, 1), sys.path
        self._process = context.Process(target=_work, args=(commands, events, str(store.root), str(log), circumstances))
        self._process.start()
        for end in (commands, events):  # the worker's now
            end.close()
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; TimeoutExpired after so many seconds."""
        self._process.join(timeout)
        self.returncode = self._process.exitcode
        if self.returncode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._process.kill()


def start_worker(store: StoreWriter, log: Path, place: int, ranks: int, resources: ExitStack) -> Any:
    """What `launch.start` does, in a moment."""
    return Worker(store, log, place) if ranks == 1 else launch.start(store, log, place, ranks, resources)


def _pipe(context: ForkServerContext, mode: str) -> tuple[Connection, Any]:
    """The worker's end of a new pipe, and ours as a file."""
    reader, writer = context.Pipe(duplex=False)
    theirs, ours = (reader, writer) if mode == "wb" else (writer, reader)
    file = os.fdopen(os.dup(ours.fileno()), mode)
    ours.close()
    return theirs, file


def _work(
    commands: Connection, events: Connection, store: str, log: str, here: tuple[str, Mapping[str, str], list[str]]
) -> None:
    folder, variables, path = here
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    set_conf_env(conf)  # the environment of fsspec, which was imported in another
    sys.path[:] = path
    for end, stream in ((commands, 0), (events, 1)):
        os.dup2(end.fileno(), stream)
        end.close()
    worker.main(store, log, "")
