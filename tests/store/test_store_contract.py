"""What a store must do wherever it lies: in a folder, or at a URL with a folder of the user's cache before it."""

from pathlib import Path

import pytest
import torch

from prunetune.errors import InvariantError
from prunetune.sparsity.mask import Mask
from prunetune.store.cache import open_store
from prunetune.store.store import StoreWriter
from tests.support.toy_study import ONE_EPOCH, dense, init, prune

STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


@pytest.fixture(params=["folder", "memory", "file", pytest.param("s3", marks=pytest.mark.cluster)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreWriter:
    """An empty store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    at = {"folder": tmp_path / "store", "memory": f"memory:/{tmp_path}", "file": f"file://{tmp_path}/elsewhere"}
    where = f"{request.getfixturevalue('bucket')}/some/where" if request.param == "s3" else at[request.param]
    store = open_store(where)
    store.prepare()
    return store


def test_reads_back_what_was_written(store: StoreWriter) -> None:
    train, mask = dense(init()), Mask({"w": torch.tensor([True, False])})
    store.write(train, {"diverged": False, "steps": 8}, state=STATE, snapshots={ONE_EPOCH: {"w": torch.ones(2)}})
    store.write(prune(train), {"density": 0.5}, mask=mask)
    assert store.metrics(train.key) == {"diverged": False, "steps": 8}
    assert all(torch.equal(store.state(train.key)[name], tensor) for name, tensor in STATE.items())
    assert store.state(train.key)["n"].dtype == torch.int64
    assert torch.equal(store.state(train.key, ONE_EPOCH)["w"], torch.ones(2))
    assert store.mask(prune(train).key) == mask


def test_tied_and_strided_tensors_are_stored_under_each_name(store: StoreWriter) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).t()
    store.write(init(), {}, state={"a": tensor, "b": tensor})
    read = store.state(init().key)
    assert torch.equal(read["a"], tensor)
    assert torch.equal(read["b"], tensor)


def test_has_asks_for_the_snapshots_too(store: StoreWriter) -> None:
    step = dense(init())
    assert not store.has(step.key)
    store.write(step, {"diverged": False}, state=STATE)
    assert store.has(step.key)
    assert not store.has(step.key, [ONE_EPOCH])
    store.write(step, {"diverged": False}, state=STATE, snapshots={ONE_EPOCH: STATE})
    assert store.has(step.key, [ONE_EPOCH])
    assert torch.equal(store.state(step.key, ONE_EPOCH)["w"], STATE["w"])
    assert list(store.verify()) == []


def test_a_diverged_training_lacks_no_snapshot(store: StoreWriter) -> None:
    """It ended before some of its moments came, and nothing starts from it: it must not be run again and again."""
    step = dense(init())
    store.write(step, {"diverged": True}, state=STATE)
    assert store.has(step.key, [ONE_EPOCH])


def test_quarantine_keeps_the_files_for_a_look_and_frees_the_key(store: StoreWriter) -> None:
    step = init()
    store.write(step, {"digest": "x"}, state=STATE)
    where = store.quarantine(step.key)
    assert (where / "state.safetensors").exists()
    assert not store.has(step.key)
    store.write(step, {"digest": "y"}, state=STATE)
    assert store.has(step.key)
    assert list(store.verify()) == []


def test_ls_tells_kind_and_what_was_measured(store: StoreWriter) -> None:
    train = dense(init())
    store.write(train, {"diverged": False, "test_accuracy": 81.25}, state=STATE)
    store.write(prune(train), {"density": 0.5}, mask=Mask({"w": torch.tensor([True, False])}))
    lines = {entry.kind: str(entry) for entry in store.ls()}
    assert lines["Train"].startswith(f"Train    {train.key[:12]} ")
    assert "test accuracy 81.25 %" in lines["Train"]
    assert "density 0.5" in lines["Prune"]


@pytest.mark.parametrize(
    ("metrics", "state"), [({"steps": 9}, STATE), ({"steps": 8}, {**STATE, "w": STATE["w"] + 1e-7})]
)
def test_a_second_writer_must_have_the_same_bytes(store: StoreWriter, metrics: dict, state: dict) -> None:
    store.write(init(), {"steps": 8}, state=STATE, seconds=1.0)
    store.write(init(), {"steps": 8}, state=STATE, seconds=2.0)  # another time is no difference
    with pytest.raises(InvariantError, match=f"Init {init().key[:12]}: not reproducible here: "):
        store.write(init(), metrics, state=state, snapshots={ONE_EPOCH: STATE})
    assert torch.equal(store.state(init().key)["w"], STATE["w"])
    assert store.metrics(init().key) == {"steps": 8}
    assert store.manifest(init().key)["seconds"] == 1.0
    assert list(store.verify()) == []
