"""What a plan's steps take on other machines: from what is stored, timed or given, and said so."""

import math
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.core.environment import fingerprint
from prunetune.execution import cost, timing
from prunetune.execution.cost import bytes_read, costs, estimate
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps.quantities import MeasureBarrier, MeasureCurvature, MeasureMovement, MeasureSensitivity
from prunetune.steps.steps import Connect, Init, Prune, Step, Train
from prunetune.store.store import Store
from tests.support.refusals import refused

STUDY: dict[str, Any] = {
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 4, "batch_size": 16},
    "learning_rates": [0.1],
    "masks": ["iterative", {"kind": "admm", "epochs": 2}],
    "sparsities": [0.5, 0.75],
    "arms": ["ticket", "finetune"],
    "connectivity": ["ticket"],
    "seeds": 1,
}
VALUES = (9 * 4 + 4) + 4 * 4 + 1 + (4 * 4 * 9 + 4) + (64 * 3 + 3)  # of a state: with the batch norm's statistics


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(STUDY))


def of_kind(planned: Plan, kind: type[Step]) -> list[Any]:
    return [step for step in planned.steps if type(step) is kind]


def keep(store: Store, step: Step, seconds: float, diverged: bool = False, **changes: Any) -> None:
    environment = {**fingerprint("cpu", "f32"), **changes}
    store.write(step, {"diverged": diverged}, environment=environment, seconds=seconds)


def test_a_given_cost_is_scaled_by_epochs_and_the_rest_is_assumed(study: Plan, store: Store) -> None:
    keep(store, of_kind(study, Train)[0], 1000.0)
    found = costs(study, store, "cuda", 60.0)
    for step in study.steps:
        epochs = step.recipe.epochs if isinstance(step, Train) else None
        expected = {4: 60.0, 2: 30.0}[epochs] if epochs else 11 * 15 / 3 if isinstance(step, Connect) else 0.05
        assert found.seconds[step.key] == pytest.approx(expected)
    assert {step.recipe.epochs for step in of_kind(study, Train)} == {2, 4}
    assert found.sources == (
        "Connect 0.33 of an epoch a point (assumed)",
        "Init 0.05 s each (assumed)",
        "Measure 0.05 s each (assumed)",
        "Prune 0.05 s each (assumed)",
        "Train 60 s for 4 epochs (given)",
    )


def test_what_measure_asks_for_is_assumed_by_the_images_that_pass(store: Store) -> None:
    """48 training and 16 held-out images, two layers: shares of an epoch of 15 s; a point is as of a Connect."""
    measuring = {"measure": ["movement", "barriers", "curvature", "sensitivity"], "data_args": {"validation": 0.25}}
    planned = plan(load_spec({**STUDY, **measuring}))
    found = costs(planned, store, "cuda", 60.0)
    expected = {
        MeasureMovement: 0.05,
        MeasureBarrier: 11 * 15 / 3,
        MeasureCurvature: 30 * 3 * 15,  # 512 images are asked for, and all 48 taken
        MeasureSensitivity: 6 * 2 * 16 / 48 * 15 / 3,
    }
    for kind, seconds in expected.items():
        taken = [found.seconds[step.key] for step in of_kind(planned, kind)]
        assert taken == pytest.approx([seconds] * len(taken))
    assert "MeasureCurvature 3 of an epoch a product (assumed)" in found.sources
    assert "MeasureSensitivity 0.22 of an epoch a sparsity (assumed)" in found.sources
    step = of_kind(planned, MeasureCurvature)[0]
    keep(store, step, 60.0)
    again = costs(planned, store, "cpu", 60.0)
    assert {round(again.seconds[step.key], 9) for step in of_kind(planned, MeasureCurvature)} == {60.0}
    assert any(source.startswith("MeasureCurvature 2 s a product (median of 1 stored") for source in again.sources)


def test_what_measure_asks_for_takes_its_time_in_an_estimate(
    study: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_epoch = timing.Timed(1 / 48, 1 / 48)  # takes a second
    monkeypatch.setattr(cost, "timed", lambda plan, step: an_epoch)
    bare = {name: value for name, value in STUDY.items() if name != "connectivity"} | {
        "data_args": {"validation": 0.25}
    }

    def seconds(**changes: Any) -> float:
        planned = plan(load_spec({**bare, **changes}))
        return estimate(planned, planned.remaining(store), jobs=1).low or 0.0

    plain = seconds()
    count = len([t for t in plan(load_spec(bare)).trials if t.arm != "dense"])
    assert seconds(measure=["movement"]) - plain == pytest.approx((count + 1) * 0.05)
    assert seconds(measure=["curvature"]) - plain == pytest.approx((count + 1) * 30 * 3.0)
    assert seconds(measure=["sensitivity"]) - plain == pytest.approx(6 * 2 * 16 / 48 / 3)
    assert seconds(measure=["barriers"]) - plain > count * 11 * 0.5


def test_a_stored_step_takes_what_it_took_and_the_others_the_median(study: Plan, store: Store) -> None:
    whole = [step for step in of_kind(study, Train) if step.recipe.epochs == 4]
    prunes, draws = of_kind(study, Prune), of_kind(study, Init)
    for step, seconds in zip(whole, (4.0, 8.0, 40.0), strict=False):
        keep(store, step, seconds)
    keep(store, whole[3], 0.1, diverged=True)  # ended early
    keep(store, whole[4], 0.2, cpu="another")
    keep(store, prunes[0], 3.0)
    found = costs(study, store, "cpu")
    assert [found.seconds[step.key] for step in whole[:5]] == [4.0, 8.0, 40.0, 8.0, 8.0]  # median of 1, 2, 10 an epoch
    assert {found.seconds[s.key] for s in of_kind(study, Train) if s.recipe.epochs == 2} == {4.0}
    assert {found.seconds[step.key] for step in prunes} == {3.0}
    assert found.seconds[draws[0].key] == 0.05
    assert f"Train 2 s an epoch (median of 3 stored, on {fingerprint('cpu', None)['cpu']})" in found.sources


def test_on_a_gpu_the_accelerator_with_most_trainings_counts(store: Store) -> None:
    study = plan(load_spec(STUDY), "cuda")
    first, second, third = of_kind(study, Train)[:3]
    keep(store, first, 4.0, cpu="host", accelerator="big")
    keep(store, second, 8.0, cpu="host", accelerator="big")
    keep(store, third, 400.0, cpu="host", accelerator="small")
    keep(store, of_kind(study, Prune)[0], 2.0, cpu="host")
    found = costs(study, store, "cuda")
    assert found.seconds[third.key] == pytest.approx(1.5 * third.recipe.epochs)
    assert "Train 1.5 s an epoch (median of 2 stored, on host with big)" in found.sources
    assert "Prune 2 s each (median of 1 stored, on host with big)" in found.sources


def test_what_nobody_knows_must_be_given(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with refused("--simulate", "seconds=N", "4", "cuda"):
        costs(plan(load_spec(STUDY), "cuda"), store, "cuda")


def test_on_this_machine_a_training_is_timed(study: Plan, store: Store) -> None:
    found = costs(study, store, "cpu")
    assert all(found.seconds[step.key] > 0 for step in study.steps)
    assert "(a few steps timed now, on " in found.sources[-1]


def test_what_runs_beside_makes_the_upper_end_and_not_the_lower(
    study: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two cores two workers take no longer than one; six programs of others take three quarters of the cores."""
    monkeypatch.setattr(timing, "default_jobs", lambda: 2)
    monkeypatch.setattr(cost, "timed", lambda plan, step: timing.Timed(0.001, 0.001))
    found: dict[float, cost.Estimate] = {}
    for load in (0.0, 6.0):
        monkeypatch.setattr(timing.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        found[load] = cost.estimate(study, study.remaining(store), 2)
    assert found[0.0].low == found[6.0].low == pytest.approx((found[0.0].work or 0.0) / 2)
    upper = [(found[load].high or 0.0) - cost.START_SECONDS for load in (0.0, 6.0)]
    assert upper == pytest.approx([cost.BESIDE * (found[0.0].low or 0.0), 4 * cost.BESIDE * (found[0.0].low or 0.0)])


def test_what_counts_is_the_processors_time() -> None:
    """A pause in the middle of a step is somebody else's."""
    paused = plan(load_spec(STUDY | {"model": "tests.support.toy_study:slow_net", "model_args": {"seconds": 0.1}}))
    step = of_kind(paused, Train)[0]
    found = timing.timed(paused, step)
    assert found is not None
    assert found.slow < 0.1 / step.recipe.batch_size


def test_images_that_are_not_here_are_stood_in_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    planned = plan(load_spec({"model": "small", "data": "cifar10", "recipe": {"epochs": 1}, "seeds": 1}))
    expected = cost.estimate(planned, planned.remaining(store), 1)
    assert expected.low is not None
    assert expected.high is not None
    assert 0 < expected.low < expected.high
    few = timing.stand_in(planned, 96)
    assert (few.train_images.shape, few.outputs, len(few.test_labels)) == ((96, 3, 32, 32), 10, 96)


@pytest.mark.parametrize(
    ("pick", "states", "masks"),
    [
        (lambda planned: of_kind(planned, Init)[:1], 0, 0),
        (lambda planned: [s for s in planned.steps if isinstance(s, Train) and s.mask is None][:1], 1, 0),
        (lambda planned: [s for s in planned.steps if isinstance(s, Train) and s.mask is not None][:1], 1, 1),
        (lambda planned: [s for s in planned.steps if isinstance(s, Prune) and s.within is None][:1], 1, 0),
        (lambda planned: [s for s in planned.steps if isinstance(s, Prune) and s.within is not None][:1], 1, 1),
        (lambda planned: of_kind(planned, Connect)[:1], 2, 1),
    ],
)
def test_bytes_read_are_those_of_states_and_masks(
    study: Plan, pick: Callable[[Plan], list[Step]], states: int, masks: int
) -> None:
    assert bytes_read(study, pick(study)) == 4 * states * VALUES + masks * math.ceil(VALUES / 8)
