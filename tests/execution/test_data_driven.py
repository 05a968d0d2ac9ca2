"""Criteria that look at gradients, in a whole tiny study: spec, plan, steps done, masks recomputed in plain torch."""

import json
from collections import Counter
from typing import Any

import pytest
import torch

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.plan.ledger import ledger
from prunetune.results.collect import collect
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Init, Prune, Train
from prunetune.store.store import Store
from prunetune.training.batches import probe_indices
from tests.support.refusals import refused
from tests.support.toy_study import IMAGES, OUTPUTS, SHAPE, images, net

LAYERS = ("3.weight", "6.weight")
SHOWN = 30  # ten of each class


def study(*masks: Any, **changes: Any) -> Plan:
    """Two rates, one seed, the ticket alone."""
    fields = {
        "model": "tests.support.toy_study:net",
        "data": "tests.support.toy_study:images",
        "recipe": {"epochs": 1, "batch_size": 16, "schedule": {"kind": "constant"}},
        "learning_rates": [0.01, 0.05],
        "masks": list(masks),
        "sparsities": [0.5, 0.8],
        "arms": ["ticket"],
        "seeds": 1,
        **changes,
    }
    return plan(load_spec(fields))


def masks_of(planned: Plan, label: str) -> list[Prune]:
    steps = [row.step for row in planned.trials if row.mask == label]
    return [step.mask for step in steps if isinstance(step, Train) and step.mask]


def done(planned: Plan, store: Store) -> Store:
    for step in planned.steps:
        execute(step, store, planned.snapshots.get(step.key, frozenset()))
    return store


ALL = study(*({"kind": "one_shot", "criterion": name} for name in ("snip", "grasp", "synflow", "taylor")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("driven") / "store")
    store.prepare()
    return done(ALL, store)


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_masks_at_initialisation_rest_on_no_training_and_serve_every_rate(name: str) -> None:
    prunes = masks_of(ALL, f"one_shot-{name}")
    assert all(isinstance(step.source.step, Init) for step in prunes)
    assert len(prunes) == 4
    assert len({step.key for step in prunes}) == 2  # one for each sparsity, at both rates
    rows = [row for row in ledger(ALL) if row.mask == f"one_shot-{name}"]
    assert [(row.pretraining_epochs, row.mask_epochs, row.training_epochs) for row in rows] == [(0, 0, 1)] * 4


def test_taylor_prunes_trained_weights() -> None:
    assert all(isinstance(step.source.step, Train) for step in masks_of(ALL, "one_shot-taylor"))
    assert {row.pretraining_epochs for row in ledger(ALL) if row.mask == "one_shot-taylor"} == {1}


def test_the_place_can_be_set() -> None:
    planned = study(
        {"kind": "one_shot", "criterion": "snip", "at": "trained"},
        {"kind": "one_shot", "at": "init"},
        {"kind": "one_shot", "criterion": "snip", "at": "init", "probe": 12, "allocation": "global"},
    )
    assert isinstance(masks_of(planned, "one_shot-snip-at=trained")[0].source.step, Train)
    assert isinstance(masks_of(planned, "one_shot-at=init")[0].source.step, Init)
    last = masks_of(planned, "one_shot-snip-global-probe=12")[0]
    assert last.probe is not None
    assert (last.probe.images, last.probe.batch_size) == (12, 16)
    resolved = planned.spec.resolved()
    assert [mask["at"] for mask in resolved["masks"]] == ["trained", "init", "init"]
    again = plan(load_spec(resolved))
    assert again.steps == planned.steps
    assert [row.mask for row in again.trials] == [row.mask for row in planned.trials]


def test_a_step_says_what_the_criterion_was_shown(finished: Store) -> None:
    for name in ("snip", "grasp", "taylor"):
        step = masks_of(ALL, f"one_shot-{name}")[0]
        assert step.probe is not None
        told = json.loads(finished.read(step.key, "step.json"))["probe"]
        assert (told["images"], told["batch_size"], told["seed"], told["loss"]) == (SHOWN, 16, step.probe.seed, None)
        assert told["data"]["name"] == "tests.support.toy_study:images"
        assert len(finished.metrics(step.key)["probe_digest"]) == 64
    step = masks_of(ALL, "one_shot-synflow")[0]
    assert step.probe is None
    told = json.loads(finished.read(step.key, "step.json"))
    assert "probe" not in told
    assert told["criterion"]["arguments"] == '{"rounds": 100}'
    assert "probe_digest" not in finished.metrics(step.key)


def test_snip_in_a_study_is_snip_in_plain_torch(finished: Store) -> None:
    pixels, labels, _, _ = images()
    step = masks_of(ALL, "one_shot-snip")[0]
    assert step.probe is not None
    shown = probe_indices(labels, SHOWN, step.probe.seed)
    assert Counter(labels[shown].tolist()) == {0: 10, 1: 10, 2: 10}
    mean, std = pixels.double().mean() / 255, pixels.double().std(correction=0) / 255
    network = net(SHAPE, OUTPUTS)
    network.load_state_dict(finished.state(step.source.step.key))
    network.train()
    for half in (shown[:15], shown[15:]):  # 30 images in two batches of at most 16
        inputs = ((pixels[half] / 255 - mean) / std).float()
        (torch.nn.functional.cross_entropy(network(inputs), labels[half]) / 2).backward()
    mask = finished.mask(step.key)
    for name in LAYERS:
        weight = network.get_parameter(name)
        assert weight.grad is not None
        score = (weight * weight.grad).abs().detach()
        assert int(mask[name].sum()) == round(0.5 * score.numel())
        assert score[mask[name]].min() >= score[~mask[name]].max() * (1 - 1e-4)


def test_a_second_store_gets_the_same_bytes(finished: Store, store: Store) -> None:
    done(ALL, store)
    for step in ALL.steps:
        for path in store.folder(step.key).iterdir():
            if path.name != "manifest.json":
                assert path.read_bytes() == (finished.folder(step.key) / path.name).read_bytes()


def test_the_masks_differ_and_the_study_breaks_no_rule(finished: Store) -> None:
    digests = {
        row.mask: finished.mask(row.step.mask.key).digest
        for row in ALL.trials
        if isinstance(row.step, Train) and row.step.mask
    }
    assert len(set(digests.values())) == 4
    results = collect(ALL, finished, frozenset(), {})
    assert len(results.trials) == len(ALL.trials)
    assert not [rule.name for rule in results.invariants if rule.breaches]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"kind": "one_shot", "probe": 9},
            ("masks.0.probe", "9", "magnitude", "looks"),
        ),
        ({"kind": "one_shot", "criterion": "synflow", "probe": 9}, ("masks.0.probe", "9", "synflow", "looks")),
        (
            {"kind": "one_shot", "criterion": "snip", "probe": 0},
            ("masks.0.probe", "0", "1"),
        ),
        (
            {"kind": "one_shot", "criterion": "snip", "probe": 65},
            ("masks.probe", "65", str(IMAGES)),
        ),
        ({"kind": "one_shot", "at": "start"}, ("masks.0.at", "start", "init", "trained")),
        ({"kind": "iterative", "at": "init"}, ("masks.0.at", "at", "unknown")),
        ({"kind": "one_shot", "criterion": "snap"}, ("masks.0.criterion", "snap", "snip")),
    ],
)
def test_what_cannot_be_is_refused(mask: dict[str, Any], message: tuple[str, ...]) -> None:
    with refused(*message):
        study(mask)
