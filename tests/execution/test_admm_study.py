"""A whole tiny study of ADMM under 2:4: spec, plan, steps done, every group of every mask counted."""

from typing import Any

import pytest
from torch import Tensor

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.results.collect import collect
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train
from prunetune.store.store import Store

SPEC: dict[str, Any] = {
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 24, "batch_size": 16, "momentum": 0.5, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": [{"kind": "admm", "pattern": "2:4", "rho": 1.0}, {"kind": "admm", "rho": 1.0}],
    "sparsities": [0.5],
    "arms": ["finetune"],
    "seeds": 1,
}
LABELS = {"admm-2:4-rho=1.0": "2:4", "admm-rho=1.0": None}


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(load_spec(SPEC))


@pytest.fixture(scope="module")
def done(made: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("admm") / "store")
    store.prepare()
    for step in made.steps:
        execute(step, store, made.snapshots.get(step.key, frozenset()))
    return store


def mask_of(made: Plan, label: str) -> Prune:
    (step,) = [row.step for row in made.trials if row.mask == label]
    assert isinstance(step, Train)
    assert step.mask is not None
    return step.mask


def group_counts(kept: Tensor) -> list[int]:
    """How many of every four neighbours are kept, the channels of one place of the kernel being neighbours."""
    rows = [row for output in kept for row in (output.flatten(1).t() if output.dim() > 1 else output[None])]
    return [sum(row[i : i + 4].tolist()) for row in rows for i in range(0, len(row), 4)]


def test_the_penalty_has_the_masks_pattern(made: Plan) -> None:
    for label, pattern in LABELS.items():
        source = mask_of(made, label).source.step
        assert isinstance(source, Train)
        assert source.penalty is not None
        assert (source.penalty.density, source.penalty.pattern) == (0.5, pattern)


def test_the_masks_are_two_of_four_and_the_residual_falls(made: Plan, done: Store) -> None:
    step = mask_of(made, "admm-2:4-rho=1.0")
    mask = done.mask(step.key)
    assert {name: group_counts(kept) for name, kept in mask.items()} == {"3.weight": [2] * 36, "6.weight": [2] * 48}
    metrics = done.metrics(step.source.step.key)
    assert metrics["residuals"][-1] < 0.05 * metrics["residuals"][0]
    state = done.state(step.source.step.key)
    lost = sum(float(state[name][~kept].square().sum()) for name, kept in mask.items())
    assert lost < 0.05 * sum(float(state[name].square().sum()) for name in mask)
    assert set(group_counts(done.mask(mask_of(made, "admm-rho=1.0").key)["3.weight"])) > {2}


def test_the_study_breaks_no_rule(made: Plan, done: Store) -> None:
    results = collect(made, done, frozenset(), {})
    assert len(results.trials) == len(made.trials) == 3
    assert not [rule.name for rule in results.invariants if rule.breaches]
