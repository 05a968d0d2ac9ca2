"""A model that is pruned already: no criterion brings zeros back. Holding: all of it or nothing."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunetune as pt
from prunetune.sparsity.criteria import CRITERIA
from prunetune.sparsity.enforce import is_held, remove_mask
from tests.support.refusals import refused

BATCHES = [(torch.randn(4, 8), torch.arange(4))]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def back(earlier: pt.Mask, later: pt.Mask) -> int:
    return sum(int((later[name] & ~earlier[name]).sum()) for name in earlier)


@pytest.mark.parametrize("in_force", [True, False])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip", "grasp", "synflow", "taylor"])
def test_no_criterion_brings_pruned_weights_back(criterion: str, in_force: bool) -> None:
    model = mlp()
    earlier = pt.compute_mask(model, 0.5)
    pt.apply_mask(model, earlier)
    if not in_force:
        remove_mask(model)  # as of a checkpoint: the zeros are all that is left of the mask
    later = pt.compute_mask(model, 0.8, criterion=criterion, batches=BATCHES)
    assert back(earlier, later) == 0
    assert later.kept == sum(round(0.2 * earlier[name].numel()) for name in earlier)
    assert criterion in CRITERIA


def test_the_form_of_torch_prune_is_a_mask_in_force_too() -> None:
    model = mlp()
    torch_prune.random_unstructured(model[0], "weight", 0.5)
    torch_prune.random_unstructured(model[2], "weight", 0.5)
    kept = {f"{i}.weight_orig": model[i].get_buffer("weight_mask").bool() for i in (0, 2)}
    later = pt.compute_mask(model, 0.8, criterion="random", scope=pt.Scope(include=("*_orig",)))
    assert not any((later[name] & ~keep).any() for name, keep in kept.items())


def test_a_mask_that_would_need_pruned_weights_is_refused() -> None:
    model = mlp()
    pt.apply_mask(model, pt.compute_mask(model, 0.8))
    with refused("density", "remove_mask", "survive"):
        pt.compute_mask(model, 0.5)
    remove_mask(model)
    assert pt.compute_mask(model, 0.5).sparsity == 0.5


def test_random_masks_of_what_was_never_pruned_are_as_before() -> None:
    model = nn.Linear(10, 10)
    nn.init.zeros_(model.weight)  # a layer that begins at zero
    torch.manual_seed(0)
    zeros = pt.compute_mask(model, 0.5, criterion="random")
    nn.init.ones_(model.weight)
    torch.manual_seed(0)
    assert zeros == pt.compute_mask(model, 0.5, criterion="random")


def test_a_layer_that_loses_everything_is_named_by_the_mask() -> None:
    mask = pt.compute_mask(mlp(), 0.995)
    assert mask.emptied == ("2.weight",)
    assert pt.compute_mask(mlp(), 0.9).emptied == ()


def complex_weights() -> nn.Module:
    model = mlp()
    model[2].weight = nn.Parameter(torch.randn(4, 16, dtype=torch.complex128))
    return model


def expanded_weights() -> nn.Module:
    model = mlp()
    model[2].weight = nn.Parameter(torch.ones(1, 1).expand(4, 16))
    return model


def sparse_weights() -> nn.Module:
    model = mlp()
    model[2].weight = nn.Parameter(torch.eye(4, 16).to_sparse())
    return model


@pytest.mark.parametrize("kind", [complex_weights, expanded_weights, sparse_weights])
@pytest.mark.parametrize("held_before", [True, False])
def test_hold_takes_all_weights_or_none(kind: type, held_before: bool) -> None:
    model = kind()
    first = torch.rand(16, 8) > 0.5
    if held_before:
        pt.apply_mask(model, {"0.weight": first})
    before = model[0].weight.detach().clone()
    with refused("model", "2.weight"):
        pt.apply_mask(model, {"0.weight": torch.rand(16, 8) > 0.9, "2.weight": torch.rand(4, 16) > 0.5})
    assert torch.equal(model[0].weight, before)
    assert is_held(model) == held_before
    if held_before:
        assert torch.equal(pt.get_mask(model)["0.weight"], first)
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*other.parameters(), model[0].weight], 0.1)
    for parameter in (*other.parameters(), model[0].weight):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not held_before or not model[0].weight[~first].any()


def test_complex_weights_of_eight_bytes_are_held() -> None:
    module = nn.Module()
    module.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
    keep = torch.rand(4, 4) > 0.5
    pt.apply_mask(module, {"w": keep})
    assert torch.equal(module.w != 0, keep)
