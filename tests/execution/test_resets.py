"""Iterative pruning under each reset against a loop written out, and the arms and baselines that belong to it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prunetune.core.seeding import derive, epoch_order
from prunetune.execution.run_step import execute
from prunetune.models import MODELS
from prunetune.plan.compile import Plan, plan
from prunetune.plan.ledger import ledger
from prunetune.results.collect import collect
from prunetune.results.cross_checks import compare
from prunetune.results.stored import read_stored
from prunetune.sparsity.scope import prunable
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train
from prunetune.store.store import Store
from tests.support.refusals import refused
from tests.support.study_specs import spec
from tests.support.toy_study import IMAGES, OUTPUTS, SHAPE, images, net

RESETS = {"init": "ticket", "rewind": "rewind", "none": "finetune_chain"}  # a round's training is this arm's
SPARSITIES = [0.3, 0.5, 0.7]
EPOCHS, BATCH, RATE = 2, 16, 0.05
PRUNABLE = ("3.weight", "6.weight")
State = dict[str, Tensor]


def toy(**fields: Any) -> Plan:
    """One seed of the toy study; θk is the state after one of two epochs."""
    return plan(
        load_spec(
            {
                "model": "tests.support.toy_study:net",
                "data": "tests.support.toy_study:images",
                "recipe": {"epochs": EPOCHS, "batch_size": BATCH, "schedule": {"kind": "constant"}},
                "learning_rates": [RATE],
                "sparsities": SPARSITIES,
                "arms": list(RESETS.values()),
                "rewind": "1ep",
                "seeds": 1,
                **fields,
            }
        )
    )


def done(made: Plan, store: Store) -> None:
    for step in made.steps:
        execute(step, store, made.snapshots.get(step.key, frozenset()))


# --- the loop written out -----------------------------------------------------------------------------------------


def drawn() -> State:
    torch.manual_seed(derive(0, "init"))
    return {name: tensor.clone() for name, tensor in net(SHAPE, OUTPUTS).state_dict().items()}


def trained(start: State, kept: Mapping[str, Tensor], epochs: int = EPOCHS) -> State:
    """SGD with momentum and weight decay by its formula, the pruned weights put to zero before and after each step."""
    pixels, labels, _, _ = images()
    mean, std = pixels.double().mean() / 255, pixels.double().std(correction=0) / 255
    model = net(SHAPE, OUTPUTS)
    model.load_state_dict(start)
    parameters = dict(model.named_parameters())
    velocity = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    zero(parameters, kept)
    for epoch in range(epochs):
        order = epoch_order(derive(0, "order"), epoch, IMAGES)
        for batch in order.split(BATCH):
            model.zero_grad()
            outputs = model((pixels[batch] / 255 - mean.float()) / std.float())
            nn.functional.cross_entropy(outputs, labels[batch]).backward()
            for name, parameter in parameters.items():
                assert parameter.grad is not None
                with torch.no_grad():
                    velocity[name] = 0.9 * velocity[name] + parameter.grad + 1e-4 * parameter
                    parameter -= RATE * velocity[name]
            zero(parameters, kept)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def zero(parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, mask in kept.items():
            parameters[name][~mask] = 0


def largest(state: State, density: float) -> State:
    """The largest magnitudes of every layer. What was pruned before is zero, and is not among them."""
    kept = {}
    for name in PRUNABLE:
        ranked = state[name].abs().flatten().argsort(descending=True)
        mask = torch.zeros(state[name].numel(), dtype=torch.bool)
        mask[ranked[: round(density * mask.numel())]] = True
        kept[name] = mask.view_as(state[name])
    return kept


@cache
def chain(reset: str) -> tuple[list[State], list[State]]:
    """The masks of the rounds, and what the training of each round ends with."""
    theta_0 = drawn()
    theta_k, state = trained(theta_0, {}, epochs=1), trained(theta_0, {})
    masks, finals = [], []
    for sparsity in SPARSITIES:
        masks.append(largest(state, 1 - sparsity))
        start = {"init": theta_0, "rewind": theta_k, "none": state}[reset]
        state = trained(start, masks[-1])
        finals.append(state)
    return masks, finals


@pytest.mark.parametrize("reset", RESETS)
def test_a_chain_is_the_loop_written_out(reset: str, store: Store) -> None:
    made = toy(masks=[{"kind": "iterative", "reset": reset}])
    done(made, store)
    rounds = [t.step for t in made.trials if t.arm == RESETS[reset]]
    masks, finals = chain(reset)
    for step, mask, final in zip(rounds, masks, finals, strict=True):
        assert isinstance(step, Train)
        assert step.mask is not None
        stored = store.mask(step.mask.key)
        assert all(torch.equal(stored[name], mask[name]) for name in PRUNABLE)
        for name, tensor in store.state(step.key).items():
            torch.testing.assert_close(tensor, final[name], rtol=2e-4, atol=2e-5)
    for (_, other), (_, own) in zip(map(chain, RESETS.keys() - {reset}), [chain(reset)] * 2, strict=True):
        assert max((other[-1][name] - own[-1][name]).abs().max() for name in PRUNABLE) > 0.01


# --- what is shared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", RESETS)
def test_a_round_is_an_arm_and_is_trained_once(reset: str) -> None:
    made = toy(masks=[{"kind": "iterative", "reset": reset}])
    rounds = [t.step for t in made.trials if t.arm == RESETS[reset]]
    masks = [step.mask for step in rounds if isinstance(step, Train)]
    dense = next(t.step for t in made.trials if t.arm == "dense")
    assert [mask.source.step for mask in masks if mask] == [dense, *rounds[:-1]]
    assert [mask.within for mask in masks if mask] == [None, *masks[:-1]]
    assert len({t.step for t in made.trials}) == sum(isinstance(step, Train) for step in made.steps)


def test_the_default_is_a_reset_to_the_initial_weights_and_keeps_its_keys() -> None:
    plain, named = toy(masks=["iterative"]), toy(masks=[{"kind": "iterative", "reset": "init"}])
    assert [t.step.key for t in plain.trials] == [t.step.key for t in named.trials]
    assert {t.mask for t in named.trials} == {None, "iterative"}


def test_all_resets_share_the_first_round() -> None:
    made = toy(masks=[{"kind": "iterative", "reset": reset} for reset in RESETS])
    masks = [{t.step.mask for t in made.trials if isinstance(t.step, Train) and t.sparsity == at} for at in SPARSITIES]
    assert [len(found) for found in masks] == [1, 3, 3]


def test_a_reset_to_the_rewind_moment_at_0_is_one_to_the_initial_weights() -> None:
    made = toy(masks=["iterative", {"kind": "iterative", "reset": "rewind"}], rewind="0ep")
    assert len({step for step in made.steps if isinstance(step, Prune)}) == len(SPARSITIES)


def test_another_reset_is_refused() -> None:
    with refused("masks.0.reset", "theta_0", "init", "rewind", "none"):
        toy(masks=[{"kind": "iterative", "reset": "theta_0"}])


def test_finetune_chain_is_finetune_where_the_mask_is_of_the_dense_run() -> None:
    made = toy(masks=["one_shot", "admm"], arms=["finetune", "finetune_chain"])
    steps = {(t.arm, t.mask, t.sparsity): t.step for t in made.trials}
    for sparsity in SPARSITIES:
        assert steps["finetune", "one_shot", sparsity] == steps["finetune_chain", "one_shot", sparsity]
        chained = steps["finetune_chain", "admm", sparsity]
        assert isinstance(chained, Train)
        assert isinstance(chained.start.step, Train)
        assert chained.start.step.penalty is not None


# --- baselines ----------------------------------------------------------------------------------------------------


def trial(made: Plan, arm: str, mask: str = "iterative", sparsity: float = 0.7) -> Train:
    (step,) = (t.step for t in made.trials if (t.arm, t.mask, t.sparsity) == (arm, mask, sparsity))
    assert isinstance(step, Train)
    return step


def test_permuted_mask_draws_for_every_mask_algorithm_what_random_mask_draws_once() -> None:
    made = toy(masks=["iterative", "one_shot"], arms=["ticket", "random_mask", "permuted_mask"])
    for mask in ("iterative", "one_shot"):
        own, study = trial(made, "permuted_mask", mask).mask, trial(made, "ticket", mask).mask
        assert own is not None
        assert (own.like, own.criterion.name) == (study, "random")
        assert trial(made, "permuted_mask", mask).start == trial(made, "ticket", mask).start
    assert trial(made, "random_mask", "iterative") == trial(made, "random_mask", "one_shot")
    assert trial(made, "random_mask").mask != trial(made, "permuted_mask").mask


def test_permuted_mask_keeps_every_layers_count_and_moves_its_entries(store: Store) -> None:
    made = toy(masks=[{"kind": "one_shot", "allocation": "global"}], arms=["ticket", "permuted_mask"])
    done(made, store)
    for sparsity in SPARSITIES:
        steps = [trial(made, arm, "one_shot-global", sparsity).mask for arm in ("ticket", "permuted_mask")]
        study, permuted = (store.mask(step.key) for step in steps if step)
        for name in PRUNABLE:
            assert permuted[name].sum() == study[name].sum()
            assert not torch.equal(permuted[name], study[name])


def test_scratch_long_has_the_epochs_of_the_ledgers_row_of_finetune() -> None:
    masks = ["one_shot", "iterative", {"kind": "admm", "epochs": 3}]
    made = toy(masks=masks, arms=["reinit", "finetune", "scratch_long"])
    rows = {(row.arm, row.mask, row.sparsity): row for row in ledger(made)}
    for mask in ("one_shot", "iterative", "admm-epochs=3"):
        for round_, sparsity in enumerate(SPARSITIES):
            row, step = rows["finetune", mask, sparsity], trial(made, "scratch_long", mask, sparsity)
            assert step.recipe.epochs == row.pretraining_epochs + row.mask_epochs + row.training_epochs
            finding = {"one_shot": 0, "iterative": EPOCHS * round_, "admm-epochs=3": 3}[mask]
            assert step.recipe.epochs == EPOCHS + finding + EPOCHS  # by hand
            reinit = trial(made, "reinit", mask, sparsity)
            assert (step.start, step.mask, step.order_seed) == (reinit.start, reinit.mask, reinit.order_seed)


def test_scratch_long_stretches_the_schedule_with_the_epochs() -> None:
    recipe = {"epochs": 4, "batch_size": 16, "schedule": {"milestones": [2, 3]}}
    made = toy(recipe=recipe, masks=["one_shot"], arms=["scratch_long"])
    assert trial(made, "scratch_long", "one_shot").recipe.schedule.milestones == (4.0, 6.0)


def test_scratch_long_is_refused_where_the_epochs_of_pre_training_are_not_known(tmp_path: Path) -> None:
    file = tmp_path / "trained.safetensors"
    save_file(drawn(), file)
    with refused("arms", "scratch_long", "epochs"):
        toy(masks=["one_shot"], arms=["scratch_long"], pretrained={"theta_T": str(file)})


def test_finetune_short_has_the_epochs_and_the_rate_that_it_is_given() -> None:
    entry = {"kind": "finetune_short", "epochs": 1, "learning_rate": 0.001}
    made = toy(masks=["one_shot"], arms=["finetune", entry])
    short, whole = trial(made, "finetune_short(1,0.001)", "one_shot"), trial(made, "finetune", "one_shot")
    assert (short.start, short.mask) == (whole.start, whole.mask)
    assert (short.recipe.epochs, short.recipe.learning_rate, short.recipe.schedule.kind) == (1, 0.001, "constant")
    assert short.recipe.batch_size == whole.recipe.batch_size
    assert any("finetune_short(1,0.001) has a recipe of its own: 1 epoch where" in note for note in made.notes)


@pytest.mark.parametrize(
    ("model", "tries"),
    [
        ("small", range(1, 17)),
        ("resnet20", range(1, 17)),
        ("mobilenetv2", [i / 10 for i in range(1, 11)]),
        pytest.param("mobilenetv2", [i / 100 for i in range(1, 101)], marks=pytest.mark.slow),
    ],
    ids=["small", "resnet20", "mobilenetv2", "mobilenetv2, every width"],
)
def test_dense_small_has_as_many_parameters_as_the_sparse_network_keeps(model: str, tries: Sequence[float]) -> None:
    """No other width is nearer; parameters counted from the built networks, the kept from the mask's own counts."""
    made = plan(load_spec(spec(model=model, sparsities=[0.5, 0.9], arms=["dense_small"], learning_rates=[0.1])))
    with torch.device("meta"):  # nothing is drawn to be counted
        whole = MODELS[model]((1, 28, 28), 10)
        networks = {tried: MODELS[model]((1, 28, 28), 10, width=tried) for tried in tries}
    sizes = {name: parameter.numel() for name, parameter in whole.named_parameters()}
    counted = {tried: sum(p.numel() for p in network.parameters()) for tried, network in networks.items()}
    for sparsity in (0.5, 0.9):
        kept = sum(round((1 - sparsity) * size) if name in prunable(whole) else size for name, size in sizes.items())
        step = trial(made, "dense_small", "iterative", sparsity)
        assert step.mask is None
        with torch.device("meta"):
            small = MODELS[model]((1, 28, 28), 10, **step.start.step.model.kwargs)  # type: ignore[union-attr]
        count = sum(p.numel() for p in small.parameters())
        assert abs(count - kept) <= min(abs(size - kept) for size in counted.values())


def test_dense_small_asks_for_a_width() -> None:
    with refused("arms", "dense_small", "tests.support.toy_study:net", "argument"):
        toy(masks=["one_shot"], arms=["dense_small"])


def test_a_study_of_all_of_them_keeps_every_rule(store: Store) -> None:
    entry = {"kind": "finetune_short", "epochs": 1, "learning_rate": 0.001}
    arms = ["ticket", "reinit", "finetune_chain", "permuted_mask", "scratch_long", entry]
    made = toy(masks=[{"kind": "iterative", "reset": reset} for reset in RESETS], arms=arms)
    done(made, store)
    results = collect(made, store, frozenset(), {})
    checked = {rule.name: rule for rule in results.invariants}
    assert not [breach for rule in checked.values() for breach in rule.breaches]
    for name in ("finetune chain starts where its mask was found", "scratch long spends the whole budget"):
        assert checked[name].checked == 9
    assert set(results.controls) == {"permuted_mask", "scratch_long", "finetune_short(1,0.001)"}


# --- planted bugs -------------------------------------------------------------------------------------------------


def breaches(made: Plan, store: Store, arm: str, step: Train) -> dict[str, tuple[str, ...]]:
    """The rules that are broken where the trial of `arm` at the highest sparsity is another training."""
    execute(step, store)
    trials = [replace(t, step=step) if (t.arm, t.sparsity) == (arm, SPARSITIES[-1]) else t for t in made.trials]
    changed = replace(made, trials=tuple(trials), steps=(*made.steps, step))
    rules = compare(changed, read_stored(changed, store), store)
    return {rule.name: rule.breaches for rule in rules if rule.breaches}


def test_a_chain_that_starts_from_the_dense_run(store: Store) -> None:
    made = toy(masks=[{"kind": "iterative", "reset": "none"}], arms=["finetune", "finetune_chain"])
    done(made, store)
    finetune = trial(made, "finetune", "iterative-reset=none")
    found = breaches(made, store, "finetune_chain", finetune)
    assert found.keys() == {"finetune chain starts where its mask was found"}


def test_a_baseline_that_spends_less_than_the_whole_budget(store: Store) -> None:
    made = toy(masks=["iterative"], arms=["ticket", "scratch_long"])
    done(made, store)
    step = trial(made, "scratch_long")
    found = breaches(made, store, "scratch_long", replace(step, recipe=replace(step.recipe, epochs=EPOCHS)))
    (line,) = found.pop("scratch long spends the whole budget")
    assert line.endswith("took 2 epochs and not 8")
    assert not found
