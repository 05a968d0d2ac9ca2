"""Sparse trainings: pruned weights stay zero, kept ones train as they should, and a revival is caught."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.training.recipe import TrainingTime
from tests.support.refusals import refused
from tests.support.train_makers import PRUNABLE, RECIPE, half_mask, network, reference, run

MASK = half_mask(network())


def no_hold(model: nn.Module, mask: Mask, optimizer: object = None, gradients: bool = False) -> None:
    """The bug of many a project: zero the weights once, before the training."""
    parameters = dict(model.named_parameters())
    for name, kept in mask.items():
        parameters[name].data[~kept] = 0


def test_like_the_obvious_loop_that_zeroes_after_every_step() -> None:
    expected = network()
    reference(expected, RECIPE, 1, 2, MASK)
    trained = run(mask=MASK)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(trained.state[name], tensor, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_pruned_weights_are_zero_and_all_else_moves(optimizer: str) -> None:
    start = network().state_dict()
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, nesterov=optimizer == "sgd")  # type: ignore[arg-type]
    trained = run(recipe=recipe, mask=MASK)
    for name in PRUNABLE:
        assert not trained.state[name][~MASK[name]].any()
    for name, before in start.items():
        kept = MASK[name] if name in PRUNABLE else torch.ones_like(before, dtype=torch.bool)
        assert (trained.state[name][kept] != before[kept]).float().mean() > 0.95
    assert trained.revived == 0
    assert trained.density == 0.5


def test_the_start_is_digested_and_kept_with_the_mask_in_force() -> None:
    masked = MASK.apply(network().state_dict())
    trained = run(mask=MASK, snapshots=[TrainingTime(0.0, "ep")])
    assert trained.start_digest == digest_tensors(masked)
    assert digest_tensors(dict(trained.snapshots[TrainingTime(0.0, "ep")])) == digest_tensors(masked)


def test_a_mask_of_ones_changes_nothing() -> None:
    ones = Mask({name: torch.ones_like(kept) for name, kept in MASK.items()})
    dense, full = run(), run(mask=ones)
    assert digest_tensors(dict(dense.state)) == digest_tensors(dict(full.state))
    assert (full.density, full.revived) == (1.0, 0)


def test_momentum_revives_what_is_zeroed_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunetune.training.loop.apply_mask", no_hold)
    trained = run(mask=MASK)
    pruned = MASK.total - MASK.kept
    assert 0.9 * pruned < trained.revived <= pruned
    assert trained.density is not None
    assert trained.density > 0.9


def test_a_revival_between_two_zeroings_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeroed before every forward pass and before the state is taken: no stored state shows what the steps did."""

    def hold_too_late(model: nn.Module, mask: Mask, optimizer: object, gradients: bool) -> None:
        no_hold(model, mask)
        model.register_forward_pre_hook(lambda module, _: no_hold(module, mask))
        model.register_state_dict_pre_hook(lambda module, *_: no_hold(module, mask))

    monkeypatch.setattr("prunetune.training.loop.apply_mask", hold_too_late)
    trained = run(mask=MASK)
    assert trained.density == 0.5
    assert trained.revived > 0


def test_a_mask_that_does_not_fit() -> None:
    with refused("mask", "3.weight", "(2,)", "shape"):
        run(mask=Mask({"3.weight": torch.tensor([True, False])}))


def test_tied_weights_may_be_masked_under_either_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.second = nn.Linear(64, 64)
            self.second.weight = self.first.weight
            self.last = nn.Linear(64, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(images.flatten(1)).relu()).relu())

    trained = run(Tied(), mask=Mask({"second.weight": torch.eye(64) == 0}))
    assert trained.revived == 0
    assert not trained.state["first.weight"].diag().any()
    assert trained.density == 63 / 64
