"""Stores for the tests of `run`; the finished one is made once."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prunetune.execution.executors import launch, local
from prunetune.execution.run_step import execute
from prunetune.store.store import Store
from tests.support.forked import start_worker, usual_environment
from tests.support.toy_study import small_study

gc.disable()  # until all is imported: modules are no garbage


def pytest_collection_finish() -> None:
    """What is imported by now stays, and no later collection of garbage need look at half a million objects of it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _quick() -> Iterator[None]:
    """Workers of the local executor are forked, and no disk is waited for: nobody pulls the plug while tests run.

    One thread a process: where each core has its worker of xdist, more of them wait for one another most of the time.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(local, "start", start_worker)
        patch.setattr(os, "fsync", lambda _: None)
        usual_environment()
        yield


@pytest.fixture
def started_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started as users' are: interpreters of their own."""
    monkeypatch.setattr(local, "start", launch.start)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("finished") / "store")
    store.prepare()
    work = small_study()
    for step in work.steps:
        execute(step, store, work.snapshots.get(step.key, frozenset()))
    return store.root


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Store:
    """A store with all of `small_study()`, to be changed at will."""
    shutil.copytree(finished_once, tmp_path / "finished")
    return Store(tmp_path / "finished")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a stand-in for S3, in a thread of this process."""
    pytest.importorskip("s3fs", reason="the stand-in for S3 is read with s3fs")
    moto = pytest.importorskip("moto.server", reason="the stand-in for S3 is moto's server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's URL, with what this process and those that it starts need to reach it."""
    import fsspec
    from fsspec.config import conf

    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", s3_server)
    monkeypatch.setitem(conf, "s3", {"endpoint_url": s3_server})  # the environment is read at import only
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{os.urandom(6).hex()}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"
