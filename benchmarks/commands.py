"""Whole commands, timed from outside."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PYTHON = (sys.executable,)
PRUNETUNE = (sys.executable, "-c", "from prunetune.cli.main import main; main()")


class Cost(NamedTuple):
    """Seconds by the clock, and of processor time, that of the command's own workers included."""

    wall: float
    processor: float


def run_command(*arguments: str | Path, cwd: Path) -> Cost:
    """Run a command in `cwd` with the modules that this process sees; RuntimeError with its errors when it fails."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    before, began = _children(), time.perf_counter()
    done = subprocess.run([*map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    cost = Cost(time.perf_counter() - began, _children() - before)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with status {done.returncode}: {done.stderr}")
    return cost


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
