"""Lines through the store: what a Connect step reads, measures and refuses, and a study of sibling runs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunetune as pt
from prunetune import api
from prunetune.api import Audit
from prunetune.errors import DivergedSourceError, InvariantError
from prunetune.execution import cost, timing
from prunetune.execution import run_step as connecting
from prunetune.execution.events import Cached, Failed
from prunetune.execution.progress import Progress
from prunetune.execution.run_step import execute
from prunetune.execution.scheduler import Schedule
from prunetune.plan.compile import Plan, plan
from prunetune.plan.measurements import sibling_run
from prunetune.results.collect import collect
from prunetune.rows import Results
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Connect, Init, Train, Weights
from prunetune.store.layout import Manifest
from prunetune.store.store import Store
from prunetune.training.evaluate import PathScores
from tests.support.toy_study import OUTPUTS, SHAPE, Work, dense, images, init, net, prune, recipe, sparse

START = init(0)
DENSE = dense(START)
MASK = prune(DENSE)
TICKET = sparse(Weights(START), MASK)
SIBLING = sibling_run(TICKET, 0)


def line(first: Train, second: Train) -> Connect:
    return Connect(Weights(first), Weights(second), first.mask, first.data, first.recipe)


def run(store: Store, *steps: Any) -> dict[str, Any]:
    return [execute(step, store) for step in steps if not store.has(step.key)][-1].metrics


@pytest.fixture
def walked(finished: Store) -> tuple[Store, dict[str, Any]]:
    return finished, run(finished, SIBLING, line(TICKET, SIBLING))


def test_sibling_runs_share_start_and_mask_and_see_another_order(walked: tuple[Store, dict[str, Any]]) -> None:
    store, _ = walked
    ticket, other = store.metrics(TICKET.key), store.metrics(SIBLING.key)
    for same in ("start_digest", "mask_digest", "steps", "epochs", "density"):
        assert ticket[same] == other[same]
    assert ticket["data_order_digest"] != other["data_order_digest"]
    assert not torch.equal(store.state(TICKET.key)["6.weight"], store.state(SIBLING.key)["6.weight"])


def slow_scores(state: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Loss and accuracy in plain torch, batch norm by the moments of its inputs over all training images."""
    train, _, test, labels = images()
    mean, std = train.double().mean() / 255, train.double().std(correction=0) / 255
    shown, tested = ((part / 255 - mean) / std for part in (train.double(), test.double()))
    network = net(SHAPE, OUTPUTS).double()
    assert isinstance(network, nn.Sequential)
    network.load_state_dict(state)
    network.eval()
    with torch.no_grad():
        hidden = network[0](shown)
        network[1].running_mean.copy_(hidden.mean((0, 2, 3)))  # type: ignore[union-attr, operator]
        network[1].running_var.copy_(hidden.var((0, 2, 3)))  # type: ignore[union-attr, operator]
        outputs = network(tested)
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    return float(loss), 100 * float((outputs.argmax(1) == labels).double().mean())


@pytest.mark.parametrize(("rate", "has_barrier"), [(0.05, False), (1.3, True)])
def test_a_line_is_what_plain_torch_finds_on_it(finished: Store, rate: float, has_barrier: bool) -> None:
    ticket = replace(TICKET, recipe=recipe(rate))
    found = run(finished, ticket, sibling_run(ticket, 0), line(ticket, sibling_run(ticket, 0)))
    first, second = finished.state(ticket.key), finished.state(sibling_run(ticket, 0).key)
    assert found["alpha"] == [i / 10 for i in range(11)]
    slow = [
        slow_scores({n: (1 - a) * first[n].double() + a * second[n].double() for n in first}) for a in found["alpha"]
    ]
    assert found["test_loss"] == pytest.approx([loss for loss, _ in slow], rel=1e-4, abs=1e-6)
    assert found["test_accuracy"] == pytest.approx([accuracy for _, accuracy in slow])
    above = [loss - (1 - a) * slow[0][0] - a * slow[-1][0] for a, (loss, _) in zip(found["alpha"], slow, strict=True)]
    assert found["loss_barrier"] == pytest.approx(max(above), abs=1e-4)
    assert (found["loss_barrier"] > 0.01) == has_barrier
    below = [(1 - a) * slow[0][1] + a * slow[-1][1] - right for a, (_, right) in zip(found["alpha"], slow, strict=True)]
    assert found["accuracy_barrier"] == pytest.approx(max(below))
    assert found["invariants"] == ["ends are twins", "zeros on the line"]


def test_it_reads_both_finals_and_the_mask_and_is_kept_under_its_key(walked: tuple[Store, dict[str, Any]]) -> None:
    store, found = walked
    step = line(TICKET, SIBLING)
    files = {f"{TICKET.key}/state.safetensors", f"{SIBLING.key}/state.safetensors", f"{MASK.key}/mask.safetensors"}
    assert store.manifest(step.key)["inputs"].keys() == files
    assert store.manifest(step.key)["environment"]["precision"] == "f32"
    assert store.metrics(step.key) == found
    assert next(entry.summary for entry in store.ls() if entry.key == step.key).startswith("loss barrier 0.")
    assert list(store.verify()) == []
    store.quarantine(step.key)
    assert execute(step, store).metrics == found


def test_ends_that_are_no_siblings(finished: Store) -> None:
    reinit = sparse(Weights(init(1)), MASK)
    for other, what in (
        (TICKET, "saw the same data order"),
        (reinit, "have not the same start"),
        (sibling_run(reinit, 0), "have not the same start"),
    ):
        if not finished.has(other.key):
            execute(other, finished)
        step = line(TICKET, other)
        with pytest.raises(InvariantError, match=f"^Connect {step.key[:12]}: ends are twins: its ends {what}"):
            execute(step, finished)
        assert not finished.has(step.key)


def test_a_pruned_weight_that_is_not_zero_on_the_line(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(SIBLING, finished)
    walk = connecting.score_path

    def revived(model: Any, first: Any, second: Any, *args: Any) -> PathScores:
        return walk(model, first, {**second, "3.weight": second["3.weight"] + 1}, *args)

    monkeypatch.setattr(connecting, "score_path", revived)
    with pytest.raises(InvariantError, match=r"zeros on the line: 72 pruned positions are not zero at alpha = 0\.1"):
        execute(line(TICKET, SIBLING), finished)


@pytest.mark.parametrize("which", [0, 1])
def test_a_diverged_end_blocks_the_line(store: Store, which: int) -> None:
    ends = [DENSE, sibling_run(DENSE, 0)]
    ends[which] = replace(ends[which], recipe=recipe(rate=1e20))
    step = line(*ends)
    for parent in (START, *ends):
        execute(parent, store)
    with pytest.raises(DivergedSourceError, match=f"diverged source: Train {ends[which].key[:12]}"):
        execute(step, store)
    *found, event = Schedule(Work((START, *ends, step)), store, store.leases()).take()
    assert found == [Cached(parent.key) for parent in (START, *ends)]
    assert event.kind == "blocked"  # type: ignore[union-attr]
    assert isinstance(START, Init)


# --- a study ----------------------------------------------------------------------------------------------------

STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 1, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["iterative"],
    "sparsities": [0.5, 0.75],
    "arms": ["ticket", "reinit", "random_mask"],
    "connectivity": ["dense", "ticket", "random_mask"],
    "seeds": 2,
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Path, Plan]:
    folder = tmp_path_factory.mktemp("audited")
    audit = pt.audit(STUDY, out=folder / "out", store=folder / "store", jobs=1, device="cpu")
    return audit, folder, plan(load_spec(STUDY))


def test_a_study_has_a_row_for_every_line(audited: tuple[Audit, Path, Plan]) -> None:
    audit, folder, planned = audited
    assert audit.failures == ()
    rows = json.loads((folder / "out" / "results.json").read_text())["connectivity"]
    assert [(row["mask"], row["sparsity"], row["arm"], row["seed"]) for row in rows] == [
        *((None, 0.0, "dense", seed) for seed in (0, 1)),
        *(("iterative", s, arm, seed) for s in (0.5, 0.75) for arm in ("random_mask", "ticket") for seed in (0, 1)),
    ]
    store = Store(folder / "store")
    for row in rows:
        place = row["arm"], row["sparsity"], row["seed"]
        step = next(c.step for c in planned.connections if (c.arm, c.sparsity, c.seed) == place)
        stored = store.metrics(step.key)
        for name in ("alpha", "test_loss", "test_accuracy", "loss_barrier", "accuracy_barrier"):
            assert row[name] == stored[name]
    counts = {rule.name: rule.checked for rule in audit.results.invariants}
    assert (counts["ends are twins"], counts["zeros on the line"]) == (10, 8)
    assert len(audit.results.trials) == 2 * (1 + 2 * 3)  # sibling runs are no rows of the table


def test_its_page_has_the_section(audited: tuple[Audit, Path, Plan]) -> None:
    page = audited[0].report.page.read_text()
    assert 'id="connectivity"' in page
    assert 'id="figure-connectivity-0.05-iterative"' in page
    assert 'id="table-connectivity"' in page
    assert (audited[1] / "out" / "figures" / "connectivity-0.05-iterative.svg").is_file()


def test_a_line_that_is_missing_is_noted_and_one_that_failed_is_a_failure(
    audited: tuple[Audit, Path, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, planned = audited
    lost = next(c for c in planned.connections if c.arm == "ticket")
    manifest = Store.manifest

    def losing(store: Store, key: str) -> Manifest:
        if key == lost.step.key:
            raise KeyError(key)
        return manifest(store, key)

    monkeypatch.setattr(Store, "manifest", losing)
    found = collect(planned, Store(folder / "store"), (), {})
    assert len(found.connectivity) == 9
    assert found.missing == ()
    place = "ticket under iterative at sparsity 0.5, learning rate 0.05, seed 0"
    assert found.notes[-1] == f"connectivity: no line for {place}: not run"
    why = collect(planned, Store(folder / "store"), (), {lost.step.key: "Connect abc: broken"}).notes[-1]
    assert why == f"connectivity: no line for {place}: failed: Connect abc: broken"


@pytest.mark.slow
def test_a_line_that_failed_fails_the_audit(
    audited: tuple[Audit, Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, planned = audited
    lost = next(c for c in planned.connections if c.arm == "ticket")

    class Failing:
        def __init__(self, jobs: int) -> None: ...

        def run(self, plan: Plan, store: Store) -> Iterator[Failed]:
            yield Failed(lost.step.key, "Connect abc: broken", "RuntimeError")

    monkeypatch.setattr(api, "LocalExecutor", Failing)
    found = pt.audit(STUDY, out=tmp_path, store=folder / "store", jobs=1, device="cpu")
    place = "ticket under iterative at sparsity 0.5, learning rate 0.05, seed 0"
    assert found.failures == (f"connectivity of {place}: Connect abc: broken",)


def test_progress_names_sibling_runs(audited: tuple[Audit, Path, Plan], tmp_path: Path) -> None:
    planned = audited[2]
    labels = Progress(planned, planned.remaining(Store(tmp_path / "empty"))).labels
    shown = [c for c in planned.connections if (c.seed, c.sparsity) in ((0, 0.0), (0, 0.75))]
    siblings = {c.arm: labels[c.sibling_run.key] for c in shown}
    assert siblings["dense"] == "sibling run of dense lr 0.05 seed 0"
    assert siblings["ticket"] == "sibling run of ticket iterative 75.0% lr 0.05 seed 0"


def test_a_diverged_sibling_run_leaves_the_table_whole(tmp_path: Path) -> None:
    planned = plan(load_spec(STUDY | {"learning_rates": [1e20], "seeds": 1, "connectivity": ["dense"]}))
    store = Store(tmp_path / "store")
    store.prepare()
    for step in planned.steps:
        if isinstance(step, Init | Train) and not (isinstance(step, Train) and step.mask):
            execute(step, store)
    found: Results = collect(planned, store, (), {})
    assert found.connectivity == ()
    assert found.notes[-1].startswith(
        "connectivity: no line for dense, learning rate 1e+20, seed 0: diverged source: Train"
    )


def test_an_estimate_counts_the_points_of_lines(
    audited: tuple[Audit, Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 images to train on in 8 s, 32 to test in a third of 4 s: a point is a test and a third of 64 images."""
    monkeypatch.setattr(cost, "timed", lambda *args: timing.Timed(1 / 8, 1 / 8))
    planned = audited[2]
    trainings, lines = 2 * (1 + 6 + 5), 2 * 5
    others = len(planned.steps) - trainings - lines
    found = cost.estimate(planned, planned.remaining(Store(tmp_path / "empty")), jobs=2).work
    assert found == pytest.approx(trainings * (8 + 4 / 3) + lines * 11 * (4 / 3 + 8 / 3) + others * 0.05)
    store, has = Store(audited[1] / "store"), Store.has
    left = {c.step.key for c in planned.connections}
    monkeypatch.setattr(Store, "has", lambda self, key, points=(): key not in left and has(self, key, points))
    only = cost.estimate(planned, planned.remaining(store), jobs=1).work
    assert only == pytest.approx(lines * 11 * (4 / 3 + 8 / 3))
