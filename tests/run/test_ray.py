"""The Ray executor on a real cluster of two nodes, one of which is killed in the middle of a training."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from toy_study import TINY_AUDIT, Work, init

import prunetune as pt
from prunetune.errors import RequestError
from prunetune.run.environment import versions
from prunetune.run.store import Store

pytest.importorskip("ray", reason="needs the extra prunetune[ray]")

from prunetune.run.ray import Basis, RayExecutor

CANNOT_START = 77  # exit status of two_nodes.py


def loopback_only() -> list[str]:
    """How a command is run in a network that has nothing but loopback, where this machine permits it."""
    for option in ("-n", "-rn"):
        wrapped = ["unshare", option, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and not subprocess.run([*wrapped, "true"], capture_output=True).returncode:
            return wrapped
    return []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the study on two nodes, and what was told of it."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds the workers of a node in /proc")
    folder = tmp_path_factory.mktemp("nodes")
    command = [*loopback_only(), sys.executable, str(Path(__file__).with_name("two_nodes.py")), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # a socket's name may have a hundred letters
        environment |= {"RAY_TMPDIR": short, "HOME": short}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == CANNOT_START:
        pytest.skip(f"Ray cannot be started here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def results(out: Path) -> dict[str, Any]:
    """All of them but what tells when a training was done, and where."""
    found = json.loads((out / "results.json").read_text())
    for trial in found["trials"]:
        del trial["cached"], trial["seconds"]
    return found


def test_a_killed_node_costs_time_and_no_byte(told: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, said = told
    assert said["killed"]
    assert said["failures"] == []
    lost = [(key, text) for kind, key, text in said["events"] if kind == "notice" and "its worker" in text]
    assert len(lost) == 1
    key, text = lost[0]
    assert text.startswith(f"Train {key[:12]} is tried again: its worker was ")
    notices = [text for kind, of, text in said["events"] if kind == "notice" and of == key]
    assert any("goes on after epoch" in text for text in notices)  # from the checkpoint that the dead node left
    counts = Counter(kind for kind, *_ in said["events"])
    assert counts["started"] == counts["done"] + 1
    pt.audit(TINY_AUDIT, store=tmp_path / "store", out=tmp_path / "out", jobs=2)
    assert results(folder / "out") == results(tmp_path / "out")
    ours, theirs = (root / "store" / "steps" for root in (folder, tmp_path))
    names = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    for name in names:
        assert name.name == "manifest.json" or (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert list(Store(folder / "store").verify()) == []


def test_nothing_is_left_in_the_store(told: tuple[Path, dict[str, Any]]) -> None:
    store = told[0] / "store"
    assert list((store / "claims").glob("[!.]*")) == []
    assert list((store / "logs").iterdir()) == []
    assert list((store / "partial").iterdir()) == []


def test_nodes_with_another_torch_are_refused(told: tuple[Path, dict[str, Any]]) -> None:
    said = told[1]["refused"]
    assert said.startswith("--executor ray: ")
    assert f"has torch {versions()['torch']}, and this process 0.1; install the same versions on all nodes" in said


def test_without_an_address_a_local_cluster_is_started(told: tuple[Path, dict[str, Any]]) -> None:
    assert told[1]["local"] == ["started", "done"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "no Ray cluster at '127.0.0.1:1': Connection refused"),
        ("nowhere", "'nowhere' is neither 'auto' nor HOST:PORT"),
        ("ray://127.0.0.1:10001", "'ray://127.0.0.1:10001' is neither"),
    ],
)
def test_an_address_that_does_not_answer(store: Store, address: str, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        next(RayExecutor(address).run(Work((init(),)), store))
    assert str(caught.value).startswith("--address: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_is_not_shared_is_refused(store: Store) -> None:
    with pytest.raises(RequestError, match=r"is not the same folder on .*; give one that all nodes share"):
        Basis(str(store.root), "no-such-sign", versions()).check()
