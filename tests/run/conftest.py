"""Stores for the tests of `run`; the finished one is made once."""

import shutil
from pathlib import Path

import pytest
from toy_study import small_study

from prunetune.run.execute import execute
from prunetune.run.store import Store


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
