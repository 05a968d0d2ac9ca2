"""The controls `sign_reinit` and `random_mask`: what they start from, and under which mask."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prunetune.plan.compile import Plan, plan
from prunetune.sparsity.mask import Mask
from prunetune.spec.load import load_spec
from prunetune.steps.arms import ARMS, Arm, redrawn, ticket
from prunetune.steps.steps import Prune, Train, Transform, Weights
from prunetune.steps.transforms import TRANSFORMS
from tests.support.refusals import refused
from tests.support.study_specs import spec

BASELINES = {"scratch_long", "finetune_short", "dense_small"}
OWN_MASKS = {"random_mask", "permuted_mask", "dense_small"}
CONTROLS = {"shuffle", "sign_reinit", "mixed"} | OWN_MASKS | BASELINES


def planned(**fields: Any) -> Plan:
    return plan(load_spec(spec(sparsities=[0.5, 0.75], learning_rates=[0.1], **fields)))


def trainings(made: Plan, arm: str) -> dict[tuple[str | None, float], Train]:
    found = {(t.mask, t.sparsity): t.step for t in made.trials if t.arm == arm}
    return {place: step for place, step in found.items() if isinstance(step, Train)}


def test_controls_are_flagged_and_only_they_have_masks_of_their_own() -> None:
    assert {name for name in ARMS if ARMS[name].control} == CONTROLS
    plain = {name: arm for name in ARMS if isinstance(arm := ARMS[name], Arm)}
    assert {name for name, arm in plain.items() if not arm.shares_mask} == OWN_MASKS
    with refused("arm", "mine", "control"):
        Arm("mine", ticket, redrawn)


# --- sign_reinit ------------------------------------------------------------------------------------------------


def state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(2, 3, 3, 3, generator=generator),
        "fc.weight": torch.randn(4, 5, generator=generator),
        "fc.bias": torch.randn(4, generator=generator),
        "norm.weight": torch.rand(3, generator=generator),
        "norm.num_batches_tracked": torch.tensor(seed),
        "table": torch.full((2, 2), seed),
    }


def test_it_has_the_magnitudes_of_one_draw_and_the_signs_of_the_other() -> None:
    again, first = state(1), state(2)
    mask = Mask({"fc.weight": torch.rand(4, 5) < 0.5})
    before = {name: tensor.clone() for name, tensor in again.items()}
    new = TRANSFORMS["sign_reinit"](again, mask, torch.Generator(), first)
    assert list(new) == list(again)
    for name in ("conv.weight", "fc.weight"):  # the convolution is not pruned, and has its signs too
        for got, size, sign in zip(*(t[name].flatten().tolist() for t in (new, again, first)), strict=True):
            assert got == (abs(size) if sign > 0 else -abs(size))
    for name in ("fc.bias", "norm.weight", "norm.num_batches_tracked", "table"):
        assert torch.equal(new[name], again[name])
    for tensor in new.values():
        tensor.zero_()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_it_starts_from_the_second_draw_and_reads_the_first() -> None:
    made = planned(arms=["ticket", "reinit", "sign_reinit"])
    rows = {arm: trainings(made, arm)["iterative", 0.5] for arm in ("ticket", "reinit", "sign_reinit")}
    start = rows["sign_reinit"].start
    assert start == Weights(rows["reinit"].start.step, None, Transform("sign_reinit", 0, rows["ticket"].start))
    assert set(rows["sign_reinit"].parents) == {rows["ticket"].start.step, rows["reinit"].start.step, start_mask(rows)}
    assert rows["sign_reinit"].mask == rows["ticket"].mask


def start_mask(rows: dict[str, Train]) -> Prune:
    mask = rows["ticket"].mask
    assert mask is not None
    return mask


# --- random_mask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["uniform", "erk", "global"])
def test_it_draws_a_mask_of_the_same_counts(allocation: str) -> None:
    made = planned(masks=[{"kind": "iterative", "allocation": allocation}], arms=["ticket", "random_mask"])
    for place, step in trainings(made, "random_mask").items():
        ticket = trainings(made, "ticket")[place]
        assert step.start == ticket.start
        assert step.mask is not None
        assert ticket.mask is not None
        assert step.mask != ticket.mask
        assert (step.mask.criterion.name, step.mask.within) == ("random", None)
        assert (step.mask.density, step.mask.pattern) == (ticket.mask.density, ticket.mask.pattern)
        assert step.mask.like == (ticket.mask if allocation == "global" else None)
        assert step.mask.seed != ticket.mask.seed


def test_algorithms_share_it_where_counts_follow_from_shapes() -> None:
    made = planned(masks=["one_shot", "iterative", "admm"], arms=["random_mask"], seeds=2)
    assert len(set(trainings(made, "random_mask").values())) == 2
    masks = [{"kind": kind, "allocation": "global"} for kind in ("one_shot", "admm")]
    assert len(set(trainings(planned(masks=masks, arms=["random_mask"]), "random_mask").values())) == 4


def test_the_other_arms_keep_their_keys() -> None:
    """Controls only add to a study that is stored already."""
    before, after = planned(), planned(arms=["ticket", "reinit", "rewind", "finetune", "random_mask", "sign_reinit"])
    assert {step.key for step in before.steps} < {step.key for step in after.steps}


def test_a_pattern_that_does_not_fit_is_refused_before_anything_is_trained() -> None:
    two_four = {"kind": "one_shot", "pattern": "2:4"}
    with refused("pattern", "2:4", "0.75", "0.5", "sparsity"):
        planned(masks=[two_four])
    with refused("pattern", "2:7", "7", "groups"):
        plan(load_spec(spec(masks=[{**two_four, "pattern": "2:7"}], sparsities=[5 / 7])))
    with refused("pattern", "2:4", "0.5", "sparsity"):
        plan(load_spec(spec(masks=[{"kind": "admm", "pattern": "2:4"}], sparsities=[0.75])))
    gradual = {"kind": "gradual", "pattern": "2:4"}
    with refused("pattern", "2:4", "gradual", "use"):
        plan(load_spec(spec(masks=[gradual], sparsities=[0.5])))
    assert plan(load_spec(spec(masks=[{**gradual, "updates": 1}], sparsities=[0.5]))).trainings
    with refused("allocation", "global", "2:4", "say"):
        plan(load_spec(spec(masks=[{"kind": "admm", "pattern": "2:4", "allocation": "global"}], sparsities=[0.5])))
    made = plan(load_spec(spec(masks=[two_four], sparsities=[0.5], arms=["ticket", "random_mask"])))
    assert {step.pattern for step in made.steps if isinstance(step, Prune)} == {"2:4"}


def test_a_pattern_needs_no_quotes_in_a_spec() -> None:
    """YAML 1.1 would read 2:4 as 124, in base sixty."""
    made = load_spec(spec(sparsities=[0.5]), ["masks=[{kind: one_shot, pattern: 2:4}]"])
    assert made.masks[0].pattern == "2:4"
    assert made.masks[0].label == "one_shot-2:4"
