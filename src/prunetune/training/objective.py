"""What a training minimises, how, and what it is scored by: cross entropy and accuracy, or callables of the user's."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from prunetune.core.references import Ref, load_callable
from prunetune.errors import ConfigError, CorruptionError, DivergedSourceError, InvariantError, one_line
from prunetune.training.numerics import is_short
from prunetune.training.recipe import Recipe

_OURS = (ConfigError, InvariantError, CorruptionError, DivergedSourceError)


@contextmanager
def user_errors(what: str, on: Any = None) -> Iterator[None]:
    """ConfigError `WHAT raised KIND: …` in the place of what the user's code raises.

    What says that memory is short is let through, and a RuntimeError where `on`, a tensor, lies on an accelerator:
    there it may be the device's, or a step that cannot be recorded.
    """
    try:
        yield
    except _OURS:
        raise
    except Exception as error:
        elsewhere = isinstance(on, torch.Tensor) and on.device.type != "cpu"
        if is_short(error) or (elsewhere and isinstance(error, RuntimeError)):
            raise
        raise ConfigError(f"{what} raised {type(error).__name__}: {one_line(error, 300)}") from error


def build_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
    """SGD, Adam or AdamW over all trainable parameters; biases and norms are decayed like the weights.

    `momentum` is Adam's and AdamW's first beta; the second is 0.999. The fused form is the fastest of torch's three on
    the small networks of a CPU study (one call in place of six an update) and on a GPU.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfigError("model: has no trainable parameter; at least one must require a gradient")
    rate, decay = recipe.learning_rate, recipe.weight_decay
    try:
        if recipe.optimizer == "sgd":
            nesterov = recipe.nesterov
            return SGD(trainable, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
        kind, betas = {"adam": Adam, "adamw": AdamW}[recipe.optimizer], (recipe.momentum, 0.999)
        on_gpu = trainable[0].is_cuda  # where a step may become a part of a CUDA graph
        optimizer = kind(trainable, rate, betas, weight_decay=decay, fused=True, capturable=on_gpu)
        vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True  # the first steps are no part of one, on purpose
        return optimizer
    except ValueError as error:  # torch's own one-line complaint about a rate, a momentum or nesterov without momentum
        raise ConfigError(f"recipe.optimizer: {recipe.optimizer} cannot be set up: {error}") from error


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
        raise ConfigError(
            f"model: gives a {type(outputs).__name__} in training mode; must give logits alone, or recipe.loss be a "
            "callable that takes what it gives"
        )
    return F.cross_entropy(outputs, targets)


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


def _checked(ref: Ref, field: str, wanted: str, shape: Callable[[Tensor], tuple[int, ...]]) -> Objective:
    function = partial(load_callable(ref.name, field), **ref.kwargs)

    def call(outputs: Tensor, targets: Tensor) -> Tensor:
        with user_errors(f"{field}: '{ref.name}'", targets):
            value = function(outputs, targets)
        if not isinstance(value, Tensor):
            raise ConfigError(f"{field}: '{ref.name}' returned a {type(value).__name__}; it must return {wanted}")
        if value.shape != shape(targets):
            raise ConfigError(f"{field}: '{ref.name}' returned shape {tuple(value.shape)}; it must return {wanted}")
        return value

    return call
