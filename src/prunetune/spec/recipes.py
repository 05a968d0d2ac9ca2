"""A study's recipe at each of its learning rates: how long it trains, and what weight decay leaves of θ0."""

from prunetune.spec.recipe import RecipeSpec
from prunetune.training.recipe import Recipe, RecipeSummary, decay_exponent, retention


def steps_per_epoch(recipe: RecipeSpec, images: int) -> int:
    """Optimizer steps of an epoch of so many training images; the last batch may be smaller."""
    return -(-images // recipe.batch_size)


def summarise(recipe: RecipeSpec, learning_rate: float, steps_per_epoch: int) -> RecipeSummary:
    """Steps, κ and e^(−κ) of a training at one rate. Neither precision, loss nor metric bears on them."""
    trained = Recipe(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=learning_rate,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        schedule=recipe.schedule.schedule(),
    )
    kappa = decay_exponent(trained, steps_per_epoch)
    return RecipeSummary(learning_rate, recipe.epochs * steps_per_epoch, kappa, retention(kappa))
