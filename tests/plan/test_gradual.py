"""Gradual pruning: the cubic by hand, the chain it emits, its rates, and its row in the ledger."""

from itertools import pairwise
from typing import Any

import pytest

from prunetune.plan.compile import Plan, plan
from prunetune.plan.ledger import ledger
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train, Weights
from prunetune.training.recipe import factor
from tests.support.study_specs import spec

FOUR = {"kind": "gradual", "epochs": 4, "updates": 4}


def planned(mask: Any = FOUR, **fields: Any) -> Plan:
    fields = {"sparsities": [0.5], "learning_rates": [0.1], "arms": ["ticket"], **fields}
    return plan(load_spec(spec(masks=[mask], **fields)))


def chain(made: Plan, sparsity: float = 0.5) -> tuple[list[Prune], list[Train]]:
    """The masks and the trainings behind the mask at a sparsity, first to last."""
    trial = next(trial for trial in made.trials if trial.sparsity == sparsity and trial.arm == "ticket")
    assert isinstance(trial.step, Train)
    masks: list[Prune] = []
    mask = trial.step.mask
    while mask is not None:
        masks.insert(0, mask)
        mask = mask.within
    sources = [found.source.step for found in masks]
    return masks, [step for step in sources if isinstance(step, Train)]


@pytest.mark.parametrize(
    ("mask", "sparsity", "expected"),
    [
        # s = 1/2 (1 - (1 - t/4)^3)
        (FOUR, 0.5, [0.2890625, 0.4375, 0.4921875, 0.5]),
        # s = .8 (1 - (1/2)^3) half-way
        ({"kind": "gradual", "epochs": 4, "updates": 2}, 0.8, [0.7, 0.8]),
        # s = .75 - .5 (1 - t/2)^3, from .25
        ({"kind": "gradual", "epochs": 2, "updates": 2, "initial": 0.25}, 0.75, [0.25, 0.6875, 0.75]),
        # parts of 1, 2 and 2 epochs of 5: s = .5 (1 - (4/5)^3), .5 (1 - (2/5)^3)
        ({"kind": "gradual", "epochs": 5, "updates": 3}, 0.5, [0.244, 0.468, 0.5]),
        ({"kind": "gradual", "updates": 1}, 0.5, [0.5]),
    ],
)
def test_the_sparsities_are_the_cubics(mask: dict[str, Any], sparsity: float, expected: list[float]) -> None:
    masks, _ = chain(planned(mask, sparsities=[sparsity]), sparsity)
    assert [step.density for step in masks] == [pytest.approx(1 - s, abs=1e-12) for s in expected]


def test_by_default_it_is_updated_ten_times_or_once_an_epoch() -> None:
    assert len(chain(planned("gradual"))[0]) == 6  # the recipe's epochs
    masks, trained = chain(planned("gradual", recipe={"epochs": 25, "batch_size": 64}))
    assert len(masks) == 10
    assert [step.recipe.epochs for step in trained[1:]] == [3, 2, 3, 2, 3, 2, 3, 2, 3] != trained[0].recipe.epochs


def test_it_is_a_chain_from_theta_t() -> None:
    made = planned()
    dense = next(trial.step for trial in made.trials if trial.arm == "dense")
    masks, parts = chain(made)
    assert len(masks) == len(parts) == 4
    assert parts[0].start == Weights(dense)  # type: ignore[arg-type]
    assert parts[0].mask is None
    for (mask, part), (after, following) in pairwise(zip(masks, parts, strict=True)):
        assert mask.source == Weights(part)
        assert following.start == Weights(part)
        assert following.mask == mask == after.within
    orders = {(part.order_seed, part.augment_seed) for part in parts}
    assert len(orders) == 4
    assert isinstance(dense, Train)
    assert (dense.order_seed, dense.augment_seed) not in orders


def test_an_initial_sparsity_is_there_from_the_first_step() -> None:
    made = planned({**FOUR, "initial": 0.25})
    dense = next(trial.step for trial in made.trials if trial.arm == "dense")
    masks, (_, *parts) = chain(made)
    assert masks[0].source == Weights(dense)  # type: ignore[arg-type]
    assert masks[0].within is None
    assert [part.mask for part in parts] == masks[:-1]


@pytest.mark.parametrize(
    "schedule", [{"milestones": [1, "2/3"]}, {"kind": "cosine"}, {"kind": "constant", "warmup": 2.5}, {"warmup": 1.5}]
)
@pytest.mark.parametrize("epochs", [6, 12])
def test_the_parts_rates_are_those_of_the_whole(schedule: dict[str, Any], epochs: int) -> None:
    recipe = {"epochs": 6, "batch_size": 64, "schedule": schedule}
    made = planned({"kind": "gradual", "epochs": epochs, "updates": 4}, recipe=recipe)
    whole = planned({"kind": "admm", "epochs": epochs}, recipe=recipe)
    stretched = next(step.recipe for step in whole.steps if isinstance(step, Train) and step.penalty)
    per_epoch = 7
    expected = [factor(stretched.schedule, step, per_epoch, epochs) for step in range(per_epoch * epochs)]
    _, parts = chain(made)
    found = [
        factor(part.recipe.schedule, step, per_epoch, part.recipe.epochs)
        for part in parts
        for step in range(per_epoch * part.recipe.epochs)
    ]
    assert found == expected


def test_chains_share_what_comes_before_their_first_mask() -> None:
    made = planned(sparsities=[0.5, 0.75], seeds=2)
    (_, first), (_, second) = chain(made, 0.5), chain(made, 0.75)
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])
    assert made.trainings == 2 * (1 + 1 + 2 * 3 + 2)


def test_its_epochs_are_in_the_ledger() -> None:
    rows = {(row.arm, row.sparsity): row for row in ledger(planned(sparsities=[0.5, 0.75], seeds=3))}
    assert {place: (row.pretraining_epochs, row.mask_epochs, row.training_epochs) for place, row in rows.items()} == {
        ("dense", 0.0): (0, 0, 18),
        ("ticket", 0.5): (18, 12, 18),
        ("ticket", 0.75): (18, 12, 18),
    }
    assert rows["ticket", 0.5].note.endswith("mask finding is shared by the arms under this mask")
