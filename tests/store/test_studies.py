"""Which studies a store's steps belong to, and `gc --study`: nothing that another one rests on is removed."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from prunetune.api import plan_study, preflight, run_study
from prunetune.execution.events import Event
from prunetune.execution.scheduler import Work
from prunetune.plan.compile import step_names
from prunetune.sparsity.mask import Mask
from prunetune.steps.steps import Init, Step
from prunetune.store.cache import open_store
from prunetune.store.maintenance import Leftover
from prunetune.store.store import StoreWriter
from prunetune.store.studies import StoredStudy
from tests.support.refusals import refused
from tests.support.toy_study import dense, init, prune

STATE = {"w": torch.arange(6.0)}


@pytest.fixture(params=["folder", "memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreWriter:
    """An empty store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = {"folder": tmp_path / "store", "memory": f"memory:/{tmp_path}", "file": f"file://{tmp_path}/elsewhere"}
    store = open_store(where[request.param])
    store.prepare()
    return store


def write(store: StoreWriter, step: Step, *parents: Step) -> None:
    mask = Mask({"w": torch.tensor([True, False])}) if step == prune(dense(init())) else None
    files = {parent.key: store.manifest(parent.key)["files"]["metrics.json"]["sha256"] for parent in parents}
    inputs = {f"{key}/metrics.json": digest for key, digest in files.items()}
    store.write(step, {"density": 0.5}, state=None if mask else STATE, mask=mask, inputs=inputs)


def study(name: str, digest: str, *steps: Step) -> StoredStudy:
    return StoredStudy(name, digest, {step.key: f"{type(step).__name__.lower()} seed 0" for step in steps})


def filled(store: StoreWriter) -> tuple[Step, Step, Step]:
    """Initial weights, a training of them, and its mask, each stored."""
    first, training = init(), dense(init())
    mask = prune(training)
    write(store, first)
    write(store, training, first)
    write(store, mask, training)
    return first, training, mask


def keys(store: StoreWriter) -> set[str]:
    return set(store.stored())


def test_ls_says_study_and_what_the_step_is_there(store: StoreWriter) -> None:
    first, training, mask = filled(store)
    store.note_study(study("one", "00000001", first, training))
    store.note_study(study("two", "00000002", training))
    lines = {entry.key: str(entry) for entry in store.ls()}
    assert "  one: init seed 0  " in lines[first.key]
    assert "  one, two: train seed 0  " in lines[training.key]
    assert "  –  " in lines[mask.key]  # as steps of earlier versions
    assert lines[first.key].startswith(f"Init     {first.key[:12]} ")


def test_a_study_that_is_noted_again_keeps_its_steps(store: StoreWriter) -> None:
    """On another device, or by another version, the same spec has other steps."""
    first, training, _ = filled(store)
    store.note_study(study("one", "00000001", first))
    store.note_study(study("one", "00000001", training))
    (found,) = store.studies()
    assert found == study("one", "00000001", first, training)


def test_gc_removes_a_study_and_its_file(store: StoreWriter) -> None:
    steps = filled(store)
    store.note_study(study("one", "00000001", *steps))
    told: list[Leftover] = []
    freed, removed = store.remove_study("one", True, told.append)
    assert (keys(store), len(store.studies())) == ({step.key for step in steps}, 1)  # a dry run
    assert [leftover.why for leftover in told].count("train seed 0") == 1
    assert freed == sum(leftover.size for leftover in told) > 0
    assert not removed.kept
    store.remove_study("one")
    assert (keys(store), store.studies()) == (set(), [])
    write(store, steps[0])
    assert list(store.verify()) == []


def test_what_another_study_needs_stays(store: StoreWriter) -> None:
    first, training, mask = filled(store)
    store.note_study(study("one", "00000001", first, training, mask))
    store.note_study(study("two", "00000002", training))  # whose start it does not list
    _, removed = store.remove_study("one")
    assert keys(store) == {first.key, training.key}
    assert removed.kept == {training.key: "two", first.key: "two"}
    store.remove_study("two")
    assert keys(store) == {first.key}  # of no study that is listed by now: nobody's to remove


def test_what_a_step_of_no_study_was_made_from_stays(store: StoreWriter) -> None:
    first, training, mask = filled(store)
    store.note_study(study("one", "00000001", first, training))
    _, removed = store.remove_study("one")
    assert keys(store) == {first.key, training.key, mask.key}
    assert set(removed.kept) == {first.key, training.key}


def test_one_of_two_specs_of_a_name(store: StoreWriter) -> None:
    first, training, _ = filled(store)
    assert isinstance(first, Init)
    other = Init(first.model, first.input_shape, first.outputs, seed=99)
    write(store, other)
    store.note_study(study("one", "00000001", first, training))
    store.note_study(study("one", "00000002", other))
    store.remove_study("one-00000002")
    assert [str(found) for found in store.studies()] == ["one-00000001"]
    assert other.key not in keys(store)
    with refused("--study", "'on'", "'one'"):
        store.remove_study("on")


def test_a_study_under_way_is_refused(store: StoreWriter) -> None:
    steps = filled(store)
    store.note_study(study("one", "00000001", *steps))
    with closing(store.leases()) as leases:
        assert leases.take(steps[1].key)
        with refused("--study", "'one'", "under way"):
            store.remove_study("one")
    assert len(keys(store)) == 3


def test_files_of_another_form_are_passed_over_and_left(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.prepare()
    folder = tmp_path / "store" / "studies"
    contents = {
        "notes.txt": "mine", "a-00000001.json": "{", "b-00000002.json": "[]", "c-00000003.json": '{"kind": "x"}',
        "d-00000004.json": '{"kind": "prunetune study", "schema_version": 1, "name": "e", "steps": {}}',
        "f-00000005.json": '{"kind": "prunetune study", "schema_version": 1, "name": "f", "steps": {"../x": "y"}}',
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(content)
    assert store.studies() == [StoredStudy("f", "00000005", {})]
    with refused("--study", "'a'"):
        store.remove_study("a")
    assert {path.name: path.read_text() for path in folder.iterdir()} == contents


def test_a_store_without_studies_says_why(store: StoreWriter) -> None:
    with refused("--study", "'quick'", "lists no study"):
        store.remove_study("quick")


def test_every_step_of_a_plan_has_a_name(tmp_path: Path) -> None:
    plan = plan_study("quick", ["seeds=1", "arms=ticket,reinit,finetune"], store=tmp_path).plan
    names = step_names(plan)
    assert {step.key for step in plan.steps} == set(names)
    shown = set(names.values())
    assert {"start of dense seed 0", "start of reinit seed 0", "mask iterative 80.0% lr 0.1 seed 0"} <= shown
    assert len([name for name in names.values() if name == "start of dense seed 0"]) == 1


def test_a_study_whose_list_was_removed_as_it_began_is_listed_again(store: StoreWriter) -> None:
    one = study("one", "00000001", *filled(store))
    store.note_study(one)
    store.remove_study("one")
    with store.under_way(one):
        assert store.studies() == [one]


def test_a_study_is_under_way_where_no_step_is_being_done(store: StoreWriter) -> None:
    """And no longer than that, though two processes may be at it."""
    steps = filled(store)
    one, other = study("one", "00000001", *steps), study("two", "00000002", *steps)
    store.note_study(other)
    with store.under_way(one):
        with store.under_way(one):
            pass
        with refused("--study", "'one'", "under way", f"process {os.getpid()}"):
            store.remove_study("one")
        store.remove_study("two")  # whose steps stay
        assert keys(store) == {step.key for step in steps}
    store.remove_study("one")
    assert keys(store) == set()


def test_a_process_that_was_killed_is_at_no_study(tmp_path: Path) -> None:
    """On this machine at once; what is left of it goes with the next `gc`."""
    folder = tmp_path / "store"
    store = open_store(folder)
    store.prepare()
    store.note_study(study("one", "00000001", *filled(store)))
    holding = (
        "import sys, time; from prunetune.store.store import Store; from prunetune.store.studies import StoredStudy\n"
        "with Store(sys.argv[1]).under_way(StoredStudy('one', '00000001', {})):\n"
        "    print('held', flush=True), time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with refused("--study", "'one'", "under way", f"process {process.pid}"):
            store.remove_study("one")
        process.kill()
    assert len(list((folder / "claims").glob("study-*"))) == 1
    store.remove_study("one")
    assert keys(store) == set()
    store.gc()
    assert list((folder / "claims").glob("study-*")) == []


class Removing:
    """An executor that does nothing; meanwhile somebody wants the study removed."""

    def run(self, plan: Work, store: StoreWriter) -> Generator[Event, None, None]:
        """Be refused."""
        with refused("--study", "'quick'", "under way"):
            store.remove_study("quick")
        yield from ()


def test_an_audit_is_under_way_before_its_first_step(tmp_path: Path) -> None:
    prepared = plan_study("quick", ["seeds=1"], store=tmp_path / "store")
    folder = preflight(prepared, tmp_path / "out")
    run_study(prepared, folder, executor=Removing())
    assert [found.name for found in prepared.store.studies()] == ["quick"]
    assert list((tmp_path / "store" / "claims").glob("study-*")) == []
