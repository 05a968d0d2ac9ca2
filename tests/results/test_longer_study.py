"""A tiny study with longer dense trainings, really trained: rows, rules between trainings, verdict and files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.report.write_report import render_again, write_report
from prunetune.results.collect import collect
from prunetune.results.cross_checks import compare
from prunetune.results.stored import read_stored
from prunetune.rows import Results
from prunetune.spec.load import load_spec
from prunetune.store.store import Store

STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 1, "batch_size": 32, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05, 0.1],
    "masks": ["one_shot"],
    "sparsities": [0.5],
    "arms": ["ticket", "reinit"],
    "rewind": "1it",
    "seeds": 2,
    "pretraining": {"longer": 2},
}


def run(planned: Plan, store: Store) -> None:
    for step in planned.steps:
        if not store.has(step.key, planned.snapshots.get(step.key, frozenset())):
            execute(step, store, planned.snapshots.get(step.key, frozenset()))


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(STUDY))


@pytest.fixture(scope="module")
def done(study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("longer") / "store")
    store.prepare()
    run(study, store)
    return store


@pytest.fixture(scope="module")
def results(study: Plan, done: Store) -> Results:
    return collect(study, done, cached=(), failures={})


def test_its_rows_are_dense_runs_of_twice_the_epochs(results: Results) -> None:
    assert results.missing == ()
    by_arm = {arm: [row for row in results.trials if row.arm == arm] for arm in ("dense", "dense_longer", "ticket")}
    assert [len(rows) for rows in by_arm.values()] == [4, 4, 4]
    for dense, longer in zip(by_arm["dense"], by_arm["dense_longer"], strict=True):
        assert (longer.learning_rate, longer.seed) == (dense.learning_rate, dense.seed)
        assert (longer.mask, longer.sparsity, longer.density, longer.mask_digest) == (None, 0.0, 1.0, None)
        assert longer.start_digest == dense.start_digest
        assert (longer.epochs, longer.steps) == (2, 2 * dense.steps)
        assert longer.data_order_digest != dense.data_order_digest  # it goes on where the other ends
        assert longer.key != dense.key


def test_every_rule_between_trainings_was_checked_and_held(results: Results) -> None:
    rules = {row.name: row for row in results.invariants}
    assert [row for row in rules.values() if row.breaches] == []
    assert rules["dense longer is dense for longer"].checked == 4
    # dense, ticket, reinit at two rates and seeds: two comparisons each; a mask has but ticket and reinit
    for name, checked in (("arms share steps", 8), ("arms share data order", 8), ("arms share their mask", 4)):
        assert rules[name].checked == checked


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"start_digest": "0" * 64}, "did not start as the dense run did"),
        ({"steps": 3}, "steps, not 2 times the dense run's"),
        ({"steps": 3, "diverged": True}, None),  # it stopped where it diverged
    ],
)
def test_a_longer_run_of_another_kind_is_a_breach(
    study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], wrong: str | None
) -> None:
    victim = next(row.step.key for row in study.trials if row.arm == "dense_longer")
    metrics = Store.metrics

    def changed(store: Store, key: str, *more: object) -> dict[str, Any]:
        return metrics(store, key) | (change if key == victim else {})

    monkeypatch.setattr(Store, "metrics", changed)
    found = {row.name: row.breaches for row in compare(study, read_stored(study, done), done)}
    breaches = found["dense longer is dense for longer"]
    assert len(breaches) == (wrong is not None)
    assert wrong is None or wrong in breaches[0]


def test_a_study_of_twice_the_epochs_finds_its_dense_runs_done(done: Store) -> None:
    twice = plan(load_spec(STUDY | {"recipe": STUDY["recipe"] | {"epochs": 2}, "pretraining": {}, "rewind": "0it"}))
    cached = twice.remaining(done).cached
    assert {row.arm for row in twice.trials if row.step.key in cached} == {"dense"}
    assert sum(row.step.key in cached for row in twice.trials) == 4


def test_the_report_tells_the_checks_and_renders_again(results: Results, tmp_path: Path) -> None:
    report = write_report(results, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["study"]["pretraining"] == {"longer": 2}
    converged = [row for row in found["pretraining"] if row["check"] == "converged"]
    assert [(row["learning_rate"], row["n"]) for row in converged] == [(0.05, 2), (0.1, 2)]
    for row in converged:
        rate = row["learning_rate"]
        accuracy = {(t.arm, t.seed): t.test_accuracy or 0.0 for t in results.trials if t.learning_rate == rate}
        gains = [accuracy["dense_longer", seed] - accuracy["dense", seed] for seed in (0, 1)]
        assert row["mean"] == pytest.approx(sum(gains) / 2)
        assert row["low"] <= row["mean"] <= row["high"]
    assert "compared with that after 1" in report.text
    assert "dense_longer" in (tmp_path / "trials.csv").read_text()
    assert "dense_longer" not in "".join(report.text.splitlines()[:4])  # no column of the arms
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    render_again(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_no_longer_run_is_recommended(results: Results, tmp_path: Path) -> None:
    better = [
        dataclasses.replace(row, test_accuracy=99.0 + 0.1 * row.seed) if row.arm == "dense_longer" else row
        for row in results.trials
    ]
    report = write_report(dataclasses.replace(results, trials=tuple(better)), tmp_path)
    assert {row.arm for row in report.recommendation} <= {"ticket", "reinit"}
