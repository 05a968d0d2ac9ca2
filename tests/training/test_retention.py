"""κ and e^(−κ): against sums over every step, by hand, and against trainings whose gradients are zero."""

import math
import random
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunetune.training.loop import train
from prunetune.training.objective import build_optimizer
from prunetune.training.recipe import Recipe, Schedule, decay_exponent, factor, factor_sum, retention
from tests.support.train_makers import dataset

PAPER = Schedule("step", (80.0, 120.0), 0.1)


def sum_of_steps(schedule: Schedule, steps_per_epoch: int, epochs: int) -> float:
    return math.fsum(factor(schedule, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs))


def any_schedule(draw: random.Random, epochs: int) -> Schedule:
    kind = draw.choice(["step", "cosine", "constant"])
    milestones = sorted(draw.uniform(0, epochs) for _ in range(draw.randrange(4))) if kind == "step" else []
    warmup = draw.choice([0.0, 0.0, draw.uniform(0, epochs), float(epochs)])
    part = draw.choice([None, (draw.randrange(5), epochs + 4 + draw.randrange(3))])
    return Schedule(kind, tuple(milestones), draw.uniform(0.05, 0.9), warmup, part)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(200))
def test_the_sum_is_that_over_every_step(seed):
    draw = random.Random(seed)
    epochs, steps_per_epoch = draw.randrange(1, 12), draw.randrange(1, 30)
    schedule = any_schedule(draw, epochs)
    slow = sum_of_steps(schedule, steps_per_epoch, epochs)
    assert factor_sum(schedule, steps_per_epoch, epochs) == pytest.approx(slow, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", ["step", "cosine", "constant"])
def test_the_sum_of_a_training_of_any_length_is_had_at_once(kind):
    began = time.perf_counter()
    share = factor_sum(Schedule(kind, warmup=1000.0), 10_000, 1_000_000) / 1e10
    assert time.perf_counter() - began < 0.1
    assert share == pytest.approx(0.4995 + 0.0005 / 2 if kind == "cosine" else 1 - 0.0005, abs=1e-3)


@pytest.mark.parametrize(("rate", "kappa", "left"), [(0.1, 3.30, 0.04), (0.01, 0.33, 0.72)])
def test_the_papers_150_epochs(rate, kappa, left):
    recipe = Recipe(150, 128, rate, schedule=PAPER)
    found = decay_exponent(recipe, 391)
    assert found == pytest.approx(rate * 1e-4 * 391 * (80 + 40 * 0.1 + 30 * 0.01) / 0.1)
    assert found is not None
    kept = retention(found)
    assert kept is not None
    assert (round(found, 2), round(kept, 2)) == (kappa, left)


@pytest.mark.parametrize(
    ("optimizer", "decay", "kappa"),
    [("sgd", 0.02, 10 * 3 * 0.1 * 0.02 / 0.1), ("adamw", 0.02, 10 * 3 * 0.1 * 0.02), ("adam", 0.02, None)]
    + [(optimizer, 0.0, 0.0) for optimizer in ("sgd", "adamw", "adam")],
)
def test_kappa_by_optimizer(optimizer, decay, kappa):
    recipe = Recipe(10, 1, 0.1, optimizer=optimizer, weight_decay=decay, schedule=Schedule("constant"))
    found = decay_exponent(recipe, 3)
    assert found == (None if kappa is None else pytest.approx(kappa))
    assert retention(found) == (None if kappa is None else pytest.approx(math.exp(-kappa)))


def shrunk(recipe: Recipe, steps_per_epoch: int) -> float:
    """What the weights of an actual optimizer are multiplied by over all steps of a recipe, at gradients of zero."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = build_optimizer([weight], recipe)
    for step in range(recipe.epochs * steps_per_epoch):
        rate = recipe.learning_rate * factor(recipe.schedule, step, steps_per_epoch, recipe.epochs)
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    return float(weight.detach())


def recursion(recipe: Recipe, steps_per_epoch: int) -> float:
    """The same by hand: SGD is linear in (weight, momentum buffer); AdamW without gradients is a product."""
    weight, buffer, decay = 1.0, 0.0, recipe.weight_decay
    for step in range(recipe.epochs * steps_per_epoch):
        rate = recipe.learning_rate * factor(recipe.schedule, step, steps_per_epoch, recipe.epochs)
        if recipe.optimizer == "adamw":
            weight *= 1 - rate * decay
            continue
        buffer = recipe.momentum * buffer + decay * weight
        weight -= rate * (decay * weight + recipe.momentum * buffer if recipe.nesterov else buffer)
    return weight


SHORT = Recipe(6, 1, 0.1, weight_decay=4e-3, schedule=Schedule("step", (3.2, 4.8), warmup=0.5))
OTHERS = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"optimizer": "adamw"},
    {"momentum": 0.5, "schedule": Schedule("cosine", warmup=1.0)},
]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_without_gradients_the_weights_shrink_by_the_exact_recursion(changes):
    recipe = replace(SHORT, **changes)
    assert shrunk(recipe, 50) == pytest.approx(recursion(recipe, 50), rel=1e-9)


def test_without_momentum_the_factor_is_the_product_of_the_steps():
    recipe = replace(SHORT, momentum=0.0)
    rates = [0.1 * factor(recipe.schedule, step, 50, 6) for step in range(300)]
    assert shrunk(recipe, 50) == pytest.approx(math.prod(1 - rate * 4e-3 for rate in rates), rel=1e-9)


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_the_exact_factor_tends_to_e_to_the_minus_kappa(changes):
    """Equal κ over ever more steps of ever less decay each: the difference falls as 1 / steps."""
    errors = []
    for finer in (4, 16, 64):
        recipe = replace(SHORT, **changes, weight_decay=4e-3 / finer)
        kappa = decay_exponent(recipe, 50 * finer)
        assert kappa is not None
        errors.append(abs(math.log(recursion(recipe, 50 * finer)) + kappa))
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


def test_at_the_papers_recipe_the_difference_is_below_a_thousandth_of_the_exponent():
    for rate in (0.1, 0.01):
        recipe = Recipe(150, 128, rate, schedule=PAPER)
        kappa = decay_exponent(recipe, 391)
        assert -math.log(recursion(recipe, 391)) == pytest.approx(kappa, rel=1e-3)


class Still(nn.Module):
    """A network whose outputs, and so its gradients, know nothing of its weights but through a factor of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.0 * self.layer(images.flatten(1)[:, :4])


def test_a_whole_training_without_gradients_shrinks_its_weights_by_that_factor():
    model, data = Still(), dataset()
    start = model.layer.weight.detach().clone()
    recipe = replace(SHORT, batch_size=8)
    trained = train(model, data, recipe, order_seed=1, augment_seed=2)
    steps_per_epoch = trained.steps // 6
    share = trained.state["layer.weight"] / start
    torch.testing.assert_close(share, torch.full_like(share, recursion(recipe, steps_per_epoch)), rtol=1e-5, atol=0)
    kappa = decay_exponent(recipe, steps_per_epoch)
    assert kappa is not None
    assert math.exp(-kappa) == pytest.approx(recursion(recipe, steps_per_epoch), rel=0.2)
