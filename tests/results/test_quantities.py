"""The quantities that `measure` asks for, from a study that was run, each computed a second time in plain torch."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.seeding import derive
from prunetune.data import identify, load
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.plan.planned_quantities import PlannedQuantity
from prunetune.report.write_report import render_again, write_report
from prunetune.results.collect import collect
from prunetune.rows import Quantity, Results
from prunetune.spec.load import load_spec
from prunetune.steps import graph
from prunetune.steps.quantities import MeasureBarrier, MeasureCurvature, MeasureMovement, MeasureSensitivity
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.support.refusals import refused
from tests.support.toy_study import OUTPUTS, SHAPE, images, net

PRUNABLE = ("3.weight", "6.weight")
SPEC: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "data_args": {"validation": 0.25},
    "recipe": {"epochs": 2, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["iterative"],
    "sparsities": [0.5, 0.8],
    "arms": ["ticket", "finetune", "shuffle"],
    "rewind": "1ep",
    "seeds": 1,
    "measure": ["movement", "barriers", "curvature", "sensitivity"],
}


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(SPEC))


@pytest.fixture(scope="module")
def done(study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("quantities") / "store")
    store.prepare()
    for step in study.steps:
        execute(step, store, study.snapshots.get(step.key, frozenset()))
    return store


@pytest.fixture(scope="module")
def results(study: Plan, done: Store) -> Results:
    return collect(study, done, (), {})


def row(results: Results, kind: str, of: str, sparsity: float = 0.5) -> Quantity:
    (found,) = (q for q in results.quantities if (q.kind, q.of, q.sparsity) == (kind, of, sparsity))
    return found


def planned(study: Plan, kind: str, of: str, sparsity: float = 0.5) -> PlannedQuantity:
    (found,) = (q for q in study.quantities if (q.kind, q.of, q.sparsity) == (kind, of, sparsity))
    return found


def final(study: Plan, store: Store, arm: str, sparsity: float = 0.5) -> dict[str, Tensor]:
    (step,) = (t.step for t in study.trials if (t.arm, t.sparsity) == (arm, sparsity))
    return store.state(step.key)


def mask_of(study: Plan, store: Store, sparsity: float) -> dict[str, Tensor]:
    step = next(t.step for t in study.trials if t.arm == "ticket" and t.sparsity == sparsity)
    assert isinstance(step, Train)
    assert step.mask is not None
    return dict(store.mask(step.mask.key))


def test_every_network_and_pair_that_is_meant(study: Plan) -> None:
    expected = {("movement", "theta_0/theta_T", 0.0), ("curvature", "dense_T", 0.0)}
    expected |= {("sensitivity", "theta_T, unstructured", 0.0)}
    for sparsity in (0.5, 0.8):
        for arm in ("ticket", "finetune", "shuffle"):
            expected |= {("movement", f"{arm}_0/{arm}_T", sparsity), ("barriers", f"theta_T/{arm}_T", sparsity)}
            expected |= {("curvature", f"{arm}_T", sparsity)}
        expected |= {("barriers", "ticket_T/finetune_T", sparsity)}
    expected |= {("barriers", "previous ticket_T/ticket_T", 0.8)}
    assert {(q.kind, q.of, q.sparsity) for q in study.quantities} == expected
    assert len(study.quantities) == len(expected)


def test_a_study_that_asks_for_none_has_none_and_keeps_its_keys(study: Plan) -> None:
    without = plan(load_spec({name: value for name, value in SPEC.items() if name != "measure"}))
    assert without.quantities == ()
    assert {step.key for step in without.steps} < {step.key for step in study.steps}
    measured = {q.step.key for q in study.quantities}
    assert {step.key for step in study.steps} - {step.key for step in without.steps} == measured


# --- movement -----------------------------------------------------------------------------------------------------


def moved(a: dict[str, Tensor], b: dict[str, Tensor], kept: dict[str, Tensor] | None) -> tuple[float, float]:
    """Flips and relative distance, weight by weight."""
    pairs = [
        (x, y)
        for name in PRUNABLE
        for x, y, keep in zip(
            a[name].flatten().tolist(),
            b[name].flatten().tolist(),
            kept[name].flatten().tolist() if kept else [True] * a[name].numel(),
            strict=True,
        )
        if keep
    ]
    flips = sum(x * y < 0 for x, y in pairs) / len(pairs)
    return flips, math.dist(*zip(*pairs, strict=True)) / math.hypot(*(x for x, _ in pairs))


def test_movement_of_the_dense_run_and_of_the_ticket(study: Plan, done: Store, results: Results) -> None:
    dense = next(t.step for t in study.trials if t.arm == "dense")
    assert isinstance(dense, Train)
    theta_0, theta_t = done.state(dense.start.step.key), done.state(dense.key)
    values = row(results, "movement", "theta_0/theta_T", 0.0).values
    assert (values["sign_flips"], values["distance"]) == pytest.approx(moved(theta_0, theta_t, None))
    for sparsity in (0.5, 0.8):
        kept, end = mask_of(study, done, sparsity), final(study, done, "ticket", sparsity)
        found = row(results, "movement", "ticket_0/ticket_T", sparsity)
        assert (found.values["sign_flips"], found.values["distance"]) == pytest.approx(moved(theta_0, end, kept))
        assert found.by_layer.keys() == set(PRUNABLE)
        assert sum(layer["n"] or 0 for layer in found.by_layer.values()) == found.values["n"]


def test_movement_of_a_control_is_from_the_weights_that_it_starts_from(
    study: Plan, done: Store, results: Results
) -> None:
    """The shuffled start is farther from the shuffle's end than that end is from a start that is not it."""
    step = planned(study, "movement", "shuffle_0/shuffle_T").step
    assert isinstance(step, MeasureMovement)
    theta_0, end = done.state(step.first.step.key), final(study, done, "shuffle")
    plain = moved(theta_0, end, mask_of(study, done, 0.5))
    found = row(results, "movement", "shuffle_0/shuffle_T").values
    assert found["distance"] != pytest.approx(plain[1], rel=1e-3)
    assert found["cosine"] > 0.5  # type: ignore[operator]  # two epochs do not take it far from its own start


# --- barriers -----------------------------------------------------------------------------------------------------


def test_a_barrier_is_that_of_networks_mixed_by_hand(study: Plan, done: Store, results: Results) -> None:
    """On the line from θT to the ticket's final, running statistics recomputed: a network at every eleventh."""
    first, second = final(study, done, "dense", 0.0), final(study, done, "ticket")
    pixels, labels, test, answers = images()
    train, own = kept_for_training(pixels, labels)
    mean, std = train.double().mean() / 255, train.double().std(correction=0) / 255
    losses, right = [], []
    for i in range(11):
        network = net(SHAPE, OUTPUTS)
        mixed = {
            name: (1 - i / 10) * tensor + i / 10 * second[name] if tensor.is_floating_point() else tensor
            for name, tensor in first.items()
        }
        network.load_state_dict(mixed)
        norm = network[1]  # type: ignore[index]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.momentum = 1.0
        network.train()
        with torch.no_grad():
            network((train / 255 - mean.float()) / std.float())  # all training images are one batch here
        network.eval()
        with torch.no_grad():
            outputs = network((test / 255 - mean.float()) / std.float())
        losses.append(float(nn.functional.cross_entropy(outputs, answers)))
        right.append(100 * float((outputs.argmax(1) == answers).double().mean()))
    assert len(own) == 48

    def above(values: list[float]) -> float:
        return max(value - (values[0] + i / 10 * (values[-1] - values[0])) for i, value in enumerate(values))

    found = row(results, "barriers", "theta_T/ticket_T").values
    assert found["loss_barrier"] == pytest.approx(above(losses), abs=1e-4)
    assert found["accuracy_barrier"] == pytest.approx(above([-share for share in right]), abs=1e-4)


def kept_for_training(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    data = load(identify(SPEC["data"], SPEC["data_args"]))
    return data.train_images, data.train_labels


def test_the_ends_of_the_lines(study: Plan) -> None:
    step = planned(study, "barriers", "previous ticket_T/ticket_T", 0.8).step
    assert isinstance(step, MeasureBarrier)
    tickets = {t.sparsity: t.step for t in study.trials if t.arm == "ticket"}
    assert (step.first.step, step.second.step) == (tickets[0.5], tickets[0.8])
    step = planned(study, "barriers", "ticket_T/finetune_T", 0.8).step
    assert isinstance(step, MeasureBarrier)
    arms = {t.arm: t.step for t in study.trials if t.sparsity == 0.8}
    assert (step.first.step, step.second.step) == (arms["ticket"], arms["finetune"])


# --- curvature and sensitivity ------------------------------------------------------------------------------------


def test_curvature_is_taken_within_the_mask(study: Plan, results: Results) -> None:
    step = planned(study, "curvature", "ticket_T").step
    assert isinstance(step, MeasureCurvature)
    assert step.seed == derive(0, "curvature")
    sizes = {name: p.numel() for name, p in net(SHAPE, OUTPUTS).named_parameters()}
    whole = sum(sizes.values())
    pruned = {s: sum(size - round((1 - s) * size) for n, size in sizes.items() if n in PRUNABLE) for s in (0.5, 0.8)}
    assert row(results, "curvature", "dense_T", 0.0).values["n"] == whole
    for sparsity, gone in pruned.items():
        assert row(results, "curvature", "ticket_T", sparsity).values["n"] == whole - gone
    values = row(results, "curvature", "ticket_T").values
    assert values["largest"] > 0  # type: ignore[operator]


def test_a_dense_run_that_is_imported_is_measured_as_a_trained_one(
    study: Plan, done: Store, results: Results, tmp_path: Path
) -> None:
    """The same weights by the same batches: the figures of the run that was trained here."""
    dense = next(t.step for t in study.trials if t.arm == "dense")
    assert isinstance(dense, Train)
    files = {"theta_0": dense.start.step.key, "theta_T": dense.key}
    for name, key in files.items():
        torch.save(done.state(key), tmp_path / name)
    pretrained = {name: str(tmp_path / name) for name in files}
    imported = plan(load_spec({**SPEC, "arms": ["ticket"], "pretrained": pretrained, "measure": ["curvature"]}))
    own = planned(imported, "curvature", "dense_T", 0.0)
    for step in graph.closure([own.step]):
        execute(step, done)
    found = row(collect(imported, done, (), {}), "curvature", "dense_T", 0.0)
    assert found == row(results, "curvature", "dense_T", 0.0)
    assert own.step.key != planned(study, "curvature", "dense_T", 0.0).step.key


def test_sensitivity_is_the_accuracy_with_one_layer_pruned(study: Plan, done: Store, results: Results) -> None:
    data = load(identify(SPEC["data"], SPEC["data_args"]))
    state = final(study, done, "dense", 0.0)
    pixels = data.train_images.double() / 255
    mean, std = pixels.mean().float(), pixels.std(correction=0).float()

    def score(changed: dict[str, Tensor]) -> float:
        network = net(SHAPE, OUTPUTS)
        network.load_state_dict({**state, **changed})
        network.eval()
        with torch.no_grad():
            outputs = network((data.validation_images / 255 - mean) / std)
        return 100 * float((outputs.argmax(1) == data.validation_labels).double().mean())

    found = row(results, "sensitivity", "theta_T, unstructured", 0.0)
    assert found.values == {"whole": pytest.approx(score({})), "images": len(data.validation_labels)}
    assert found.by_layer.keys() == set(PRUNABLE)
    step = planned(study, "sensitivity", "theta_T, unstructured", 0.0).step
    assert isinstance(step, MeasureSensitivity)
    for name in PRUNABLE:
        for sparsity in step.sparsities:
            pruned = state[name].clone()
            smallest = pruned.abs().flatten().argsort()[: pruned.numel() - round((1 - sparsity) * pruned.numel())]
            pruned.view(-1)[smallest] = 0
            assert found.by_layer[name][str(sparsity)] == pytest.approx(score({name: pruned}))


def test_sensitivity_needs_held_out_images() -> None:
    with refused("data_args.validation", "0", "sensitivity", "0.1"):
        plan(load_spec({**SPEC, "data_args": {}}))


def test_a_line_of_the_store_says_what_each_found(done: Store) -> None:
    lines = {entry.kind: entry.summary for entry in done.ls()}
    for kind, form in (
        ("MeasureMovement", r"signs flipped [0-9.e-]+, cosine [0-9.e-]+"),
        ("MeasureBarrier", r"loss barrier [0-9.]+"),
        ("MeasureCurvature", r"largest eigenvalue [0-9.e+-]+, trace [0-9.e+-]+"),
        ("MeasureSensitivity", r"sensitivity of 2 layers, whole [0-9.]+"),
    ):
        assert re.fullmatch(form, lines[kind]), lines[kind]


# --- files --------------------------------------------------------------------------------------------------------


def test_they_stand_in_results_json_and_come_back(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["quantities"]) == len(results.quantities)
    before = (tmp_path / "results.json").read_bytes(), (tmp_path / "report.html").read_bytes()
    render_again(tmp_path)
    assert before == ((tmp_path / "results.json").read_bytes(), (tmp_path / "report.html").read_bytes())


# --- masks from level to level ------------------------------------------------------------------------------------

LEVELS: dict[str, Any] = {
    **{name: value for name, value in SPEC.items() if name != "data_args"},
    "masks": [
        "iterative",
        {"kind": "iterative", "reset": "rewind", "name": "to-rewind"},
        {"kind": "iterative", "reset": "none", "name": "no-reset"},
        {"kind": "admm", "epochs": 4, "rho": 1.0, "name": "admm"},
    ],
    "sparsities": [0.3, 0.5, 0.8],
    "arms": ["ticket", "permuted_mask"],
    "measure": ["masks"],
}


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Results]:
    made = plan(load_spec(LEVELS))
    store = Store(tmp_path_factory.mktemp("levels") / "store")
    store.prepare()
    for step in made.steps:
        execute(step, store, made.snapshots.get(step.key, frozenset()))
    return made, store, collect(made, store, (), {})


def kept_places(made: Plan, store: Store, label: str, sparsity: float) -> dict[str, set[int]]:
    """By layer, the flat places that the arms' shared mask keeps."""
    (step,) = (t.step for t in made.trials if (t.arm, t.mask, t.sparsity) == ("ticket", label, sparsity))
    assert isinstance(step, Train)
    assert step.mask is not None
    mask = store.mask(step.mask.key)
    return {name: {i for i, bit in enumerate(layer.flatten().tolist()) if bit} for name, layer in mask.items()}


def test_masks_of_consecutive_levels_agree_as_sets_of_places_do(levels: tuple[Plan, Store, Results]) -> None:
    made, store, results = levels
    labels = [str(mask.get("name")) if isinstance(mask, dict) else mask for mask in LEVELS["masks"]]
    assert {(q.kind, q.of, q.mask, q.sparsity) for q in results.quantities} == {
        ("masks", "previous mask/mask", label, sparsity) for label in labels for sparsity in (0.5, 0.8)
    }
    sizes = {name: p.numel() for name, p in net(SHAPE, OUTPUTS).named_parameters() if name in PRUNABLE}
    for found in results.quantities:
        before = 0.3 if found.sparsity == 0.5 else 0.5
        a, b = (kept_places(made, store, str(found.mask), at) for at in (before, found.sparsity))
        pairs = {name: (a[name], b[name]) for name in PRUNABLE}
        common, union = (sum(len(op(x, y)) for x, y in pairs.values()) for op in (set.__and__, set.__or__))
        chance = sum(len(x) * len(y) / sizes[name] for name, (x, y) in pairs.items())
        kept = sum(len(x) + len(y) for x, y in pairs.values())
        whole = {"n": sum(sizes.values()), "jaccard": common / union, "expected": chance / (kept - chance)}
        assert found.values == pytest.approx(whole)
        assert found.by_layer.keys() == set(PRUNABLE)
        for name, (x, y) in pairs.items():
            assert found.by_layer[name]["jaccard"] == pytest.approx(len(x & y) / len(x | y))


def test_rounds_lie_within_one_another_so_that_the_index_is_the_ratio_of_their_densities(
    levels: tuple[Plan, Store, Results],
) -> None:
    made, store, results = levels

    def ratio(label: str, before: float, after: float) -> float:
        kept = [sum(map(len, kept_places(made, store, label, at).values())) for at in (after, before)]
        return kept[0] / kept[1]

    nested: dict[str, set[bool]] = {}
    for found in results.quantities:
        label, before = str(found.mask), 0.3 if found.sparsity == 0.5 else 0.5
        equal = found.values["jaccard"] == pytest.approx(ratio(label, before, found.sparsity))
        nested.setdefault(label, set()).add(equal)
    assert [nested[label] for label in ("iterative", "to-rewind", "no-reset")] == [{True}] * 3
    assert False in nested["admm"]  # every mask of ADMM's is found by a training of its own


def test_masks_are_compared_without_a_step_and_only_where_that_is_asked_for(
    levels: tuple[Plan, Store, Results],
) -> None:
    made, store, _ = levels
    without = plan(load_spec({**LEVELS, "measure": []}))
    assert {step.key for step in without.steps} == {step.key for step in made.steps}
    assert collect(without, store, (), {}).quantities == ()
