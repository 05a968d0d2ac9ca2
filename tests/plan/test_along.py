"""R_p along the training, as it is planned: its moments, what is stored for it, and what it leaves as it was."""

from fractions import Fraction
from typing import Any

import pytest

from prunetune.errors import ConfigError
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Init, Measure, Train, Weights
from prunetune.training.recipe import TrainingTime
from tests.support.refusals import refused
from tests.support.study_specs import spec

STEPS_PER_EPOCH = 157  # 10,000 images in batches of 64


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(sparsities=[0.5], learning_rates=[0.01, 0.1], **fields)))


def dense_runs(made: Plan) -> dict[tuple[float, int], Train]:
    runs = {(row.learning_rate, row.seed): row.step for row in made.trials if row.arm == "dense"}
    return {place: step for place, step in runs.items() if isinstance(step, Train)}


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_the_moments_are_evenly_spaced_and_the_last_is_the_end(count: int) -> None:
    made = planned(along_training=count, seeds=2)
    runs = dense_runs(made)
    assert len(runs) == 4
    for (rate, seed), dense in runs.items():
        rows = [row for row in made.trajectory if (row.learning_rate, row.seed) == (rate, seed)]
        assert [row.epoch for row in rows] == pytest.approx(
            [float(Fraction(6 * k, count)) for k in range(1, count + 1)]
        )
        assert all(row.p == 0.2 and row.p in row.step.p for row in rows)
        assert all(isinstance(row.step.first.step, Init) and row.step.first == dense.start for row in rows)
        assert all(row.step.mask is None for row in rows)
        assert [row.step.second for row in rows] == [
            *(Weights(dense, TrainingTime(row.epoch, "ep")) for row in rows[:-1]),
            Weights(dense),
        ]
        taken = [row.step.second.at.step(STEPS_PER_EPOCH) for row in rows[:-1] if row.step.second.at]
        assert taken == [round(Fraction(6 * STEPS_PER_EPOCH * k, count)) for k in range(1, count)]


def test_the_snapshots_are_the_moments_before_the_end_and_what_else_is_read() -> None:
    made = planned(along_training=4, rewind="3ep")
    for dense in dense_runs(made).values():
        assert made.snapshots[dense.key] == {TrainingTime(1.5, "ep"), TrainingTime(3.0, "ep"), TrainingTime(4.5, "ep")}
    assert len(made.snapshots) == 2  # the dense runs, and no other training


def test_it_adds_measurements_and_changes_nothing_else() -> None:
    without, made = planned(), planned(along_training=5)
    added = [step for step in made.steps if step not in set(without.steps)]
    assert set(without.steps) <= set(made.steps)
    assert len(added) == 2 * 4  # the fifth is the study's own R_p of start and end
    assert all(isinstance(step, Measure) for step in added)
    assert (made.trials, made.correlations) == (without.trials, without.correlations)
    assert (made.trainings, made.epochs, made.separate_epochs) == (
        without.trainings,
        without.epochs,
        without.separate_epochs,
    )
    assert without.trajectory == ()
    assert all(points == {TrainingTime.parse(without.spec.rewind)} for points in without.snapshots.values())


def test_there_can_be_as_many_moments_as_steps_and_no_more() -> None:
    small = {"recipe": {"epochs": 2, "batch_size": 1000}, "data_args": {"train_limit": 3500}}
    made = planned(along_training=8, rewind="0ep", **small)
    for dense in dense_runs(made).values():
        assert sorted(point.step(4) for point in made.snapshots[dense.key]) == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ConfigError) as error:
        planned(along_training=9, **small)
    assert str(error.value) == "along_training: 9; must be at most 8, the optimizer steps of a training"


@pytest.mark.parametrize("value", [-1, 1.5, "many", True, None])
def test_it_is_a_count(value: object) -> None:
    with refused("along_training"):
        load_spec(spec(along_training=value))


def test_a_dense_run_of_the_users_has_no_training() -> None:
    pair = {"theta_0": "a.pt", "theta_T": "b.pt"}
    with pytest.raises(ConfigError) as error:
        load_spec(spec(pretrained=pair, learning_rates=[0.1], along_training=3))
    assert str(error.value).startswith("along_training: 3; must be 0")
    assert "\n" not in str(error.value)
