"""Processes that start in a moment: forked from a server that has imported prunetune and has done nothing else.

Importing torch takes seconds; a test that wants a process of its own, to kill it or to see what a shell would see,
needs not pay them each time.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMPORTED = ["prunetune.api", "prunetune.compress", "prunetune.cli.main", "prunetune.execution.run_step"]


def environment() -> dict[str, str]:
    """Of this process, but for what pytest changes with every test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@cache
def server() -> tuple[ForkServerContext, Mapping[str, str]]:
    """The server, and the environment that it is started in."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context, environment()


def run_forked(function: Callable[..., None], *arguments: Any) -> int:
    """Call a function that can be pickled in a process of its own; its exit code, negative for a signal."""
    process = server()[0].Process(target=function, args=arguments)
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
    if server()[1] != environment():
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
