"""How much of the initial weights a training's weight decay leaves (docs/kappa.md)."""

import math

from prunetune.train.recipe import Recipe
from prunetune.train.schedule import factor_sum


def decay_exponent(recipe: Recipe, steps_per_epoch: int) -> float | None:
    """κ: weight decay multiplies what is left of θ0 itself by about e^(−κ) over a training by `recipe`.

    κ = Σ_t η_t λ / (1 − μ) over the steps t, for SGD with momentum μ, whose weight decay λ is a part of the gradient;
    Σ_t η_t λ for AdamW, which decays the weights by themselves. None for Adam: there the decay goes through the
    gradient's own scale, and no such sum exists. Time scale of van Laarhoven 2017 (arXiv 1706.05350) and Li, Lyu &
    Arora 2020 (arXiv 2010.02916).
    """
    if not recipe.weight_decay:
        return 0.0
    if recipe.optimizer == "adam":
        return None
    travelled = recipe.learning_rate * factor_sum(recipe.schedule, steps_per_epoch, recipe.epochs)
    lasting = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    return travelled * recipe.weight_decay / lasting


def retention(kappa: float | None) -> float | None:
    """e^(−κ), the share of θ0 that is left; None where κ is not defined."""
    return None if kappa is None else math.exp(-kappa)
