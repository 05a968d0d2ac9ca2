"""How the tests of the command line call it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.forked import run_command

PRUNETUNE = [sys.executable, "-c", "from prunetune.cli.main import main; main()"]
# A process that is started in a shell's background ignores Ctrl-C, and so do its children: also those of these tests.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def prunetune(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own and in the folder `cwd`, as a shell would."""
    return run_command([*map(str, arguments)], cwd)


def started(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """The command under way, at the head of a process group of its own; its streams are pipes."""
    pipe = subprocess.PIPE
    command = [*PRUNETUNE[:2], LISTENING + PRUNETUNE[2], *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, start_new_session=True, stdout=pipe, stderr=pipe)
