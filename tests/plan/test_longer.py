"""The longer dense training of a study (`pretraining: {longer: 2}`): what is planned, shared, counted and refused."""

from pathlib import Path
from typing import Any

import pytest

from prunetune.errors import ConfigError
from prunetune.plan.compile import Plan, every_cell, plan
from prunetune.plan.ledger import ledger
from prunetune.plan.measurements import PlannedTrial
from prunetune.spec.load import load_spec
from prunetune.spec.study import MOST_STEPS
from prunetune.steps.steps import Train
from tests.support.refusals import refused
from tests.support.study_specs import spec

GRID: dict[str, Any] = {
    "recipe": {"epochs": 6, "batch_size": 64, "schedule": {"warmup": "1/6"}},
    "learning_rates": [0.01, 0.1],
    "masks": ["one_shot"],
    "sparsities": [0.5],
    "arms": ["ticket"],
    "seeds": 2,
}


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(**GRID | fields)))


def rows(made: Plan, arm: str) -> dict[tuple[float, int], PlannedTrial]:
    found = [trial for trial in made.trials if trial.arm == arm]
    table = {(trial.learning_rate, trial.seed): trial for trial in found}
    assert len(table) == len(found)
    return table


def test_it_is_off_unless_asked_for_and_on_in_quick():
    assert load_spec(spec()).pretraining.longer == 0
    assert not rows(planned(), "dense_longer")
    assert not rows(planned(pretraining={"longer": 0}), "dense_longer")
    assert load_spec("quick").pretraining.longer == 2
    assert load_spec(load_spec("quick").resolved()).resolved() == load_spec("quick").resolved()


def test_one_longer_dense_training_for_every_rate_and_seed_from_the_same_start_in_the_same_order():
    made = planned(pretraining={"longer": 2})
    dense, longer = rows(made, "dense"), rows(made, "dense_longer")
    assert dense.keys() == longer.keys() == {(rate, seed) for rate in (0.01, 0.1) for seed in (0, 1)}
    for place, row in longer.items():
        assert (row.mask, row.sparsity) == (None, 0.0)
        step, other = row.step, dense[place].step
        assert isinstance(step, Train)
        assert isinstance(other, Train)
        assert (step.start, step.mask, step.penalty) == (other.start, None, None)
        assert (step.order_seed, step.augment_seed, step.data) == (other.order_seed, other.augment_seed, other.data)
        assert (step.recipe.epochs, other.recipe.epochs) == (12, 6)
        assert step.recipe.learning_rate == other.recipe.learning_rate
        # 8/15 and 12/15 of the epochs, and a sixth of them to warm up
        assert (step.recipe.schedule.milestones, step.recipe.schedule.warmup) == ((6.4, 9.6), 2.0)
        assert (other.recipe.schedule.milestones, other.recipe.schedule.warmup) == ((3.2, 4.8), 1.0)


@pytest.mark.parametrize("times", [2, 3, 7])
@pytest.mark.parametrize("kind", ["step", "cosine", "constant"])
def test_it_is_the_dense_run_of_a_study_with_as_many_epochs(times: int, kind: str):
    recipe = {"epochs": 6, "batch_size": 64, "schedule": {"kind": kind, "warmup": "1/15"}}
    short = planned(recipe=recipe, pretraining={"longer": times})
    long = planned(recipe=recipe | {"epochs": 6 * times})
    keys = [
        {place: row.step.key for place, row in rows(made, arm).items()}
        for made, arm in ((short, "dense_longer"), (long, "dense"))
    ]
    assert keys[0] == keys[1]


def test_nothing_else_of_the_study_changes():
    without, made = planned(), planned(pretraining={"longer": 2})
    added = {row.step.key for row in rows(made, "dense_longer").values()}
    assert {step.key for step in made.steps} == {step.key for step in without.steps} | added
    assert [row for row in made.trials if row.arm != "dense_longer"] == list(without.trials)
    assert (made.trainings, made.epochs) == (without.trainings + 4, without.epochs + 4 * 12)
    assert (made.separate_trainings, made.separate_epochs) == (
        without.separate_trainings + 4,
        without.separate_epochs + 4 * 12,
    )
    assert made.correlations == without.correlations
    assert made.snapshots == without.snapshots


def test_its_epochs_are_in_the_ledger():
    made = planned(pretraining={"longer": 2})
    table = {(row.learning_rate, row.arm): row for row in ledger(made)}
    for rate in (0.01, 0.1):
        row = table[rate, "dense_longer"]
        assert (row.mask, row.sparsity) == (None, 0.0)
        assert (row.pretraining_epochs, row.mask_epochs, row.training_epochs) == (0, 0, 2 * 12)
        assert "whether the dense run has converged" in row.note
        # the arms rest on the dense run alone
        assert (table[rate, "ticket"].pretraining_epochs, table[rate, "ticket"].training_epochs) == (2 * 6, 2 * 6)


def test_where_seeds_are_added_they_get_one_too():
    read = load_spec(spec(**GRID | {"seeds": {"min": 2, "max": 4}, "pretraining": {"longer": 2}}))
    first = plan(read)
    assert sorted(rows(first, "dense_longer")) == [(0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1)]
    grown = plan(read, seeds=every_cell(read, 2) | {(0.1, "one_shot"): 4})
    assert sorted(rows(grown, "dense_longer")) == [(0.01, 0), (0.01, 1), *((0.1, seed) for seed in range(4))]


def test_a_rate_at_which_masks_are_found_and_no_arm_trained_has_none():
    crossed = [{"kind": "one_shot", "learning_rate": 0.1}]
    made = planned(masks=crossed, learning_rates=[0.01], pretraining={"longer": 2})
    assert {rate for rate, _ in rows(made, "dense_longer")} == {0.01}


@pytest.mark.parametrize("value", [1, -1, 101, 1.5, 2.0, True, "2", None])
def test_what_is_no_number_of_times_is_refused(value: Any):
    with refused("pretraining.longer"):
        load_spec(spec(pretraining={"longer": value}))


def test_it_is_refused_beside_states_of_the_users(tmp_path: Path):
    pair = {"theta_0": str(tmp_path / "a"), "theta_T": str(tmp_path / "b")}
    with pytest.raises(ConfigError) as error:
        load_spec(spec(pretrained=pair, learning_rates=[0.1], pretraining={"longer": 2}))
    assert str(error.value) == (
        "pretraining.longer: 2; must be 0: with `pretrained` there is no dense training to lengthen"
    )


def test_epochs_and_steps_have_their_limits():
    with refused("pretraining.longer", "20,000", "2,000,000", "100", "times"):
        load_spec(spec(recipe={"epochs": 20_000}, pretraining={"longer": 100}))
    fields = {"seeds": 1000, "masks": ["one_shot"], "arms": ["ticket"], "sparsities": [i / 26 for i in range(1, 26)]}
    # 1000 seeds x 2 rates x 25 sparsities x (an arm and its mask) are as many as may be; one more each is too many
    load_spec(spec(**fields))
    assert MOST_STEPS == 1000 * 2 * 25 * 2
    with refused("seeds", "102,000", "multiply"):
        load_spec(spec(**fields, pretraining={"longer": 2}))
