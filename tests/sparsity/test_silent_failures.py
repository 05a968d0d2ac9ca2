"""Ways in which a sparse model goes wrong without a word elsewhere: each is prevented here, or gets a clear line.

What a training loop does (momentum, weight decay, new optimizers, scalers, averages, copies, files) is in `test_loops`
and `test_holding_*`; here is what people do to the model itself.
"""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune
from torch.nn.utils import spectral_norm as older_spectral_norm
from torch.nn.utils import weight_norm as older_weight_norm

import prunetune as pt
from tests.support.refusals import refused

NAME = "0.weight"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def held() -> tuple[nn.Sequential, Tensor]:
    """A network with half of the weights of its first layer held at zero, and those weights, True = pruned."""
    model = network()
    mask = pt.compute_mask(model, 0.5, scope=pt.Scope(exclude=("2.*",)))
    pt.apply_mask(model, mask)
    return model, ~mask[NAME]


def train(model: nn.Module, steps: int = 3, weight_decay: float = 0.1) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=weight_decay)
    inputs = torch.randn(steps, 8, 6, generator=torch.Generator().manual_seed(1))
    for batch in inputs:
        optimizer.zero_grad()
        (model(batch) - batch[:, :3]).square().mean().backward()
        optimizer.step()


class Adapted(nn.Module):
    """A frozen layer with a trained change of low rank, as LoRA has it (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


def test_low_rank_adapters_around_a_frozen_held_layer_and_their_merge() -> None:
    model, pruned = held()
    first = model[0]
    assert isinstance(first, nn.Linear)
    before = first.weight.detach().clone()
    model[0] = adapted = Adapted(first)
    train(model)
    assert torch.equal(first.weight, before)
    assert adapted.up.count_nonzero()
    assert list(pt.get_mask(model)) == ["0.base.weight"]
    with torch.no_grad():
        first.weight += adapted.up @ adapted.down  # the merge fills every zero
    assert first.weight[pruned].count_nonzero()
    model[0] = first
    assert not model.state_dict()[NAME][pruned].count_nonzero()  # but none gets into a file
    assert not torch.equal(first.weight, before)


def test_a_frozen_weight_that_is_trained_again_later_is_held() -> None:
    model, pruned = held()
    model[0].requires_grad_(False)
    train(model)
    model[0].requires_grad_(True)
    train(model)
    assert torch.equal(model.get_parameter(NAME) == 0, pruned)


def computed(change: Callable[[nn.Module], object]) -> Callable[[nn.Sequential], object]:
    return lambda model: change(model[0])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")  # and in use
@pytest.mark.parametrize(
    "change",
    [
        computed(parametrizations.weight_norm),
        computed(parametrizations.spectral_norm),
        computed(parametrizations.orthogonal),
        computed(older_weight_norm),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "older_weight_norm"],
)
def test_a_held_weight_that_is_computed_since_is_refused_and_can_be_released(
    change: Callable[[nn.Sequential], object],
) -> None:
    model, _ = held()
    change(model)
    for use in (lambda: model(torch.ones(1, 6)), model.state_dict):
        with refused("model", "weight", "parameter", "remove_mask"):
            use()
    assert f"! {NAME}: held, but no parameter of the model any more" in pt.sparsity_report(model).problems
    pt.remove_mask(model)
    train(model)


@pytest.mark.parametrize(
    "change",
    [older_spectral_norm, lambda layer: torch_prune.random_unstructured(layer, "weight", 0.2)],
    ids=["older_spectral_norm", "torch_prune"],
)
def test_what_only_scales_the_held_weight_keeps_its_zeros(change: Callable[[nn.Module], object]) -> None:
    model, pruned = held()
    change(model[0])
    train(model)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert not weight[pruned].count_nonzero()
    assert weight[~pruned].count_nonzero() > 0.7 * int((~pruned).sum())


def test_a_spectral_norm_that_was_there_before_is_held_by_the_weight_underneath() -> None:
    model = network()
    parametrizations.spectral_norm(model[0])
    name = "0.parametrizations.weight.original"
    assert name not in pt.compute_mask(model, 0.5)
    mask = pt.compute_mask(model, 0.5, scope=pt.Scope(include=(name,)))
    pt.apply_mask(model, mask)
    train(model)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert torch.equal(weight.count_nonzero(1), mask[name].count_nonzero(1))
    assert not weight[~mask[name]].count_nonzero()


def test_the_layer_table_has_a_reason_for_weights_that_are_computed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    parametrizations.spectral_norm(model[0])
    older_spectral_norm(model[1])
    reasons = {row.name: row.reason for row in pt.list_parameters(model)}
    assert reasons["0.parametrizations.weight.original"] == "under a parametrization"
    assert reasons["1.weight_orig"] == "a part of which Linear computes its weight"
    assert pt.compute_mask(model, 0.5).keys() == {"2.weight"}


def test_a_weight_of_another_shape_in_its_place_is_refused() -> None:
    model, _ = held()
    model[0].weight = nn.Parameter(torch.ones(8, 5))
    with refused("model", "(8, 6)", "(8, 5)", "apply_mask"):
        model(torch.ones(1, 5))


def test_a_layer_that_was_replaced_is_named() -> None:
    model, _ = held()
    model[0] = nn.Linear(6, 8)
    scope = pt.Scope(exclude=("2.*",))
    assert pt.sparsity_report(model, scope=scope).problems == (
        "! no mask: nothing is pruned or held; call apply_mask(model, mask)",
    )


def test_replicas_of_data_parallel_have_tensors_of_their_own() -> None:
    """As `torch.nn.parallel.replicate` makes them on GPUs: plain tensors in the place of the parameters."""
    model, pruned = held()
    replica = model[0]._replicate_for_data_parallel()
    replica.weight, replica.bias = torch.ones(8, 6), torch.zeros(8)
    assert torch.equal(replica(torch.ones(1, 6)), torch.full((1, 8), 6.0))
    assert torch.equal(model.get_parameter(NAME) == 0, pruned)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_change_of_type_and_a_copy_of_it(change: Callable[[nn.Module], nn.Module]) -> None:
    model, pruned = held()
    other = deepcopy(change(model))
    weight = other.get_parameter(NAME)
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=1.0, momentum=0.9).step()
    assert torch.equal(weight == 0, pruned)


def test_a_layer_that_lost_all_its_weights_is_named() -> None:
    """Layer collapse: one layer is so much smaller in scale that a ranking over all layers leaves none of it."""
    model = network()
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(1e-6)
    mask = pt.compute_mask(model, 0.6, allocation="global")
    pt.apply_mask(model, mask)
    assert pt.sparsity_report(model).problems == (
        "! 2.weight: no weight of it is left, so that nothing comes through its layer",
    )


def test_a_layer_that_the_mask_leaves_whole_has_that_reason() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(1e6)
    pt.apply_mask(model, pt.compute_mask(model, 0.5, allocation="global"))
    report = pt.sparsity_report(model)
    assert report.problems == ()
    assert {row.name: row.reason for row in report.rows} == {
        "0.weight": "",
        "0.bias": "bias",
        "2.weight": "in scope, but the mask keeps all of it",
        "2.bias": "bias",
    }
