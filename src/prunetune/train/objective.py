"""What a training minimises and what it is scored by: cross entropy and accuracy, or callables of the user's."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from prunetune.errors import RequestError
from prunetune.references import Ref, load_callable
from prunetune.train.recipe import Recipe
from prunetune.train.user_code import users

Objective = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> a scalar, or one score per example


def loss_of(recipe: Recipe) -> Objective:
    """The mean loss of a batch, a scalar tensor: cross entropy, or the user's `callable(outputs, targets)`."""
    return loss_by(recipe.loss)


def loss_by(ref: Ref | None) -> Objective:
    """The loss that a recipe's `loss` names."""
    if ref is None:
        return _cross_entropy
    return _checked(ref, "recipe.loss", "a scalar tensor, the mean over the batch", lambda targets: ())


def metric_of(recipe: Recipe) -> Objective:
    """The score of every example of a batch, shape (N,): 1 or 0 for right or wrong, or what the user's callable gives.

    The mean over the examples, times 100, is what is reported.
    """
    if recipe.metric is None:
        return _right
    return _checked(
        recipe.metric, "recipe.metric", "one score per example, a tensor of shape (N,)", lambda targets: (len(targets),)
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if not isinstance(outputs, Tensor):  # GoogLeNet and others with auxiliary heads, in training mode
        raise RequestError(
            f"model: gives a {type(outputs).__name__} in training mode; must give logits alone, or recipe.loss be a "
            "callable that takes what it gives"
        )
    return F.cross_entropy(outputs, targets)


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


def _checked(ref: Ref, field: str, wanted: str, shape: Callable[[Tensor], tuple[int, ...]]) -> Objective:
    function = partial(load_callable(ref.name, field), **ref.kwargs)

    def call(outputs: Tensor, targets: Tensor) -> Tensor:
        with users(f"{field}: '{ref.name}'", targets):
            value = function(outputs, targets)
        if not isinstance(value, Tensor):
            raise RequestError(f"{field}: '{ref.name}' returned a {type(value).__name__}; it must return {wanted}")
        if value.shape != shape(targets):
            raise RequestError(f"{field}: '{ref.name}' returned shape {tuple(value.shape)}; it must return {wanted}")
        return value

    return call
