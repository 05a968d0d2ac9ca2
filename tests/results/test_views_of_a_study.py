"""A tiny study end to end: R_p along its trainings and by layer, and how far its masks agree, against slow counting."""

import dataclasses
import json
import math
from collections.abc import Collection
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.report.results_files import read_results
from prunetune.report.write_report import write_report
from prunetune.results.collect import collect
from prunetune.rows import Results
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Step, Train
from prunetune.store.store import Store
from tests.support.toy_study import images, net

STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 2, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["iterative", {"kind": "one_shot", "at": "init", "name": "at-init"}],
    "sparsities": [0.5, 0.75],
    "arms": ["ticket", "finetune", "random_mask"],
    "rewind": "1ep",
    "seeds": 3,
}
LAYERS = ("3.weight", "6.weight")  # the prunable ones, 144 and 192 weights


def run(planned: Plan, store: Store) -> None:
    for step in planned.steps:
        execute(step, store, planned.snapshots.get(step.key, frozenset()))


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(STUDY | {"along_training": 4}))


@pytest.fixture(scope="module")
def done(study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("views") / "store")
    store.prepare()
    run(study, store)
    return store


@pytest.fixture(scope="module")
def results(study: Plan, done: Store) -> Results:
    return collect(study, done, cached=(), failures={})


def file(store: Store, step: Step, name: str = "state.safetensors") -> Path:
    return store.root / "steps" / step.key[:2] / step.key / name


def dense_run(study: Plan, seed: int) -> Train:
    (found,) = (row.step for row in study.trials if row.arm == "dense" and row.seed == seed)
    assert isinstance(found, Train)
    return found


def arm(study: Plan, name: str, mask: str, sparsity: float, seed: int) -> Train:
    place = (name, mask, sparsity, seed)
    (found,) = (row.step for row in study.trials if (row.arm, row.mask, row.sparsity, row.seed) == place)
    assert isinstance(found, Train)
    return found


def top(weights: Tensor, positions: Collection[int], p: float) -> set[int]:
    """The round(p · n) positions of the largest magnitudes, the lower first where they are equal."""
    values = weights.flatten().tolist()
    return set(sorted(positions, key=lambda i: (-abs(values[i]), i))[: round(p * len(positions))])


def kept_places(mask: Path, layer: str) -> list[int]:
    """The flat indices of the weights that a stored mask keeps, bit by bit, the highest of a byte first."""
    octets = load_file(mask)[layer].tolist()
    return [8 * i + place for i, octet in enumerate(octets) for place in range(8) if octet >> (7 - place) & 1]


def shared(first: Path, second: Path, layer: str, mask: Path | None = None) -> tuple[int, int, int]:
    """How many of the 20 % largest of a layer two states have in common, how many there are, and of how many."""
    a, b = load_file(first)[layer], load_file(second)[layer]
    kept = range(a.numel()) if mask is None else kept_places(mask, layer)
    ours, theirs = top(a, kept, 0.2), top(b, kept, 0.2)
    return len(ours & theirs), len(ours), len(kept)


def test_rp_along_the_training_is_that_of_the_kept_states(study: Plan, done: Store, results: Results) -> None:
    assert [(row.seed, row.epoch) for row in results.along_training] == [
        (seed, epoch) for seed in range(3) for epoch in (0.5, 1.0, 1.5, 2.0)
    ]
    names = {0.5: "state@0.5ep", 1.0: "state@1ep", 1.5: "state@1.5ep", 2.0: "state"}
    for row in results.along_training:
        dense = dense_run(study, row.seed)
        now = file(done, dense, f"{names[row.epoch]}.safetensors")
        counts = [shared(file(done, dense.start.step), now, layer) for layer in LAYERS]
        total = sum(k for _, k, _ in counts)
        assert (row.learning_rate, row.p) == (0.05, 0.2)
        assert row.value == pytest.approx(sum(common for common, _, _ in counts) / total)
        assert row.expected == pytest.approx(sum(k * k / n for _, k, n in counts) / total)
    assert len({row.value for row in results.along_training if row.seed == 0}) > 2  # it moves


def test_the_last_moment_is_the_studys_own_rp(results: Results) -> None:
    ends = {row.seed: row.value for row in results.along_training if row.epoch == 2.0}
    own = [row for row in results.correlations if row.pair == "theta_0/theta_T" and row.p == 0.2]
    assert ends == {row.seed: row.value for row in own}
    assert len(results.correlations) == 3 * (5 + 2 * 2 * 3)  # as many as without it


def test_keeping_states_changes_no_byte_of_the_training(study: Plan, done: Store, tmp_path: Path) -> None:
    plain = plan(load_spec(STUDY | {"seeds": 1}))
    store = Store(tmp_path / "store")
    store.prepare()
    run(plain, store)
    for step in plain.steps:
        folder = file(store, step).parent
        for written in folder.iterdir():
            if written.name != "manifest.json":
                assert file(done, step, written.name).read_bytes() == written.read_bytes()
    assert {path.name for path in file(store, dense_run(plain, 0)).parent.glob("state*")} == {"state.safetensors"}
    assert collect(plain, store, (), {}).along_training == ()


def test_every_pair_has_its_rp_in_each_layer(study: Plan, done: Store, results: Results) -> None:
    rows = {(row.pair, row.mask, row.sparsity, row.layer): row for row in results.overlap_by_layer}
    pairs = [("theta_0/theta_T", None, 0.0)]
    for mask in ("at-init", "iterative"):
        pairs += [("ticket_0/finetune_T", mask, 0.5), ("ticket_0/finetune_T", mask, 0.75)]
        pairs += [(f"finetune_T/{dense}", mask, s) for dense in ("theta_0", "theta_T") for s in (0.5, 0.75)]
    assert set(rows) == {(*pair, layer) for pair in pairs for layer in LAYERS}
    for (pair, mask, sparsity, layer), row in rows.items():
        counts = []
        for seed in range(3):
            dense = dense_run(study, seed)
            start, end = file(done, dense.start.step), file(done, dense)
            if mask is None:
                counts.append(shared(start, end, layer))
                continue
            tuned = arm(study, "finetune", mask, sparsity, seed)
            assert tuned.mask is not None
            if pair == "ticket_0/finetune_T":
                counts.append(shared(start, file(done, tuned), layer, file(done, tuned.mask, "mask.safetensors")))
            else:
                counts.append(shared(file(done, tuned), start if pair.endswith("theta_0") else end, layer))
        assert row.n == 3
        assert row.value == pytest.approx(sum(common / k for common, k, _ in counts) / 3)
        assert row.expected == pytest.approx(sum(k / n for _, k, n in counts) / 3)


def test_layers_stand_in_the_models_order_and_rows_are_sorted(results: Results) -> None:
    rows = [
        (r.pair, r.learning_rate, r.mask or "", r.sparsity, LAYERS.index(r.layer)) for r in results.overlap_by_layer
    ]
    assert rows == sorted(rows)
    places = [(r.learning_rate, r.sparsity, r.first, r.second) for r in results.mask_overlap]
    assert places == sorted(places)


def test_masks_agree_as_counted(study: Plan, done: Store, results: Results) -> None:
    def kept(mask: str, sparsity: float, seed: int) -> dict[str, set[int]]:
        step = arm(study, "ticket", mask, sparsity, seed).mask
        assert step is not None
        path = file(done, step, "mask.safetensors")
        return {name: set(kept_places(path, name)) for name in LAYERS}

    def indices(a: dict[str, set[int]], b: dict[str, set[int]]) -> tuple[float, float]:
        common, union = (sum(len(op(a[n], b[n])) for n in LAYERS) for op in (set.__and__, set.__or__))
        chance = sum(len(a[n]) * len(b[n]) / size for n, size in zip(LAYERS, (144, 192), strict=True))
        both = sum(len(m[n]) for m in (a, b) for n in LAYERS)
        return common / union, chance / (both - chance)

    assert [(r.sparsity, r.first, r.second, r.same_seed, r.n) for r in results.mask_overlap] == [
        (sparsity, *pair)
        for sparsity in (0.5, 0.75)
        for pair in (
            ("at-init", "at-init", False, 3),
            ("at-init", "iterative", True, 3),
            ("iterative", "iterative", False, 3),
        )
    ]
    for row in results.mask_overlap:
        seeds = [(s, s) for s in range(3)] if row.same_seed else combinations(range(3), 2)
        found = [indices(kept(row.first, row.sparsity, i), kept(row.second, row.sparsity, j)) for i, j in seeds]
        values = [value for value, _ in found]
        assert row.value == pytest.approx(sum(values) / 3)
        assert (row.low, row.high) == (min(values), max(values))
        assert row.expected == pytest.approx(sum(chance for _, chance in found) / 3)
        density = 1 - row.sparsity
        assert row.expected == pytest.approx(density / (2 - density))  # where all layers keep the same share


def test_masks_of_channels_agree_with_others_as_counted_on_the_layers_of_both(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
    channel = {"kind": "one_shot", "pattern": "channel", "name": "channels"}
    beside = plan(load_spec(STUDY | {"seeds": 1, "sparsities": [0.5], "masks": ["iterative", channel]}))
    store = Store(tmp_path / "store")
    store.prepare()
    run(beside, store)
    masks = {label: arm(beside, "ticket", label, 0.5, 0).mask for label in ("channels", "iterative")}
    paths = {label: file(store, mask, "mask.safetensors") for label, mask in masks.items() if mask is not None}
    assert set(LAYERS) == load_file(paths["iterative"]).keys() < load_file(paths["channels"]).keys()
    first, second = ({(n, i) for n in LAYERS for i in kept_places(paths[label], n)} for label in sorted(paths))
    (row,) = collect(beside, store, (), {}).mask_overlap
    assert (row.first, row.second, row.n) == ("channels", "iterative", 1)
    assert row.value == pytest.approx(len(first & second) / len(first | second))


def test_one_algorithm_and_one_seed_have_nothing_to_compare(study: Plan, done: Store) -> None:
    alone = plan(load_spec(STUDY | {"seeds": 1, "masks": ["iterative"]}))
    assert collect(alone, done, (), {}).mask_overlap == ()


def test_only_what_is_stored_has_rows(study: Plan, tmp_path: Path) -> None:
    empty = collect(study, Store(tmp_path / "store"), (), {})
    assert (empty.along_training, empty.overlap_by_layer, empty.mask_overlap) == ((), (), ())


def test_the_report_has_all_of_it_and_equal_bytes_each_time(results: Results, tmp_path: Path) -> None:
    first, second = (write_report(results, tmp_path / name).page.parent for name in ("first", "second"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert {"along.svg", "layers-dense.svg", "layers-0.05-iterative.svg", "agreement-0.05-at-init.svg"} <= {
        path.name for path in files
    }
    again = read_results(first / "results.json")
    for name in ("along_training", "overlap_by_layer", "mask_overlap"):
        assert getattr(again, name) == getattr(results, name)
        written = json.loads((first / "results.json").read_text())[name]
        assert written == [dataclasses.asdict(row) for row in getattr(results, name)]
    page = (first / "report.html").read_text()
    assert "Along the training" in page
    assert "Mask overlap" in page


def test_the_toy_is_as_large_as_this_file_says() -> None:
    assert len(images()[0]) / 16 == 4
    sizes = {name: math.prod(weight.shape) for name, weight in net((1, 6, 6), 3).named_parameters() if name in LAYERS}
    assert sizes == {"3.weight": 144, "6.weight": 192}
