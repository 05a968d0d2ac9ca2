"""ADMM under N:M: the projection against literal numbers, loops over every group, and every support there is."""

import math
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunetune.sparsity.scope import Scope
from prunetune.training.admm import Admm, Penalty
from tests.support.refusals import refused
from tests.support.train_makers import PRUNABLE, RECIPE, network, run

SHAPES = [(1, 8), (3, 12), (2, 4, 1, 1), (1, 4, 2, 1), (2, 8, 3, 2), (2, 6, 2, 2), (1, 12, 2)]


def layer(weight: Tensor) -> nn.Module:
    """A module that holds this weight."""
    module = nn.Linear(1, 1, bias=False)
    module.weight = nn.Parameter(weight.clone())
    return module


def gradient(admm: Admm, model: nn.Module) -> Tensor:
    """What the penalty adds to a gradient of zero."""
    weight = model.get_parameter("weight")
    weight.grad = torch.zeros_like(weight)
    admm.add_gradient()
    return weight.grad


def projected(weight: Tensor, kept: int, size: int) -> Tensor:
    """Z at the start, where the penalty's gradient is W − Z (rho = 1, U = 0)."""
    model = layer(weight)
    return weight - gradient(Admm(model, Penalty(kept / size, rho=1.0, pattern=f"{kept}:{size}"), 1, 1), model)


def groups(shape: tuple[int, ...], size: int) -> list[list[tuple[int, ...]]]:
    """The places of every group: the channels run fastest, then the kernel, all of one output."""
    outputs, channels, *kernel = shape
    order = [[(o, c, *at) for at in product(*map(range, kernel)) for c in range(channels)] for o in range(outputs)]
    return [places[begin : begin + size] for places in order for begin in range(0, len(places), size)]


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Small whole numbers of both signs: every distance is exact, and there are ties."""
    return torch.randint(-5, 6, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_by_hand() -> None:
    """2:4, rho 2, Z and U updated after every step (one step an epoch); | stands between the two groups.

    start: W = (4, -3, 2, 1 | 1, 1, -1, 5)  U = 0  Z = (4, -3, 0, 0 | 1, 0, 0, 5), the tie going to the earlier input
           W - Z + U = (0, 0, 2, 1 | 0, 1, -1, 0). Without a pattern Z would be (4, -3, 2, 0 | 0, 0, 0, 5).
    step 1: W = (4, -1, 2, 1 | 0, 1, -1, 5) = W + U  Z = (4, 0, 2, 0 | 0, 1, 0, 5)  U = (0, -1, 0, 1 | 0, 0, -1, 0)
            W - Z + U = (0, -2, 0, 2 | 0, 0, -2, 0)
    step 2: W + U = (4, -2, 2, 2 | 0, 1, -2, 5)  Z = (4, -2, 0, 0 | 0, 0, -2, 5)  U = (0, 0, 2, 2 | 0, 1, 0, 0)
            W - Z + U = (0, 1, 4, 3 | 0, 2, 1, 0)
    """
    model = layer(torch.tensor([[4.0, -3, 2, 1, 1, 1, -1, 5]]))
    penalty = Penalty(0.5, rho=2, rho_every=10, update_every=1, pattern="2:4")
    admm = Admm(model, penalty, steps_per_epoch=1, epochs=4)
    assert gradient(admm, model).tolist() == [[0, 0, 4, 2, 0, 2, -2, 0]]
    model.get_parameter("weight").data[0, 1] = -1
    model.get_parameter("weight").data[0, 4] = 0
    admm.after_step()
    assert gradient(admm, model).tolist() == [[0, -4, 0, 4, 0, 0, -4, 0]]
    admm.after_step()
    assert gradient(admm, model).tolist() == [[0, 2, 8, 6, 0, 4, 2, 0]]
    assert admm.residuals == pytest.approx([math.sqrt(7 / 58), math.sqrt(3 / 49), math.sqrt(8 / 49)])


def test_the_groups_of_a_convolution_are_channels() -> None:
    """One output, four channels, two places of the kernel: along the channels 4, 1, -3, 2 and 1, -4, 2, 3."""
    weight = torch.tensor([[[4.0, 1], [1, -4], [-3, 2], [2, 3]]])
    assert projected(weight, 2, 4).tolist() == [[[4, 0], [0, -4], [-3, 0], [0, 3]]]
    assert projected(weight, 1, 4).tolist() == [[[4, 0], [0, -4], [0, 0], [0, 0]]]


@settings(deadline=None, max_examples=80)
@given(
    rule=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4)]), shape=st.sampled_from(SHAPES), seed=st.integers(0, 10**6)
)
def test_a_projection_is_what_loops_over_every_group_find(
    rule: tuple[int, int], shape: tuple[int, ...], seed: int
) -> None:
    kept, size = rule
    weight = drawn(shape, seed)
    expected = torch.zeros(shape)
    for group in groups(shape, size):
        for place in sorted(group, key=lambda place: -abs(float(weight[place])))[:kept]:
            expected[place] = weight[place]
    assert torch.equal(projected(weight, kept, size), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (1, 4, 2, 1), (1, 2, 2, 2)])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_no_admissible_tensor_is_closer(kept: int, shape: tuple[int, ...], seed: int) -> None:
    """Of the tensors with one support the closest to V is V there: so every support, a choice in each group, is tried.

    A tensor with fewer non-zeros has its support within one of these.
    """
    weight = drawn(shape, seed)
    found = projected(weight, kept, 4)
    in_groups = groups(shape, 4)
    assert all(sum(bool(found[place]) for place in group) <= kept for group in in_groups)
    distances = []
    for support in product(*(combinations(group, kept) for group in in_groups)):
        other = torch.zeros(shape)
        for place in (place for chosen in support for place in chosen):
            other[place] = weight[place]
        distances.append(float((weight - other).square().sum()))
    assert len(distances) == math.comb(4, kept) ** 2
    assert float((weight - found).square().sum()) == min(distances)


def test_none_is_unstructured() -> None:
    weight = torch.tensor([[4.0, -3, 2, 1, 1, 1, -1, 5]])
    model = layer(weight)
    for name in (None, "unstructured"):
        assert gradient(Admm(model, Penalty(0.5, rho=1, pattern=name), 1, 1), model).tolist() == [
            [0, 0, 0, 1, 1, 1, -1, 0]
        ]


def test_a_training_draws_the_weights_towards_the_pattern() -> None:
    trained = run(network(), replace(RECIPE, epochs=40, batch_size=4), penalty=Penalty(0.5, rho=0.3, pattern="2:4"))
    assert trained.residuals[-1] < 0.25 * trained.residuals[0]
    assert trained.train_loss[-1] < trained.train_loss[0]
    for name in PRUNABLE:
        weight = trained.state[name]
        lost = sum(
            sum(sorted(float(weight[place]) ** 2 for place in group)[:2]) for group in groups(tuple(weight.shape), 4)
        )
        assert lost < 0.05 * float(weight.square().sum())


@pytest.mark.parametrize(
    ("penalty", "line"),
    [
        (Penalty(0.4, pattern="2:4"), ("pattern", "2:4", "0.6", "0.5", "sparsity")),
        (Penalty(0.5, allocation="global", pattern="2:4"), ("allocation", "global", "2:4", "say")),
        (Penalty(0.4, pattern="2:5"), ("pattern", "2:5", "3.weight", "5", "36", "groups")),
        (Penalty(0.5, Scope(), pattern="2;4"), ("pattern", "2;4", "2:4")),
    ],
)
def test_what_does_not_fit_is_refused_at_the_start(penalty: Penalty, line: tuple[str, ...]) -> None:
    with refused(*line):
        Admm(network(), penalty, 1, 1)
