"""The Ray executor on a real cluster of two nodes, one of which is killed in the middle of a training."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import prunetune as pt
from prunetune.core.environment import versions
from prunetune.errors import ConfigError
from prunetune.execution.executors.protocol import Assignment
from prunetune.store.store import Store
from tests.support.toy_study import TINY_AUDIT, Work, dense, init, prune

pytest.importorskip("ray", reason="needs the extra prunetune[ray]")

from prunetune.execution.executors.ray import Basis, RayExecutor, RayWorkers
from tests.support.refusals import refused

pytestmark = pytest.mark.cluster

CANNOT_START = 77  # exit status of two_nodes.py


def loopback_only() -> list[str]:
    """How a command is run in a network that has nothing but loopback, where this machine permits it."""
    for option in ("-n", "-rn"):
        wrapped = ["unshare", option, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and not subprocess.run([*wrapped, "true"], capture_output=True).returncode:
            return wrapped
    return []


def run_apart(wrapped: list[str], module: str, folder: Path, **changes: str) -> dict[str, Any]:
    """What a module of `tests.support` prints last: Ray changes the process that it is in."""
    command = [*wrapped, sys.executable, "-m", f"tests.support.{module}", str(folder)]
    environment = os.environ | changes | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # a socket's name may have a hundred letters
        environment |= {"RAY_TMPDIR": short, "HOME": short}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == CANNOT_START:
        pytest.skip(f"Ray cannot be started here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the study on two nodes, and what was told of it."""
    folder = tmp_path_factory.mktemp("nodes")
    # 0: Ray is not to make an outer address of 127.0.0.1, also where there is one
    return folder, run_apart(loopback_only(), "two_nodes", folder, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")


def results(out: Path) -> dict[str, Any]:
    """All of them but what tells when a training was done, and where."""
    found = json.loads((out / "results.json").read_text())
    for trial in found["trials"]:
        del trial["cached"], trial["seconds"]
    return found


def test_a_killed_node_costs_time_and_no_byte(told: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, said = told
    assert said["failures"] == []
    lost = [(key, text) for kind, key, text in said["events"] if kind == "notice" and "its worker" in text]
    assert len(lost) == 1
    key, text = lost[0]
    assert key == said["killed"]
    assert text.startswith(f"Train {key[:12]} is tried again: its worker was ")
    notices = [text for kind, of, text in said["events"] if kind == "notice" and of == key]
    assert any("goes on after epoch" in text for text in notices)  # from the checkpoint that the dead node left
    counts = Counter(kind for kind, *_ in said["events"])
    assert counts["started"] == counts["done"] + 1
    pt.audit(TINY_AUDIT, store=tmp_path / "store", out=tmp_path / "out", jobs=1)
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
    assert list((store / "partial").glob("[!.]*")) == []
    Store(store).gc()  # of what the node was killed at writing, which has no name yet
    assert list((store / "partial").iterdir()) == []


def test_nodes_with_another_torch_are_refused(told: tuple[Path, dict[str, Any]]) -> None:
    said = told[1]["refused"]
    assert said.startswith("--executor ray: ")
    assert f"has torch {versions()['torch']}, and this process 0.1; install the same versions on all nodes" in said


def test_without_an_address_a_local_cluster_is_started_that_no_network_reaches(tmp_path: Path) -> None:
    said = run_apart([], "local_ray", tmp_path / "store")
    assert said["kinds"] == ["started", "done"]
    for addresses in said["addresses"]:
        assert addresses
        assert all(address.removeprefix("::ffff:") in ("127.0.0.1", "::1") for address in addresses)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "no Ray cluster at '127.0.0.1:1': Connection refused"),
        ("nowhere", "'nowhere' is neither 'auto' nor HOST:PORT"),
        ("ray://127.0.0.1:10001", "'ray://127.0.0.1:10001' is neither"),
    ],
)
def test_an_address_that_does_not_answer(store: Store, address: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        next(RayExecutor(address).run(Work((init(),)), store))
    assert str(caught.value).startswith("--address: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_cluster_is_told_before_ray_waits_for_it(store: Store) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with refused("--address", "answers"):
            next(RayExecutor(f"127.0.0.1:{server.server_port}").run(Work((init(),)), store))
        server.shutdown()


def test_a_silent_address_is_not_waited_for_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunetune.execution.executors.ray.ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, refused("--address", "timed out"):
        next(RayExecutor(f"127.0.0.1:{server.getsockname()[1]}").run(Work((init(),)), store))


def test_only_what_runs_on_a_gpu_takes_a_share_of_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Task:
        def options(self, **options: Any) -> "Task":
            asked.append(options)
            return self

        def remote(self, *arguments: Any) -> object:
            return object()

    monkeypatch.setattr("prunetune.execution.executors.ray.ray.remote", lambda function: Task())
    workers = RayWorkers(Basis("", "", {}), None, 0.5)
    training = dense(init())
    for step in (training, replace(training, device="cuda"), prune(training)):
        workers.begin(Assignment(step, (), 0.0))
    assert [(options["num_cpus"], options["num_gpus"]) for options in asked] == [(1, 0), (1, 0.5), (1, 0)]
    assert {options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] for options in asked} == {"1"}


def test_a_store_that_is_not_shared_is_refused(store: Store) -> None:
    with refused("store", "nodes"):
        Basis(str(store.root), "no-such-sign", versions()).check()
