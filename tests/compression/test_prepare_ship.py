"""Which study `compute_mask` makes of what is asked for. Nothing is trained here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.compression.compress_models import plan_compression
from prunetune.compression.measured_networks import _reason, _whole_layers
from prunetune.deploy.channel_surgery import Savings
from prunetune.deploy.summary import sparsity_report
from prunetune.errors import ConfigError
from prunetune.models import draw, identify
from prunetune.plan.compile import plan
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope
from prunetune.spec.compression import CompressionRequest, chain_specs
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec
from prunetune.steps.steps import Prune
from tests.support.channel_nets import IMAGES, grouped
from tests.support.refusals import refused

STUDY: dict[str, Any] = {
    "model": "small",
    "data": "fashion-mini",
    "recipe": {"epochs": 6, "batch_size": 64},
    "learning_rates": [0.1],
    "masks": ["one_shot", {"kind": "admm", "allocation": "global", "epochs": 2}],
    "sparsities": [0.5, 0.75],
    "arms": ["ticket", "finetune"],
    "connectivity": ["dense"],
    "along_training": 3,
    "rewind": "5ep",
    "seeds": 4,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a store of imported weights is written to at once


def spec_of(source: Any = None, *changes: str, **asked: Any) -> Spec:
    return plan_compression(source, changes, CompressionRequest(**asked), store="nowhere").spec


@pytest.mark.parametrize("mask", ["one_shot", "admm"])
def test_every_step_is_one_of_the_audit(mask: str) -> None:
    """The spec's own settings of the mask algorithm; no sibling run, no moment along the way, no other arm or seed."""
    shipped = plan(spec_of(STUDY, mask=mask))
    audited = plan(load_spec({**STUDY, "connectivity": []}))
    assert {step.key for step in shipped.steps} < {step.key for step in audited.steps}
    assert {(row.arm, row.seed, row.sparsity) for row in shipped.trials} == {
        ("dense", 0, 0.0),
        ("finetune", 0, 0.5),
        ("finetune", 0, 0.75),
    }


def test_what_is_asked_for_comes_before_the_spec() -> None:
    found = spec_of(STUDY, "recipe.batch_size=32", mask="gradual", sparsities=(0.9, 0.3), epochs=3, learning_rate=0.02)
    assert (found.masks[0].kind, found.sparsities, found.learning_rates) == ("gradual", (0.3, 0.9), (0.02,))
    assert (found.recipe.epochs, found.recipe.batch_size, found.seeds, list(found.named_arms)) == (
        3,
        32,
        1,
        ["finetune"],
    )
    assert spec_of(STUDY, "seeds=2", mask="admm").seeds == 2
    assert spec_of(STUDY, "seeds=2", mask="admm", seeds=3).seeds == 3


def test_a_model_without_a_spec() -> None:
    found = spec_of(model="small", data="fashion-mini", sparsities=(0.8,))
    assert (found.masks[0].label, found.learning_rates, found.seeds) == ("one_shot", (0.01,), 1)
    assert found.name == "small-fashion-mini"


def test_a_group_pattern_has_its_sparsity() -> None:
    assert spec_of(model="small", data="fashion-mini", pattern="2:4").sparsities == (0.5,)
    assert spec_of({**STUDY, "masks": ["one_shot"]}, pattern="1:4").sparsities == (0.75,)


def test_weights_take_the_place_of_the_dense_training(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    torch.save(draw(identify("small", {}, (1, 28, 28), 10), (1, 28, 28), 10, seed=5).state_dict(), weights)
    prepared = plan_compression(
        STUDY, (), CompressionRequest(mask="one_shot", weights=weights), store=tmp_path / "store"
    )
    assert prepared.remaining.trainings_left == 2
    asked = CompressionRequest(
        model="small", data="fashion-mini", weights=weights, sparsities=(0.5, 0.8), mask="iterative"
    )
    with refused("pretrained.theta_0", "one_shot"):
        plan_compression(None, (), asked, store=tmp_path / "store")


def test_a_layer_whose_channels_must_stay_has_that_reason() -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    model, images = grouped(), torch.randn(2, *IMAGES)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=images)
    rows = sparsity_report(model, mask).rows
    whole = _whole_layers(model, images, Scope())
    found = {row.name: _reason(row, whole) for row in rows}
    assert found["1.0.weight"] == "its channels stay: '1.0' is a grouped convolution"
    assert found["0.0.weight"] == "first convolution"
    assert next(name for name, reason in found.items() if not reason) == "2.0.weight"
    assert {name for name, reason in found.items() if not reason} == {n for n, keep in mask.items() if not keep.all()}


CHANNELS: dict[str, Any] = {"data": "fashion-mini", "pattern": "channel", "epochs": 1}


def test_what_channels_save_is_told_once_a_sparsity(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    told: list[Savings] = []
    asked = CompressionRequest(model="tests.support.user_net:build", sparsities=(0.75, 0.5), **CHANNELS)
    plan_compression(None, (), asked, store=tmp_path / "store", tell=told.append)
    macs = 8 * 9 * 784 + 16 * 72 * 25 + 400 * 10
    left = {0.5: 4 * 9 * 784 + 8 * 36 * 25 + 200 * 10, 0.75: 2 * 9 * 784 + 4 * 18 * 25 + 100 * 10}
    assert [(saved.sparsity, saved.macs, saved.macs_left) for saved in told] == [(s, macs, left[s]) for s in left]
    plan_compression(STUDY, (), CompressionRequest(mask="one_shot"), store=tmp_path / "store", tell=told.append)
    assert len(told) == 2


def test_channel_numbers_in_a_models_code_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    asked = CompressionRequest(model="tests.support.written_net:build", sparsities=(0.5,), **CHANNELS)
    with refused("model", "3.*", "scope.exclude", "leave"):
        plan_compression(None, (), asked, store=tmp_path / "store")
    told: list[Savings] = []
    plan_compression(None, ["scope.exclude=[3.bias]"], asked, store=tmp_path / "store", tell=told.append)
    assert told[0].macs_left == 4 * 9 * 784 + 16 * 36 * 25 + 400 * 10  # the other convolution's channels go


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (None, {}, "--model: missing"),
    (None, {"model": "small"}, "--data: missing; 'small' needs data"),
    (None, {"model": "small", "data": "fashion-mini"}, "--sparsity: missing"),
    (STUDY, {"model": "small"}, "--model: a spec is given too"),
    (STUDY, {}, "--mask: the spec has one_shot, admm-global-epochs=2"),
    ("quick", {}, "--learning-rate: the spec has 0.01, 0.1"),
    (STUDY, {"mask": "one_shoot"}, "--mask: unknown 'one_shoot'"),
    (STUDY, {"mask": "one_shot", "pattern": "chanel"}, "--pattern: unknown 'chanel'"),
    ({**STUDY, "masks": ["one_shoot"]}, {}, "masks.0.kind: unknown 'one_shoot'"),
]


@pytest.mark.parametrize(("source", "asked", "line"), REFUSED, ids=[line for *_, line in REFUSED])
def test_what_is_not_clear_is_asked_back(source: Any, asked: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        spec_of(source, **asked)
    assert str(error.value).startswith(line)


def test_a_range_of_seeds_is_refused_for_nothing_is_judged() -> None:
    with refused("seeds", "audit", "judges"):
        plan_compression(STUDY, ["seeds=auto"], CompressionRequest(mask="one_shot"))


def test_a_mask_that_rewinds_is_the_one_of_the_studys_audit() -> None:
    """Weights go back to the study's rewind moment between rounds, and not, in silence, to the initial ones."""
    changed: dict[str, Any] = {"masks": [{"kind": "iterative", "reset": "rewind"}], "rewind": "2ep", "seeds": 2}
    study = STUDY | changed | {"connectivity": [], "along_training": 0}
    pruning, audit = plan(spec_of(study, seeds=2), "cpu"), plan(load_spec(study), "cpu")
    masks, audited = ({step.key for step in one.steps if isinstance(step, Prune)} for one in (pruning, audit))
    assert masks == audited
    assert {point.value for points in pruning.snapshots.values() for point in points} == {2.0}
    held_out = study | {"data_args": {"validation": 0.1}}
    assert {chain.rewind for chain in chain_specs(held_out, (), CompressionRequest())} == {"2ep"}
