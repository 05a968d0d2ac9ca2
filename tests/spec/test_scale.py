"""`scale`: a study made shorter at equal κ."""

import pytest
import yaml

from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec
from tests.support.cli_runs import prunetune
from tests.support.refusals import refused

FIG2 = "paper/fig2-resnet20-cifar10"
PAPER = 1e-4 * 391 * (80 + 40 * 0.1 + 30 * 0.01) / (1 - 0.9)  # κ over the rate, by hand
SIX_DIGITS = 5.001e-6  # half a unit of the weight decay's sixth digit, the most where its first digit is 1
OWN = {
    "model": "small",
    "data": "fashion-mini",
    "recipe": {
        "epochs": 20,
        "batch_size": 64,
        "weight_decay": 5e-4,
        "schedule": {"milestones": [10, "3/4"], "warmup": 2},
    },
    "rewind": "4ep",
    "masks": [
        "iterative",
        {"kind": "admm", "epochs": 10, "update_every": 2.0},
        {"kind": "gradual", "epochs": 8, "updates": 6},
    ],
    "seeds": 1,
}


def kappas(spec: Spec) -> list[float]:
    return [row.kappa or 0.0 for row in plan(spec).recipes]


@pytest.mark.parametrize(
    ("scale", "changes"),
    [
        (None, []),
        (0.1, []),
        (1.0, ["data_args.train_limit=5000"]),
        (0.1, ["data_args.train_limit=5000"]),
        (0.02, ["batch_size=512", "momentum=0.5", "data_args.validation=0.2"]),
        (0.1, ["recipe.schedule={kind: cosine, warmup: 1}"]),
    ],
    ids=str,
)
def test_kappa_stays_whatever_sets_the_steps(scale, changes):
    found = kappas(load_spec(FIG2, changes, scale))
    assert found == pytest.approx([0.01 * PAPER, 0.1 * PAPER], rel=SIX_DIGITS)
    assert [f"{kappa:.2f}" for kappa in found] == ["0.33", "3.30"]


def test_what_is_counted_in_epochs_is_multiplied():
    spec = load_spec(OWN, scale=0.5)
    iterative, admm, gradual = spec.resolved()["masks"]
    assert spec.recipe.epochs == 10
    assert (spec.recipe.schedule.milestones, spec.recipe.schedule.warmup) == ((5.0, 7.5), 1.0)
    assert spec.rewind == "2ep"
    assert (admm["epochs"], admm["update_every"], gradual["epochs"], gradual["updates"]) == (5, 1.0, 4, 4)
    assert iterative == load_spec(OWN).resolved()["masks"][0]
    assert spec.recipe.weight_decay == pytest.approx(2 * 5e-4, rel=0.02)  # the warm-up rounds to whole steps
    assert kappas(spec) == pytest.approx(kappas(load_spec(OWN)), rel=SIX_DIGITS)


def test_a_rewind_in_steps_stays_at_its_part_of_the_training():
    assert load_spec(OWN | {"rewind": "500it"}, scale=0.1).rewind == "50it"


def test_epochs_are_rounded_and_the_rest_follows_them():
    spec = load_spec(OWN, scale=0.01)
    assert (spec.recipe.epochs, spec.rewind) == (1, "0.2ep")
    assert spec.recipe.schedule.milestones == (0.5, 0.75)


@pytest.mark.parametrize(("changes", "decay"), [(["weight_decay=0.003"], 0.003), (["recipe.weight_decay=0"], 0.0)])
def test_a_weight_decay_that_is_set_stays(changes, decay):
    assert load_spec(OWN, changes, 0.5).recipe.weight_decay == decay


def test_adam_keeps_its_weight_decay():
    assert load_spec(OWN, ["optimizer=adam"], 0.5).recipe.weight_decay == 5e-4


def test_the_weight_decay_has_six_digits():
    decay = load_spec(FIG2, scale=0.1).recipe.weight_decay
    assert decay == float(f"{decay:.6g}") == 0.0011108


def test_the_field_and_the_option_are_one_and_overrides_go_last():
    spec = load_spec(OWN, scale=0.25)
    assert load_spec(OWN | {"scale": 0.25}) == load_spec(OWN, ["scale=0.25"]) == spec
    assert load_spec(OWN | {"scale": 0.5}, scale=0.25) == spec
    assert load_spec(OWN | {"scale": 0.25}, ["epochs=8"]).recipe.epochs == 8


@pytest.mark.parametrize("source", [FIG2, OWN], ids=["paper", "own"])
def test_a_resolved_spec_gives_the_same_plan_again(source):
    spec = load_spec(source, scale=0.1)
    again = load_spec(yaml.safe_load(yaml.safe_dump(spec.resolved())))
    assert again.resolved() == spec.resolved()
    assert [step.key for step in plan(again).steps] == [step.key for step in plan(spec).steps]
    assert spec.scaled is not None
    assert (spec.scaled.factor, spec.scaled.epochs) == (0.1, 150 if source == FIG2 else 20)


def test_only_a_preset_of_the_papers_scaled_down_holds_images_out():
    assert load_spec(FIG2, scale=0.1).data_args == {"validation": 0.1}
    assert load_spec(FIG2, ["data_args.validation=0"], 0.1).data_args == {"validation": 0}
    assert (
        load_spec(FIG2, scale=1.0).data_args == load_spec(FIG2).data_args == load_spec(OWN, scale=0.1).data_args == {}
    )


def test_a_spec_without_scale_says_nothing_of_it():
    assert {"scale", "scaled", "reference_steps"}.isdisjoint(load_spec(OWN).resolved())


@pytest.mark.parametrize("scale", [0, -1, "much", True, None, 1e9])
def test_a_scale_that_is_none_is_refused(scale):
    if scale is None:
        assert load_spec(OWN | {"scale": None}) == load_spec(OWN)
        return
    with refused("scale", "0"):
        load_spec(OWN | {"scale": scale})


@pytest.mark.slow
def test_plan_and_prune_take_it(tmp_path):
    done = prunetune("plan", FIG2, "--scale", "0.1", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0
    assert "15 epochs for 150, 352 steps an epoch for 391, weight decay 0.0011108 for 0.0001, 0.1 of" in done.stdout
    assert "kappa 3.30" in done.stdout
    assert "kappa 0.33" in done.stdout
    refused = prunetune("prune", "quick", "--learning-rate", "0.1", "--scale", "0", "--store", "store", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("scale: 0")) == (2, 1)
