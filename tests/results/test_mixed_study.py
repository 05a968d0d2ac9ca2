"""The control `mixed` in a study that ran: it starts where its alpha says, and plausible bugs in that are found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.results.collect import collect
from prunetune.results.cross_checks import compare
from prunetune.results.stored import read_stored
from prunetune.sparsity.model_state import digest_tensors
from prunetune.spec.load import load_spec
from prunetune.steps import graph
from prunetune.steps.steps import Train, Transform, Weights
from prunetune.store.store import Store

NAME = "mixed starts as its alpha says"
STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 1, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["one_shot"],
    "sparsities": [0.5],
    "arms": ["ticket", *({"kind": "mixed", "alpha": alpha} for alpha in (0.25, 1))],
    "seeds": 2,
}


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(STUDY))


@pytest.fixture(scope="module")
def done(study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("mixed") / "store")
    store.prepare()
    for step in study.steps:
        execute(step, store, study.snapshots.get(step.key, frozenset()))
    return store


def breaches(planned: Plan, store: Store) -> tuple[str, ...]:
    return next(rule.breaches for rule in compare(planned, read_stored(planned, store), store) if rule.name == NAME)


def with_start(planned: Plan, store: Store, start: Callable[[Train], Weights]) -> Plan:
    """The study with a bug in where `mixed(0.25)` of seed 0 starts, run to its end."""
    trials = []
    for trial in planned.trials:
        if (trial.arm, trial.seed) == ("mixed(0.25)", 0):
            assert isinstance(trial.step, Train)
            trial = replace(trial, step=replace(trial.step, start=start(trial.step)))
            if not store.has(trial.step.key):
                execute(trial.step, store)
        trials.append(trial)
    steps = graph.closure([*planned.steps, *(trial.step for trial in trials)])
    return replace(planned, trials=tuple(trials), steps=steps)


def test_a_study_without_reinit_keeps_every_rule(study: Plan, done: Store) -> None:
    results = collect(study, done, (), {})
    assert [rule for rule in results.invariants if rule.breaches] == []
    counts = {rule.name: rule.checked for rule in results.invariants}
    assert counts[NAME] == 4
    assert counts["mixed as asked"] == 2  # at 1 it is the ticket's own training
    rows = {(row.arm, row.seed): row for row in results.trials}
    assert rows["mixed(1)", 0].key == rows["ticket", 0].key
    assert rows["mixed(0.25)", 0].start_digest not in ("", rows["ticket", 0].start_digest)
    assert results.controls == ("mixed(0.25)", "mixed(1)")


def of_other_seed(study: Plan, arm: str) -> Train:
    step = next(t.step for t in study.trials if (t.arm, t.seed) == (arm, 1))
    assert isinstance(step, Train)
    return step


BUGS: dict[str, Callable[[Plan, Train], Weights]] = {
    "alpha is ignored": lambda study, step: Weights(
        step.start.step, None, Transform.of("mixed", second=step.start.states[1], alpha=0.5)
    ),
    "it is reinit": lambda study, step: Weights(step.start.step),
    "theta_0' of another seed": lambda study, step: replace(
        step.start, step=of_other_seed(study, "mixed(0.25)").start.step
    ),
    "theta_0 of another seed": lambda study, step: Weights(
        step.start.step, None, Transform.of("mixed", second=of_other_seed(study, "ticket").start, alpha=0.25)
    ),
    "the draws are swapped": lambda study, step: Weights(
        step.start.states[1].step, None, Transform.of("mixed", second=Weights(step.start.step), alpha=0.25)
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_mix_of_other_states_is_found(study: Plan, done: Store, bug: str) -> None:
    changed = with_start(study, done, lambda step: BUGS[bug](study, step))
    (line,) = breaches(changed, done)
    assert line == (
        "mixed(0.25) under one_shot at sparsity 0.5, learning rate 0.05, seed 0: "
        "did not start from 0.25 parts of theta_0 and the rest of theta_0'"
    )
    assert breaches(study, done) == ()


def test_the_start_digest_is_of_the_mix_under_the_mask(study: Plan, done: Store) -> None:
    """By hand, from the stored draws."""
    step = next(t.step for t in study.trials if (t.arm, t.seed) == ("mixed(0.25)", 1))
    assert isinstance(step, Train)
    assert step.mask is not None
    own, other = done.state(step.start.step.key), done.state(step.start.states[1].step.key)
    kept = done.mask(step.mask.key)
    start = {}
    for name, tensor in own.items():
        mixed = (0.25 * other[name].double() + 0.9375**0.5 * tensor.double()).to(tensor.dtype)
        start[name] = mixed if (tensor != other[name]).any() else tensor
        if name in kept:
            start[name] = start[name] * kept[name] + 0.0
    assert digest_tensors(start) == done.metrics(step.key)["start_digest"]
