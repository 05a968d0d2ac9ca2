"""The ADMM penalty against its formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunetune.sparsity.scope import Scope
from prunetune.training.admm import Admm, Penalty
from prunetune.training.recipe import Schedule
from tests.support.refusals import refused
from tests.support.train_makers import PRUNABLE, RECIPE, network, run

LONG = replace(RECIPE, epochs=70, batch_size=4, schedule=Schedule("step", (37.3, 56)))  # 910 steps


def layer(*weights: float) -> nn.Linear:
    model = nn.Linear(len(weights), 1, bias=False)
    model.weight.data = torch.tensor([weights], dtype=torch.float32)
    return model


def gradient(admm: Admm, model: nn.Linear) -> list[float]:
    """What the penalty adds to a loss's gradient of 1."""
    model.weight.grad = torch.ones_like(model.weight)
    admm.add_gradient()
    return (model.weight.grad - 1).squeeze(0).tolist()


def test_by_hand() -> None:
    """Two of four weights kept, rho 2 and from step 2 on 6, Z and U updated after every step (one step an epoch).

    start: W = (4, -3, 2, 1)  Z = (4, -3, 0, 0)  U = 0            W - Z + U = (0, 0, 2, 1)
    step 1: W = (4, -1, 2, 1)  W + U = (4, -1, 2, 1)  Z = (4, 0, 2, 0)  U = (0, -1, 0, 1)   W - Z + U = (0, -2, 0, 2)
    step 2: W = (4, -1, 2, 1)  W + U = (4, -2, 2, 2)  Z = (4, -2, 0, 0), the tie going to the lower index
            U = (0, 0, 2, 2), over 3 as rho grows to 6: (0, 0, 2/3, 2/3)   W - Z + U = (0, 1, 8/3, 5/3)
    """
    model = layer(4, -3, 2, 1)
    start = model.weight.clone()
    admm = Admm(model, Penalty(0.5, rho=2, rho_growth=3, rho_every=2, update_every=1), steps_per_epoch=1, epochs=4)
    assert torch.equal(model.weight, start)
    assert gradient(admm, model) == [0, 0, 4, 2]
    model.weight.data[0, 1] = -1
    admm.after_step()
    assert gradient(admm, model) == [0, -4, 0, 4]
    admm.after_step()
    assert gradient(admm, model) == pytest.approx([0, 6, 16, 10])
    norm = math.sqrt(16 + 1 + 4 + 1)
    residuals = [math.sqrt(5 / 30), math.sqrt(2) / norm, math.sqrt(1 + 4 + 1) / norm]
    assert admm.residuals == pytest.approx(residuals)


def test_the_gradient_is_the_penaltys() -> None:
    model = network()
    admm = Admm(model, Penalty(0.3, rho=0.7), 4, 3)
    parameters = dict(model.named_parameters())
    target = {}
    for name in PRUNABLE:
        flat = parameters[name].detach().flatten()
        top = flat.abs().argsort(descending=True)[: round(0.3 * flat.numel())]
        target[name] = torch.zeros_like(flat).index_put((top,), flat[top]).view_as(parameters[name])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
            weight.grad = torch.zeros_like(weight)
    (0.35 * sum(((parameters[name] - target[name]) ** 2).sum() for name in PRUNABLE)).backward()  # type: ignore[union-attr]
    expected = {name: weight.grad for name, weight in parameters.items()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    admm.add_gradient()
    for name, weight in parameters.items():
        torch.testing.assert_close(weight.grad, expected[name])
        assert bool(weight.grad.any()) is (name in PRUNABLE)  # type: ignore[union-attr]


def test_updates_are_spread_over_the_training_and_the_last_is_at_its_end() -> None:
    model = layer(4, 3, 2, 1)
    admm = Admm(model, Penalty(0.5), steps_per_epoch=157, epochs=6)
    counts = []
    for _ in range(6 * 157):
        admm.after_step()
        counts.append(len(admm.residuals))
    assert counts[-1] == counts[-2] + 1 == 13
    assert counts.index(2) + 1 == 79  # 78.5 steps each


def test_weights_that_are_not_finite_are_left_to_the_loop() -> None:
    model = layer(4, 3, 2, 1)
    admm = Admm(model, Penalty(0.5, update_every=1), steps_per_epoch=1, epochs=2)
    model.weight.data[0, 0] = math.nan
    admm.after_step()
    assert len(admm.residuals) == 1


@pytest.mark.parametrize(
    ("rate", "density"),
    [
        *[(0.01, 0.5), (0.1, 0.1)],
        *[pytest.param(*others, marks=pytest.mark.slow) for others in ((0.01, 0.1), (0.1, 0.5))],
    ],
)
def test_the_residual_falls_and_the_weights_become_sparse(rate: float, density: float) -> None:
    trained = run(recipe=replace(LONG, learning_rate=rate), penalty=Penalty(density))
    assert len(trained.residuals) == 13
    assert trained.residuals[-1] < 0.25 * trained.residuals[0]
    assert trained.train_loss[-1] < trained.train_loss[0]
    for name in PRUNABLE:
        squares = trained.state[name].flatten().square().sort(descending=True).values
        kept = round(density * len(squares))
        assert squares[kept:].sum() < 0.1 * squares.sum()


def test_a_penalty_in_a_hopeless_training_diverges_quietly() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 4))
    trained = run(model, replace(RECIPE, learning_rate=1e8), penalty=Penalty(0.5, update_every=0.5))
    assert trained.diverged


def test_scope_of_the_penalty() -> None:
    model = network()
    admm = Admm(model, Penalty(0.5, Scope(include=("0.weight",), exclude=("6.*",))), 1, 1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    admm.add_gradient()
    assert [name for name, weight in model.named_parameters() if weight.grad.any()] == ["0.weight", "3.weight"]  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["rho", "rho_growth", "rho_every", "update_every"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_settings_that_make_no_sense(field: str, value: float) -> None:
    with refused(field, "0", "above"):
        replace(Penalty(0.5), **{field: value})
