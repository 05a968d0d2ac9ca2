"""Optimizers against their update rules, worked out in plain Python numbers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunetune.training.objective import build_optimizer
from prunetune.training.recipe import Recipe
from tests.support.refusals import refused
from tests.support.train_makers import RECIPE

GRADIENTS = (0.5, -1.5, 2.0)
PLAIN = replace(RECIPE, learning_rate=0.1, weight_decay=0.01, momentum=0.9)


def after_steps(recipe: Recipe, start: float = 2.0) -> float:
    weight = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = build_optimizer([weight], recipe)
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return weight.item()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov: bool) -> None:
    w, velocity = 2.0, None
    for gradient in GRADIENTS:
        g = gradient + 0.01 * w
        velocity = g if velocity is None else 0.9 * velocity + g
        w -= 0.1 * (g + 0.9 * velocity if nesterov else velocity)
    assert after_steps(replace(PLAIN, nesterov=nesterov)) == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam(kind: str) -> None:
    w, first, second = 2.0, 0.0, 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        g = gradient + 0.01 * w if kind == "adam" else gradient
        if kind == "adamw":
            w -= 0.1 * 0.01 * w
        first, second = 0.8 * first + 0.2 * g, 0.999 * second + 0.001 * g * g
        w -= 0.1 * (first / (1 - 0.8**t)) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
    recipe = replace(PLAIN, optimizer=kind, momentum=0.8)  # type: ignore[arg-type]
    assert after_steps(recipe) == pytest.approx(w, rel=1e-9)


def test_all_trainable_parameters_are_decayed_and_frozen_ones_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    (group,) = build_optimizer(model.parameters(), PLAIN).param_groups
    assert group["weight_decay"] == 0.01
    assert [id(p) for p in group["params"]] == [id(p) for p in (model[0].weight, model[1].weight, model[1].bias)]


def test_what_torch_refuses_is_a_request_error() -> None:
    weight = [nn.Parameter(torch.zeros(1))]
    with refused("recipe.optimizer", "sgd"):
        build_optimizer(weight, replace(PLAIN, nesterov=True, momentum=0.0))
    with refused("recipe.optimizer", "learning rate"):
        build_optimizer(weight, replace(PLAIN, learning_rate=-1.0))
    with refused("model", "no trainable parameter"):
        build_optimizer([], PLAIN)
