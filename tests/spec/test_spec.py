"""Specs: what the fields mean, where they come from, and their defaults."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.plan.compile import plan
from prunetune.spec import presets
from prunetune.spec.load import load_spec
from prunetune.spec.mask_fields import MaskSpec
from prunetune.spec.study import Spec
from tests.support.refusals import refused
from tests.support.study_specs import SMALL, spec

DESIGNS_SPEC = """
name: resnet20-cifar10
model: resnet20
data: cifar10
data_args: {train_limit: 10000}
recipe: {epochs: 150, batch_size: 128, optimizer: sgd, momentum: 0.9, weight_decay: 1.0e-4,
         schedule: {kind: step, milestones: [80, 120], gamma: 0.1}, augment: [crop, flip], precision: auto}
learning_rates: [0.01, 0.1]
masks: [iterative, one_shot, {kind: admm, criterion: magnitude, allocation: uniform, pattern: unstructured,
                              learning_rate: 0.1}]
sparsities: {per_round: 0.15, rounds: 10}
scope: {include: [], exclude: []}
arms: [ticket, reinit, rewind, finetune]
rewind: 10ep
seeds: 5
verdict: {margin: 0.5, gap: 0.5, alpha: 0.05, nontrivial_sparsity: 0.5, family: study}
"""


def test_the_designs_spec_is_read_as_it_stands(tmp_path: Path):
    file = tmp_path / "spec.yaml"
    file.write_text(DESIGNS_SPEC)
    made = load_spec(str(file))
    assert made.name == "resnet20-cifar10"
    assert [mask.label for mask in made.masks] == ["iterative", "one_shot", "admm@0.1"]
    assert [f"{100 * s:.1f}" for s in made.sparsities] == (
        ["15.0", "27.8", "38.6", "47.8", "55.6", "62.3", "67.9", "72.8", "76.8", "80.3"]  # PAPER.md section 2
    )
    assert made.recipe.schedule.milestones == (80.0, 120.0)
    # every default is the design's example: leaving all out but the names changes nothing else
    short = load_spec({"model": "resnet20", "data": "cifar10"}).resolved()
    full = made.resolved()
    assert {key for key in full if full[key] != short[key]} == {"data_args", "masks", "recipe"}
    assert full["recipe"] == {**short["recipe"], "augment": ["crop", "flip"]}
    assert short["masks"] == full["masks"][:1]


def test_a_resolved_spec_is_strict_json_with_every_default():
    made = load_spec(
        spec(masks=[{"kind": "admm", "rho": 1}], rewind="1/12", sparsities={"per_round": 0.5, "rounds": 2})
    )
    resolved = json.loads(json.dumps(made.resolved(), allow_nan=False))
    assert resolved == made.resolved()
    where_set = {"reference_steps", "scaled", "task"}  # named where they are set
    assert set(resolved) == set(Spec.model_fields) - where_set
    assert resolved["rewind"] == "0.5ep"
    assert resolved["sparsities"] == [0.5, 0.75]
    assert resolved["verdict"] == {
        "margin": 0.5, "gap": 0.5, "alpha": 0.05, "nontrivial_sparsity": 0.5, "family": "study"
    }  # fmt: skip
    assert resolved["recipe"]["schedule"] == {"kind": "step", "milestones": [3.2, 4.8], "gamma": 0.1, "warmup": 0.0}
    assert resolved["masks"][0]["rho"] == 1.0
    assert resolved["masks"][0]["criterion"] == "magnitude"
    assert "rho_growth" in resolved["masks"][0]


def test_none_and_the_name_are_the_preset_and_a_file_of_it_is_too():
    assert load_spec(None) == load_spec("quick") == load_spec(presets.path("quick"))


def test_the_presets_are_listed_with_a_summary():
    assert "quick" in presets.names()
    assert set(presets.summaries()) == set(presets.names())
    for name, summary in presets.summaries().items():
        assert summary
        assert not summary.startswith("#")
        assert load_spec(name).name == name.replace("/", "-")


def test_a_source_mapping_is_left_as_it_was():
    fields = spec(recipe={"epochs": 3})
    load_spec(fields, ["recipe.epochs=4", "scope.exclude=[]"])
    assert fields == spec(recipe={"epochs": 3})


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("recipe.epochs=15", "recipe.epochs", 15),
        ("epochs=15", "recipe.epochs", 15),
        ("weight_decay=5e-4", "recipe.weight_decay", 0.0005),
        ("schedule.gamma=0.2", "recipe.schedule.gamma", 0.2),
        ("recipe.schedule={kind: cosine}", "recipe.schedule.kind", "cosine"),
        ("schedule.kind=cosine", "recipe.schedule.kind", "cosine"),
        ("learning_rates=[1e-2, 1]", "learning_rates", (0.01, 1.0)),
        ("model_args.width=8", "model_args", {"width": 8}),
        ("verdict.margin=1", "verdict.margin", 1.0),
        ("rewind=2ep", "rewind", "2ep"),
        ("data_args.root=a=b", "data_args", {"validation": 0.1, "root": "a=b"}),
    ],
)
def test_an_override_sets_one_field(change: str, field: str, value: Any):
    found: Any = load_spec("quick", [change])
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("bare", "written"),
    [
        ("learning_rates=0.1", "learning_rates=[0.1]"),
        ("learning_rates=1e-2, 0.1", "learning_rates=[1e-2, 0.1]"),
        ("arms=ticket,reinit,{kind: mixed, alpha: 0.5}", "arms=[ticket, reinit, {kind: mixed, alpha: 0.5}]"),
        ("masks={kind: admm}", "masks=[{kind: admm}]"),
        ("augment=crop,flip", "augment=[crop, flip]"),
        ("recipe.schedule.milestones=1,3", "recipe.schedule.milestones=[1, 3]"),
        ("schedule.milestones=null", "schedule.milestones="),
        ("scope.exclude=0.weight,2.*", "scope.exclude=[0.weight, 2.*]"),
        ("measure=movement,masks", "measure=[movement, masks]"),
    ],
)
def test_a_list_needs_no_brackets_in_an_override(bare: str, written: str):
    assert load_spec("quick", [bare]) == load_spec("quick", [written])


def test_an_override_that_is_no_list_stays_what_it_is():
    assert load_spec("quick", ["sparsities={per_round: 0.5, rounds: 2}"]).sparsities == (0.5, 0.75)
    assert load_spec("quick", ["data_args.columns=a,b"]).data_args["columns"] == "a,b"
    assert load_spec("quick", ["data_args.columns=a,,b"]).data_args["columns"] == "a,,b"
    assert load_spec("quick", ["scope.exclude='a,,b'"]).scope.exclude == ("a,,b",)


def test_later_overrides_win():
    assert load_spec("quick", ["epochs=4", "recipe.epochs=5"]).recipe.epochs == 5


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 50))
def test_fractions_scale_with_the_epochs(epochs: int, above: int, below: int):
    above, below = sorted((above, below))
    made = load_spec(spec(recipe={"epochs": epochs, "schedule": {"milestones": [f"{above}/{below}"]}}))
    assert made.recipe.schedule.milestones is not None
    assert made.recipe.schedule.milestones[0] == pytest.approx(float(Fraction(above, below) * epochs), abs=1e-9)


@pytest.mark.parametrize(
    ("fraction", "epochs", "moment"), [("1/15", 150, "10ep"), ("1/6", 6, "1ep"), ("0/3", 6, "0ep")]
)
def test_a_rewind_fraction_scales(fraction: str, epochs: int, moment: str):
    assert load_spec(spec(rewind=fraction, recipe={"epochs": epochs})).rewind == moment


def test_a_number_written_another_way_is_the_same_study():
    one = spec(
        learning_rates=[1], sparsities=[0.5], recipe={"epochs": 6, "weight_decay": 0, "schedule": {"milestones": [3]}}
    )
    other = spec(
        learning_rates=[1.0],
        sparsities=[0.5],
        recipe={"epochs": 6, "weight_decay": 0.0, "schedule": {"milestones": ["1/2"]}},
    )
    assert plan(load_spec(one)).steps == plan(load_spec(other)).steps


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ("iterative", "iterative"),
        ({"kind": "iterative"}, "iterative"),
        ({"kind": "iterative", "allocation": "global"}, "iterative-global"),
        ({"kind": "one_shot", "criterion": "random", "allocation": "global"}, "one_shot-random-global"),
        ({"kind": "admm", "learning_rate": 0.1}, "admm@0.1"),
        ({"kind": "admm", "epochs": 20, "learning_rate": 1}, "admm-epochs=20@1"),
        ({"kind": "admm", "rho": 0.5, "name": "soft"}, "soft"),
        ({"kind": "one_shot", "pattern": "channel", "round_to": 8}, "one_shot-channel-round_to=8"),
    ],
)
def test_a_masks_label_says_what_is_not_default(fields: Any, label: str):
    assert MaskSpec.model_validate(fields).label == label


def test_widths_are_rounded_under_the_pattern_channel_alone_and_named_where_they_are():
    entry = {"kind": "one_shot", "pattern": "channel", "round_to": 8}
    assert MaskSpec.model_validate(entry).resolved()["round_to"] == 8
    assert "round_to" not in MaskSpec.model_validate(entry | {"round_to": None}).resolved()
    with refused("masks.0.round_to", "8", "unstructured", "channels"):
        load_spec(spec(masks=[entry | {"pattern": "unstructured"}]))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "small-fashion-mini"),
        ({"model": "my.code:Net"}, "my.code-Net-fashion-mini"),
        ({"data": "imagefolder:../photos"}, "small-imagefolder-..-photos"),
        ({"name": "mine"}, "mine"),
    ],
)
def test_a_study_without_a_name_is_named_after_its_model_and_data(fields: dict[str, Any], name: str):
    assert load_spec({**SMALL, **fields}).name == name
