"""Kill a small study again and again at random moments, go on each time, and compare with one that was left in peace.

Every kill is SIGKILL to the process of the study, to one of its workers, or to all of them at once. A study that ends
before its kills are used up is compared, and a new one begun. Exit code 1 when any byte but times differs, a store does
not verify, or something is left behind.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from prunetune.api import plan_study
from prunetune.core.environment import cpu_model
from prunetune.execution.events import Event
from prunetune.execution.executors.local import LocalExecutor
from prunetune.store.store import Store

STUDY = [
    *("epochs=8", "rewind=1ep", "learning_rates=[0.1]", "seeds=1", "sparsities=[0.5]", "data_args.train_limit=2560"),
    "masks=[iterative, {kind: admm, rho: 0.003}]",
]
LONGEST = 0.4  # time from a start to a kill, in that of an undisturbed study: so that kills hit its work on any machine
RUN = "import sys; sys.path.insert(0, sys.argv[2]); import soak; soak.go_on(sys.argv[1])"


def go_on(store: str) -> None:
    """Do what is left of the study, with two workers that leave a checkpoint after every epoch; tell the events."""
    prepared = plan_study("quick", STUDY, store=store, device="cpu")
    for event in LocalExecutor(2, checkpoint_every=0.0).run(prepared.plan, prepared.store):
        print(_line(event), flush=True)


def main(kills: int, seed: int) -> int:
    """Deliver that many kills; prints what came of them, and returns the exit code."""
    began, dice, told = time.monotonic(), random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if _start(folder / "undisturbed").wait():
            return 1
        expected = _contents(folder / "undisturbed")
        size, longest = sum(map(len, expected.values())), LONGEST * (time.monotonic() - began)
        print(f"undisturbed: {len(expected)} files, {size} bytes, {longest / LONGEST:.0f} s", flush=True)
        faults: list[str] = []
        while told["kills"] < kills:
            told["studies"] += 1
            store = folder / "store"
            _harass(store, kills, longest, dice, told)
            faults += _faults(store, expected)
            shutil.rmtree(store)
            print(f"{told['kills']} kills, {told['studies']} studies, {len(faults)} faults", flush=True)
    print(
        f"{told['kills']} kills ({told['study']} of the study, {told['worker']} of a worker, {told['all']} of all; "
        f"{told['early']} before a worker was there) and {told['starts']} starts of {told['studies']} studies in "
        f"{time.monotonic() - began:.0f} s; {told['resumed']} trainings went on from a checkpoint, {told['again']} "
        f"steps to another worker; {told['studies'] * size} bytes in {told['studies'] * len(expected)} files "
        f"compared; differing, damaged or left behind: {len(faults)}"
    )
    print(f"{cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}")
    print(*faults[:20], sep="\n")
    return 1 if faults else 0


def _harass(store: Path, kills: int, longest: float, dice: random.Random, told: Counter[str]) -> None:
    """One study to its end, killed on the way as long as kills are left."""
    while True:
        process = _start(store)
        told["starts"] += 1
        while told["kills"] < kills and _is_running(process, dice.uniform(0, longest)):
            whom = dice.choice(("study", "worker", "all"))
            workers = _workers(process.pid)
            if whom == "worker" and not workers:
                continue
            for pid in {"study": [process.pid], "worker": workers[:1], "all": [process.pid, *workers]}[whom]:
                _kill(pid)
            told.update(("kills", whom) if workers else ("kills", whom, "early"))
        output, _ = process.communicate()
        told.update(_kind(line) for line in output.splitlines())
        if process.returncode > 0:
            sys.exit("the study failed by itself")
        if process.returncode == 0 and "failed" not in output:
            return


def _faults(store: Path, expected: dict[str, bytes]) -> Iterator[str]:
    found, opened = _contents(store), Store(store)
    yield from (f"differs: {name}" for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    yield from (f"verify: {problem}" for problem in opened.verify())
    yield from (f"left behind: {path.name}" for path in (store / "partial").glob("[!.]*"))
    opened.gc()
    yield from (f"left behind: {path.name}" for path in store.rglob(".tmp-*"))
    yield from (f"left behind: claim {path.name}" for path in (store / "claims").glob("[!.]*"))


def _contents(store: Path) -> dict[str, bytes]:
    """Every file of every step but the manifests, which hold times, and what kills have left unfinished."""
    files = (path for path in store.glob("steps/*/[!.]*/[!.]*") if path.name != "manifest.json")
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def _start(store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(store), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _is_running(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether the process lives after this time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _workers(pid: int) -> list[int]:
    """The processes that this one has started."""
    children = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for found in children for child in found]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _line(event: Event) -> str:
    return f"{event.kind} {getattr(event, 'message', '')}"


def _kind(line: str) -> str:
    if line.startswith("notice"):
        return "resumed" if "goes on after epoch" in line else "again" if "is tried again" in line else "noticed"
    return line.split()[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", metavar="KILLS", type=int, nargs="?", default=200, help="else %(default)s")
    parser.add_argument("seed", metavar="SEED", type=int, nargs="?", default=0, help="of the moments; else %(default)s")
    given = parser.parse_args()
    sys.exit(main(given.kills, given.seed))
