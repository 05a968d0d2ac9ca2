"""A study's recipe at each of its learning rates: how long it trains, and what weight decay leaves of θ0."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from prunetune.errors import RequestError
from prunetune.study.recipe_fields import RecipeSpec
from prunetune.study.results import RecipeSummary, Trial
from prunetune.train.recipe import Recipe
from prunetune.train.retention import decay_exponent, retention


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


def summaries_of(study: Mapping[str, Any], trials: Iterable[Trial]) -> tuple[RecipeSummary, ...]:
    """The same from a resolved spec and the rows of its table, for results that do not say it themselves.

    The steps of an epoch are those of the study's dense runs, else of its sparse trainings. A rate without a whole
    training has no row, and a study whose recipe cannot be read has none.
    """
    try:
        recipe = RecipeSpec.model_validate(study.get("recipe") or {})
    except (ValidationError, RequestError):
        return ()
    found: dict[float, int] = {}
    for trial in sorted(trials, key=lambda trial: trial.arm == "dense"):
        if trial.epochs == recipe.epochs and trial.steps and not trial.steps % recipe.epochs:
            found[trial.learning_rate] = trial.steps // recipe.epochs
    return tuple(summarise(recipe, rate, found[rate]) for rate in sorted(found))
