"""What a training minimises, how, and what it is scored by: its task, with callables of the user's in their place."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from prunetune.core.metric import Metric
from prunetune.core.references import Ref, load_callable
from prunetune.data import Batch
from prunetune.data.examples import Nest, first_tensor, mapped
from prunetune.errors import ConfigError, CorruptionError, DivergedSourceError, InvariantError, given, one_line
from prunetune.sparsity.forward_pass import call
from prunetune.tasks import Task, predictions, task_of
from prunetune.tasks.task import CLASSIFICATION, IGNORED, ClassTask, mean_cross_entropy, mean_divergence
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
    """SGD, Adam or AdamW over all trainable parameters; biases and norms are decayed like the weights, or not at all.

    `momentum` is Adam's and AdamW's first beta; the second is 0.999. The fused form is the fastest of torch's three on
    the small networks of a CPU study (one call in place of six an update) and on a GPU.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfigError("model: has no trainable parameter; at least one must require a gradient")
    on_gpu = trainable[0].is_cuda  # where a step may become a part of a CUDA graph
    groups = trainable if recipe.decay_norms is None else _groups(trainable)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    try:
        if recipe.optimizer == "sgd":
            nesterov = recipe.nesterov
            return SGD(groups, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
        kind, betas = {"adam": Adam, "adamw": AdamW}[recipe.optimizer], (recipe.momentum, 0.999)
        optimizer = kind(groups, rate, betas, weight_decay=decay, fused=True, capturable=on_gpu)
        vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True  # the first steps are no part of one, on purpose
        return optimizer
    except ValueError as error:  # torch's own one-line complaint about a rate, a momentum or nesterov without momentum
        raise ConfigError(f"recipe.optimizer: {recipe.optimizer} cannot be set up: {error}") from error


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Those of two or more dimensions, and the others, which are biases and normalisation, without decay."""
    by_size: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in parameters:
        by_size[parameter.dim() > 1].append(parameter)
    groups = [{"params": by_size[True]}, {"params": by_size[False], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Objective:
    """What a training minimises and is scored by: its task, with the loss and the metric of the user's if there are.

    As in a Task, `loss` is a batch's mean, the `statistics` of batches add up, and `score` reads their sum.
    """

    loss: Callable[[Any, Batch], Tensor]
    statistics: Callable[[Any, Batch], Tensor]
    score: Callable[[Tensor], float]
    rows: bool  # whether statistics are put one below the other


def objective_of(recipe: Recipe) -> Objective:
    """That of a recipe. A user's loss and metric of classification take (outputs, targets), of others see `loss_by`.

    ConfigError for a task or a callable that cannot be imported.
    """
    task = _task(recipe)
    own = recipe.metric and partial(_user_statistics, _per_example(recipe.metric))
    return Objective(
        loss_by(recipe.loss, recipe.task), own or task.statistics, task.score, getattr(task, "rows", False)
    )


def training_inputs(task: Ref | None, batch: Batch) -> Nest:
    """What a network in training is called with: the batch's inputs, unless the task says otherwise."""
    own = getattr(task_of(task.name), "training_inputs", None) if task else None
    return own(batch) if own else batch.inputs


def metric_of(recipe: Recipe) -> Metric:
    """The metric of the recipe's task."""
    return _task(recipe).metric


def _task(recipe: Recipe) -> Task:
    return task_of(recipe.task.name if recipe.task else CLASSIFICATION)


def training_loss(recipe: Recipe, teacher: nn.Module | None = None) -> Callable[[Any, Batch], Tensor]:
    """The loss that a training minimises: the objective's, labels smoothed and a teacher heard as the recipe says.

    With a `teacher`, a network in evaluation mode on the batch's device, (1 − weight) · loss + weight · divergence
    from what it gives for the same inputs. Scores and criteria know nothing of either.
    """
    task, loss = _task(recipe), objective_of(recipe).loss
    if not isinstance(task, ClassTask) or not (recipe.label_smoothing or recipe.distill):
        return loss
    if epsilon := recipe.label_smoothing:
        loss = partial(_smoothed, task, epsilon)
    if recipe.distill is None:
        return loss
    weight, temperature = recipe.distill.weight, recipe.distill.temperature
    taught_by = given(teacher, "a training with a teacher's part in its loss is given the teacher")

    def distilled(outputs: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            told = task.logits(call(taught_by, batch.inputs))
        divergence = mean_divergence(task.logits(outputs), told, task.classes(batch), temperature)
        return (1 - weight) * loss(outputs, batch) + weight * divergence

    return distilled


def _smoothed(task: ClassTask, epsilon: float, outputs: Any, batch: Batch) -> Tensor:
    return mean_cross_entropy(task.logits(outputs), task.classes(batch), epsilon)


def in_parts(recipe: Recipe, batch: Batch) -> list[tuple[Batch, Tensor]]:
    """The batch in `accumulate` parts of consecutive examples, each with its share of what the batch's loss is over.

    The shares make the sum of the parts' mean losses the mean of the batch: shares of the examples, and of the targets
    that count where a loss is a mean over these.
    """
    count = len(first_tensor(batch.inputs))
    pieces = min(recipe.accumulate or 1, count)
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    parts = [Batch(*mapped(tuple(batch), lambda t, a=a, b=b: t[a:b])) for a, b in pairwise(ends)]
    task = _task(recipe)
    over = torch.stack([_counted(task, part) for part in parts]).float()
    return list(zip(parts, over / over.sum().clamp(min=1), strict=True))


def _counted(task: Task, batch: Batch) -> Tensor:
    """How many targets the mean loss of a batch is over."""
    if isinstance(task, ClassTask):
        return (task.classes(batch) != IGNORED).sum()
    first = first_tensor(batch.inputs)
    return torch.full((), len(first), device=first.device)  # filled there: a number of the host's would be waited for


def loss_by(ref: Ref | None, task: Ref | None) -> Callable[[Any, Batch], Tensor]:
    """The loss that a recipe's `loss` names, else the task's.

    A user's is called with (outputs, targets) where the task is classification, and with (outputs, batch) where it is
    another: `batch.inputs` and `batch.targets`.
    """
    if ref is None:
        return task_of(task.name).loss if task else _cross_entropy
    return _checked(ref, "recipe.loss", "a scalar tensor, the mean over the batch", lambda batch: (), whole=bool(task))


def _per_example(ref: Ref) -> Callable[[Any, Batch], Tensor]:
    """The user's score of every example of a batch, shape (N,)."""
    wanted = "one score per example, a tensor of shape (N,)"
    return _checked(ref, "recipe.metric", wanted, lambda batch: (len(batch.targets),), whole=False)


def _user_statistics(metric: Callable[[Any, Batch], Tensor], outputs: Any, batch: Batch) -> Tensor:
    """The sum of the scores of the user's metric, and of how many: their mean, times 100, is what is reported."""
    scores = metric(outputs, batch).float()
    return torch.stack([scores.sum(), scores.new_tensor(len(scores))])


def _cross_entropy(outputs: Any, batch: Batch) -> Tensor:
    if not isinstance(outputs, Tensor | Mapping):  # GoogLeNet and others with auxiliary heads, in training mode
        raise ConfigError(
            f"model: gives a {type(outputs).__name__} in training mode; must give logits alone, or recipe.loss be a "
            "callable that takes what it gives"
        )
    return F.cross_entropy(predictions(outputs), batch.targets)


def _checked(
    ref: Ref, field: str, wanted: str, shape: Callable[[Batch], tuple[int, ...]], *, whole: bool
) -> Callable[[Any, Batch], Tensor]:
    """The user's callable of (outputs, targets), or of (outputs, batch) where it takes the `whole` batch."""
    function = partial(load_callable(ref.name, field), **ref.kwargs)

    def call(outputs: Any, batch: Batch) -> Tensor:
        with user_errors(f"{field}: '{ref.name}'", first_tensor(batch.inputs)):
            value = function(outputs, batch if whole else batch.targets)
        if not isinstance(value, Tensor):
            raise ConfigError(f"{field}: '{ref.name}' returned a {type(value).__name__}; it must return {wanted}")
        if value.shape != shape(batch):
            raise ConfigError(f"{field}: '{ref.name}' returned shape {tuple(value.shape)}; it must return {wanted}")
        return value

    return call
