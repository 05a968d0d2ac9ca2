"""An audit on a file system without locks, and one that is asked to end in each of the ways that there are."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli_runs import LISTENING, PRUNETUNE, started

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = [
    *("--set", "learning_rates=[0.1]", "--set", "sparsities=[0.5]", "--seeds", "1", "--jobs", "1"),
    *("--set", "data_args.train_limit=640", "--set", "arms=[ticket, reinit]", "--store", "store"),
]
SHORT = ["audit", "quick", "--set", "epochs=1", *SMALL]
LONG = ["audit", "quick", "--set", "epochs=1000", *SMALL]
TRAININGS = 4  # dense, dense for twice as long, ticket, reinit
LAST_LINE = "prunetune: interrupted; every finished training is stored, and of a longer one its last checkpoint; "


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def claims(folder: Path) -> list[Path]:
    return list((folder / "store" / "claims").glob("[0-9a-f]*"))


def logged(folder: Path) -> Counter[str]:
    """How often each training was done, over all logs."""
    lines = [line for log in folder.glob("*/trainings.log") for line in log.read_text().splitlines()]
    return Counter(line.split("\t")[-1] for line in lines)


def kill_at_a_step(process: subprocess.Popen[str], folder: Path) -> Path:
    """SIGKILL between two steps' ends; the claim that is left."""
    while True:
        wait_until(lambda: claims(folder))
        os.killpg(process.pid, signal.SIGSTOP)
        found = claims(folder)
        if len(found) == 1:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return found[0]
        os.killpg(process.pid, signal.SIGCONT)


def test_without_locks_a_killed_audits_work_is_done_by_the_next(tmp_path: Path) -> None:
    """The killed one was, for all that can be known, on another machine: its silence alone tells."""
    hook = "import fcntl\ndef flock(*_):\n    raise OSError(%d, 'no locks here')\nfcntl.flock = flock\n"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(hook % errno.ENOSYS)
    path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    with started(*SHORT, "--out", "one", cwd=tmp_path, env=environment) as first:
        wait_until((tmp_path / "one" / "trainings.log").exists)
        claim = kill_at_a_step(first, tmp_path)
    found = json.loads(claim.read_text())
    claim.write_text(json.dumps(found | {"machine": "another"}))
    with started(*SHORT, "--out", "two", cwd=tmp_path, env=environment) as second:
        assert second.stderr is not None
        line = next((line for line in second.stderr if "waiting" in line), "")
        since = re.escape(found["since"])
        who = f"waiting for another process \\(process {first.pid} on {found['host']}, since {since}, "
        assert re.match(who + r"last sign of life \d+ s ago\): .*; done here after 300 s without such a sign, or", line)
        assert line.endswith(f" as soon as {claim} is removed\n")
        long_ago = claim.stat().st_mtime - 1000
        os.utime(claim, (long_ago, long_ago))
        _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    counts = logged(tmp_path)
    assert len(counts) == TRAININGS
    assert set(counts.values()) == {1}
    assert claims(tmp_path) == []


def is_training(folder: Path) -> bool:
    """Whether initial weights are stored, and the dense training has been claimed."""
    return len(list(folder.glob("store/steps/??/[!.]*/manifest.json"))) == 1 and len(claims(folder)) == 1


def only_a_checkpoint_is_left(folder: Path) -> bool:
    """That of the training that was under way."""
    checkpoints = list((folder / "store" / "partial").iterdir())
    return not claims(folder) and len(checkpoints) == 1 and not (folder / "out" / "trainings.log").exists()


def test_sigterm_to_all_ends_as_ctrl_c_does(tmp_path: Path) -> None:
    with started(*LONG, "--out", "out", cwd=tmp_path) as process:
        wait_until(lambda: is_training(tmp_path))
        time.sleep(1.5)
        for _ in range(2):  # `timeout` sends it to the process and to its group
            os.killpg(process.pid, signal.SIGTERM)  # as a batch system does: workers get it too
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == LAST_LINE + "the same command goes on from here"
    assert "Traceback" not in output + errors
    assert only_a_checkpoint_is_left(tmp_path)


def test_a_terminal_that_is_closed_ends_it_as_ctrl_c_does(tmp_path: Path) -> None:
    mine, terminal = os.openpty()
    os.set_blocking(mine, False)
    process = subprocess.Popen(
        [*PRUNETUNE[:2], LISTENING + PRUNETUNE[2], *LONG, "--out", "out"],
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)

    def shown() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(mine, 1 << 16)
        return is_training(tmp_path)

    wait_until(shown)
    time.sleep(1.5)
    os.close(mine)
    assert process.wait(60) == 129
    assert only_a_checkpoint_is_left(tmp_path)


def test_a_ctrl_c_that_a_library_swallows_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("""
import os, signal, torch
def net(input_shape, outputs):
    try:
        if not os.path.exists("asked"):
            open("asked", "w").close()
            signal.raise_signal(signal.SIGINT)
    except:
        pass
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[1] ** 2, outputs))
""")
    with started(*LONG, "--set", "model=mine:net", "--out", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=60)
    assert (tmp_path / "asked").exists()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == LAST_LINE + "the same command goes on from here"
    assert "Traceback" not in output + errors
    assert not list(tmp_path.glob("store/steps/*/*"))
