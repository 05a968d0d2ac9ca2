"""Sibling runs and lines in a plan: what these share, what they cost, and requests that cannot be met."""

from pathlib import Path
from typing import Any

import pytest

from prunetune.plan.compile import Plan, plan
from prunetune.plan.ledger import ledger
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Connect, Step, Train, Weights
from tests.support.refusals import refused
from tests.support.study_specs import ARMS, spec

GRID: dict[str, Any] = {"masks": ["one_shot", "iterative"], "sparsities": [0.5, 0.75], "learning_rates": [0.01, 0.1]}


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(**{**GRID, **fields})))


def keys(made: Plan, kind: type[Step]) -> set[str]:
    return {step.key for step in made.steps if isinstance(step, kind)}


def test_a_study_that_does_not_ask_has_none():
    made = planned()
    assert load_spec(spec()).connectivity == ()
    assert made.connections == ()
    assert keys(made, Connect) == set()
    assert not any("sibling" in note for note in made.notes)


def test_nothing_else_of_the_study_changes():
    without, made = planned(), planned(connectivity=["dense", "ticket"])
    assert {step.key for step in without.steps} < {step.key for step in made.steps}
    assert made.trials == without.trials
    assert ledger(made) == ledger(without)
    assert made.snapshots == without.snapshots


@pytest.mark.parametrize("arms", [["dense"], ["ticket"], ["dense", *ARMS]], ids=len)
def test_a_line_for_every_trial_of_the_arms(arms: list[str]):
    made = planned(arms=ARMS, connectivity=arms, seeds=2)
    cells = {(c.arm, c.mask, c.learning_rate, c.sparsity, c.seed): c for c in made.connections}
    assert len(cells) == len(made.connections)
    expected = {(t.arm, t.mask, t.learning_rate, t.sparsity, t.seed): t for t in made.trials if t.arm in arms}
    assert cells.keys() == expected.keys()
    for cell, connection in cells.items():
        trial, line = expected[cell].step, connection.step
        assert isinstance(trial, Train)
        assert line.first == Weights(trial)
        assert (line.mask, line.data, line.recipe, line.points) == (trial.mask, trial.data, trial.recipe, 11)
        sibling = connection.sibling_run
        assert isinstance(sibling, Train)
        assert (sibling.start, sibling.mask, sibling.recipe, sibling.penalty) == (
            trial.start,
            trial.mask,
            trial.recipe,
            None,
        )
        assert sibling.order_seed != trial.order_seed
        assert sibling.augment_seed != trial.augment_seed
        assert set(line.parents) == {trial, sibling} | ({trial.mask} if trial.mask else set())


def test_the_sibling_runs_of_a_seed_share_one_order_that_no_other_seed_has():
    made = planned(connectivity=["dense", "ticket"], seeds=3)
    trained = {(s.order_seed, s.augment_seed) for t in made.trials for s in [t.step] if isinstance(s, Train)}
    siblings = {(c.seed, c.sibling_run.order_seed, c.sibling_run.augment_seed) for c in made.connections}  # type: ignore[union-attr]
    assert len(trained) == len(siblings) == 3
    numbers = [n for pair in trained for n in pair] + [n for _, *pair in siblings for n in pair]
    assert len(set(numbers)) == 12


def test_what_sibling_runs_cost():
    without, made = planned(seeds=2), planned(connectivity=["dense", "ticket"], seeds=2)
    # at each seed and rate: the dense run's, and tickets' at two sparsities, whose first masks are the same
    siblings = 2 * 2 * (1 + 3)
    assert made.trainings == without.trainings + siblings
    assert made.epochs == without.epochs + 6 * siblings
    # alone, the two masks at the first sparsity are two experiments, each with its sibling run
    alone = 2 * 2 * (1 + 4)
    assert made.separate_trainings == without.separate_trainings + alone
    assert made.separate_epochs == without.separate_epochs + 6 * alone
    assert made.notes[-1] == (
        f"connectivity: {siblings} sibling runs of dense, ticket train {6 * siblings} epochs, "
        "which are in no row of the budget"
    )


def test_rewind_at_zero_is_the_ticket_and_so_is_its_sibling_run():
    made = planned(connectivity=["ticket", "rewind"], rewind="0ep")
    found = {arm: {c.step.key for c in made.connections if c.arm == arm} for arm in ("ticket", "rewind")}
    assert found["ticket"] == found["rewind"]


def test_lines_come_after_both_of_their_ends():
    made = planned(connectivity=["dense", *load_spec(spec()).named_arms])
    place = {step.key: i for i, step in enumerate(made.steps)}
    assert all(place[parent.key] < place[step.key] for step in made.steps for parent in step.parents)
    assert keys(made, Connect) == {c.step.key for c in made.connections}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"connectivity": ["tickets"]}, ("connectivity.0", "tickets", "ticket")),
        (
            {"connectivity": ["dense", "reinit"], "arms": ["ticket"]},
            ("connectivity.1", "reinit"),
        ),
        ({"connectivity": ["dense", "dense"]}, ("connectivity", "dense", "given")),
        ({"connectivity": "dense"}, ("connectivity", "dense", "list")),
        (
            {"arms": ["tickets"], "connectivity": ["ticket"]},
            ("arms.0.kind", "tickets", "ticket"),
        ),
    ],
)
def test_requests_that_cannot_be_met(fields: dict[str, Any], line: tuple[str, ...]):
    with refused(*line) as error:
        load_spec(spec(**fields))
    assert "\n" not in str(error.value)


def test_an_imported_dense_run_has_no_sibling_run_but_the_arms_have(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    pair = {"theta_0": str(tmp_path / "a"), "theta_T": str(tmp_path / "b")}
    fields: dict[str, Any] = {"pretrained": pair, "arms": ["ticket", "finetune"], "learning_rates": [0.1]}
    with refused("connectivity", "dense", "pretrained", "place"):
        load_spec(spec(**fields, connectivity=["dense"]))
    made = planned(**fields, connectivity=["finetune"], masks=["one_shot"])
    assert len(made.connections) == 2
    assert made.trainings == 4 + 2
