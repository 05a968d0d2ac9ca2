"""Each kind of step: what it computes, against plain torch, and what it leaves in the store."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from prunetune.core.references import Ref
from prunetune.data import identify
from prunetune.errors import DivergedSourceError, InvariantError
from prunetune.execution import run_step as execution
from prunetune.execution.events import Event, Notice
from prunetune.execution.run_step import Finished, execute
from prunetune.sparsity.model_files import load_weights
from prunetune.sparsity.model_state import digest_tensors
from prunetune.steps.steps import Import, Prune, Step, Train, Weights
from prunetune.store.store import Store
from prunetune.training.loop import Trained
from prunetune.training.recipe import Recipe, TrainingTime
from tests.support.refusals import refused
from tests.support.toy_study import (
    IMAGES,
    ONE_EPOCH,
    OUTPUTS,
    SHAPE,
    constant_net,
    dense,
    images,
    init,
    measure,
    net,
    prune,
    recipe,
    shuffled,
    small_study,
    sparse,
)

START, OTHER = init(0), init(1)
DENSE = dense(START)
MASK = prune(DENSE)


def run(store: Store, *steps: Step, points: Collection[TrainingTime] = ()) -> Finished:
    """Do the steps one after another; what the last one measured."""
    return [execute(step, store, points if isinstance(step, Train) else ()) for step in steps][-1]


def accuracy(state: dict[str, torch.Tensor]) -> float:
    """Percent right on the test images, in plain torch: pixels normalised by the training images' moments."""
    train, _, test, labels = images()
    mean, std = train.double().mean() / 255, train.double().std(correction=0) / 255
    network = net(SHAPE, OUTPUTS)
    network.load_state_dict(state)
    network.eval()
    with torch.no_grad():
        right = network((test / 255 - mean.float()) / std.float()).argmax(1) == labels
    return 100 * float(right.double().mean())


def test_init_is_the_draw_by_the_seed(store: Store) -> None:
    run(store, START)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = net(SHAPE, OUTPUTS).state_dict()
    state = store.state(START.key)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert store.metrics(START.key)["invariants"] == ["initialiser seeded"]


def test_training_records_what_it_did(finished: Store) -> None:
    found = finished.metrics(DENSE.key)
    assert (found["epochs"], found["steps"], found["diverged"]) == (2, 2 * IMAGES // 16, False)
    assert found["density"] == 1.0
    assert found["mask_digest"] is None
    assert found["start_digest"] == digest_tensors(finished.state(START.key))
    assert found["test_accuracy"] == pytest.approx(accuracy(finished.state(DENSE.key)))
    assert len(found["train_loss"]) == 2
    assert found["revived"] == 0
    manifest = finished.manifest(DENSE.key)
    assert manifest["environment"]["torch"] == torch.__version__
    assert manifest["environment"]["precision"] == "f32"
    assert manifest["seconds"] > 0
    state_file = finished.folder(START.key) / "state.safetensors"
    assert manifest["inputs"] == {f"{START.key}/state.safetensors": hashlib.sha256(state_file.read_bytes()).hexdigest()}


def test_a_snapshot_is_the_state_after_that_many_epochs(finished: Store, store: Store) -> None:
    """Constant schedule: one epoch of a training is a training of one epoch."""
    short = dense(START, recipe(epochs=1))
    run(store, START, short)
    expected, found = store.state(short.key), finished.state(DENSE.key, ONE_EPOCH)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["0.weight"], finished.state(DENSE.key)["0.weight"])


def test_masks_keep_the_largest_magnitudes_of_every_layer(finished: Store) -> None:
    state, mask = finished.state(DENSE.key), finished.mask(MASK.key)
    assert set(mask) == {"3.weight", "6.weight"}  # not the first convolution, no biases, no norms
    for name, kept in mask.items():
        assert int(kept.sum()) == round(0.5 * kept.numel())
        assert state[name][kept].abs().min() >= state[name][~kept].abs().max()
    found = finished.metrics(MASK.key)
    assert found["layers"] == {"3.weight": {"kept": 72, "total": 144}, "6.weight": {"kept": 96, "total": 192}}
    assert found["density"] == 0.5
    assert found["digest"] == mask.digest


def test_sparse_trainings_start_from_their_weights_and_keep_zeros(finished: Store) -> None:
    work, mask = small_study(), finished.mask(MASK.key)
    arms = [step for step in work.steps if isinstance(step, Train) and step.mask]
    assert len(arms) == 5
    for arm in arms:
        state, found = finished.state(arm.key), finished.metrics(arm.key)
        for name, kept in mask.items():
            assert not state[name][~kept].any()
            assert state[name][kept].all()
        assert found["density"] == 0.5
        assert found["mask_digest"] == mask.digest
        assert found["data_order_digest"] == finished.metrics(DENSE.key)["data_order_digest"]
        assert {"zeros stay zero", "density", "start as stored"} <= set(found["invariants"])
        assert ("shuffle permutes" in found["invariants"]) == (arm.start.transform is not None)
    starts = [finished.metrics(arm.key)["start_digest"] for arm in arms]
    assert len(set(starts)) == 5
    theta_0 = {n: torch.where(mask[n], t, 0.0) if n in mask else t for n, t in finished.state(START.key).items()}
    assert starts[0] == digest_tensors(theta_0)


def test_measure_counts_common_large_weights(finished: Store) -> None:
    step = measure(Weights(START), Weights(DENSE))
    rows = finished.metrics(step.key)["correlations"]
    first, second = finished.state(START.key), finished.state(DENSE.key)
    assert [row["p"] for row in rows] == [0.2, 0.4]
    for row in rows:
        common = total = 0
        for name in ("3.weight", "6.weight"):
            k = round(row["p"] * first[name].numel())
            top = [set(state[name].flatten().abs().argsort(descending=True)[:k].tolist()) for state in (first, second)]
            common, total = common + len(top[0] & top[1]), total + k
        assert row["value"] == common / total
        assert row["per_layer"].keys() == {"3.weight", "6.weight"}


def test_equal_steps_give_equal_files(finished: Store, store: Store) -> None:
    work = small_study()
    for step in work.steps:
        execute(step, store, work.snapshots.get(step.key, frozenset()))
        for path in store.folder(step.key).iterdir():
            if path.name != "manifest.json":
                assert path.read_bytes() == (finished.folder(step.key) / path.name).read_bytes()


def test_a_missing_snapshot_is_added_by_the_same_training(finished: Store) -> None:
    point = TrainingTime(3, "it")
    before = finished.read(DENSE.key, "state.safetensors")
    assert not finished.has(DENSE.key, [ONE_EPOCH, point])
    run(finished, DENSE, points=[ONE_EPOCH, point])
    assert finished.has(DENSE.key, [ONE_EPOCH, point])
    assert finished.read(DENSE.key, "state.safetensors") == before
    assert list(finished.verify()) == []


def test_a_first_snapshot_is_added_too(finished: Store) -> None:
    """The case of a study that gets the arm `rewind` later: nothing else of the dense run may change by it."""
    finished.quarantine(DENSE.key)
    run(finished, DENSE)
    before = finished.read(DENSE.key, "metrics.json")
    run(finished, DENSE, points=[ONE_EPOCH])
    assert finished.has(DENSE.key, [ONE_EPOCH])
    assert finished.read(DENSE.key, "metrics.json") == before


def test_a_training_that_comes_out_otherwise_adds_no_snapshot(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunetune.execution import run_step as module

    def another(*args, **kwargs):
        trained = train(*args, **kwargs)
        return replace(trained, state={name: tensor + 0 for name, tensor in trained.state.items()} | {
            "0.bias": trained.state["0.bias"] + 1e-6
        })  # fmt: skip

    train = module.train
    monkeypatch.setattr(module, "train", another)
    with pytest.raises(InvariantError, match=rf"Train {DENSE.key[:12]}: not reproducible here: state\.safetensors"):
        run(finished, DENSE, points=[TrainingTime(3, "it")])
    assert not finished.has(DENSE.key, [TrainingTime(3, "it")])
    assert list(finished.verify()) == []


@pytest.fixture
def diverged(store: Store) -> tuple[Store, Train]:
    step = dense(START, recipe(rate=1e20))
    run(store, START, OTHER, step, points=[ONE_EPOCH])
    return store, step


def test_divergence_is_an_answer(diverged: tuple[Store, Train]) -> None:
    store, step = diverged
    found = store.metrics(step.key)
    assert found["diverged"] is True
    assert found["test_loss"] is None
    assert store.has(step.key, [ONE_EPOCH])  # nothing will ever start there
    json.loads((store.folder(step.key) / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_nothing_is_built_on_a_diverged_training(diverged: tuple[Store, Train]) -> None:
    store, step = diverged
    steps = [prune(step), dense(START, recipe(epochs=3)), measure(Weights(step), Weights(START))]
    steps[1] = replace(steps[1], start=Weights(step))
    for dependent in steps:
        with pytest.raises(
            DivergedSourceError, match=f"diverged source: Train {step.key[:12]} at learning rate 1e\\+20"
        ):
            run(store, dependent)
        assert not store.has(dependent.key)


def imported(path: Path) -> Import:
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    how = Recipe(0, 16, 0.0)
    return Import(
        Ref.of("tests.support.toy_study:net"),
        SHAPE,
        OUTPUTS,
        identify("tests.support.toy_study:images"),
        content,
        how,
        str(path),
    )


def test_import_measures_the_users_state(finished: Store, tmp_path: Path) -> None:
    state = finished.state(DENSE.key)
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    step = imported(tmp_path / "mine.safetensors")
    assert run(finished, step).metrics["test_accuracy"] == finished.metrics(DENSE.key)["test_accuracy"]
    assert all(torch.equal(finished.state(step.key)[name], tensor) for name, tensor in state.items())
    run(finished, replace(MASK, source=Weights(step)))  # and it can be pruned
    assert finished.mask(replace(MASK, source=Weights(step)).key) == finished.mask(MASK.key)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda state: state.pop("0.bias"), ("pretrained", "0.bias", "model")),
        (lambda state: state.update(extra=torch.ones(1)), ("pretrained", "extra", "file")),
        (
            lambda state: [state.update({f"net.{name}": state.pop(name)}) for name in ("0.bias", "0.weight")],
            ("pretrained", "net.0.bias", "0.bias", "1", "fit"),
        ),
        (lambda state: state.update({"0.bias": torch.ones(5)}), ("pretrained", "0.bias", "(5,)", "(4,)", "shape")),
        (lambda state: state["0.bias"].fill_(torch.nan), ("pretrained", "0.bias", "finite")),
    ],
)
def test_import_refuses_what_does_not_fit(finished: Store, tmp_path: Path, change, line: tuple[str, ...]) -> None:
    state = finished.state(DENSE.key)
    change(state)
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    with refused(*line):
        run(finished, imported(tmp_path / "mine.safetensors"))


def test_a_tied_weight_may_be_in_a_file_under_one_of_its_names() -> None:
    """As safetensors and our own export write it."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    for name in ("0.weight", "1.weight"):
        weight = torch.randn(3, 3)
        load_weights(model, {name: weight, "0.bias": torch.ones(3)}, Path("w"), "--weights")
        assert torch.equal(model.get_parameter("0.weight"), weight)
    with refused("--weights", "0.weight", "1", "model"):
        load_weights(model, {"0.bias": torch.ones(3)}, Path("w"), "--weights")


def test_import_refuses_a_file_that_changed_since(finished: Store, tmp_path: Path) -> None:
    safetensors.torch.save_file(finished.state(START.key), tmp_path / "mine.safetensors")
    step = imported(tmp_path / "mine.safetensors")
    safetensors.torch.save_file(finished.state(DENSE.key), tmp_path / "mine.safetensors")
    with refused("pretrained", "planned"):
        run(finished, step)


def test_users_loss_of_a_wrong_shape_keeps_its_line(store: Store) -> None:
    step = dense(START, recipe(loss=Ref.of("tests.support.toy_study:loss_per_image")))
    with refused("recipe.loss", "(16,)", "loss_per_image", "returned"):
        run(store, START, step)
    assert not store.has(step.key)


def test_what_a_training_does_otherwise_than_asked_is_told(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    train = execution.train
    told: list[Event] = []

    def train_otherwise(*args: Any, on_notice: Callable[[str], None], **kwargs: Any) -> Trained:
        on_notice("runs step by step")
        return train(*args, on_notice=on_notice, **kwargs)

    monkeypatch.setattr(execution, "train", train_otherwise)
    finished.quarantine(DENSE.key)
    execute(DENSE, finished, tell=told.append)
    assert told[0] == Notice(DENSE.key, f"Train {DENSE.key[:12]} runs step by step")


def test_a_step_is_the_same_whatever_ran_before_it(finished: Store, store: Store) -> None:
    """Building models draws from the global generator; no step may depend on where that stands."""
    run(store, START)
    constant_net(SHAPE, OUTPUTS)
    torch.rand(17)
    run(store, DENSE, points=[ONE_EPOCH])
    assert store.read(DENSE.key, "state.safetensors") == finished.read(DENSE.key, "state.safetensors")


def test_shuffle_trains_from_permuted_survivors(finished: Store) -> None:
    step = sparse(shuffled(START), MASK)
    assert isinstance(MASK, Prune)
    assert (
        finished.metrics(step.key)["start_digest"] != finished.metrics(sparse(Weights(START), MASK).key)["start_digest"]
    )
