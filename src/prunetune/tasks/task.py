"""What a task is: how a batch is predicted, what is minimised, and what the predictions score."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from prunetune.core.metric import Metric
from prunetune.core.references import is_callable_name, load_callable
from prunetune.core.registry import Registry
from prunetune.data.examples import IGNORED, Batch, Examples, target_batches
from prunetune.errors import ConfigError, shown, unknown


class Task(Protocol):
    """A kind of question that networks are trained for.

    A score is exact over all examples: `statistics` of batches add up, and `score` reads their sum.

    What a task may have beside: `training_inputs(batch)`, what a network in training is called with where that is not
    the batch's inputs; `rows = True`, where statistics have a row for each thing and are put one below the other
    in place of added up; `mean_of_examples = False`, where a loss is a mean of other things than examples;
    `loss_in_evaluation = False`, where a network in evaluation gives nothing that a loss could be made of, and the
    loss is NaN; and what a ClassTask has.
    """

    metric: ClassVar[Metric]

    def outputs(self, examples: Examples) -> int:
        """How many outputs a network needs for these examples; ConfigError where their targets do not fit the task."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The batch's mean loss, a scalar tensor, from what the network gives for its inputs."""
        ...

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """What the batch adds to the score: a floating tensor of a shape that is the same for every batch."""
        ...

    def score(self, statistics: Tensor) -> float:
        """The metric over all batches, from the sum of their statistics (double precision, on the CPU)."""
        ...

    def guessing(self, examples: Examples) -> float | None:
        """What a network scores on these examples that looks at no input; None where that is not known."""
        ...


@runtime_checkable
class ClassTask(Protocol):
    """A task whose loss is a mean cross entropy; its recipe may smooth labels and have a teacher."""

    def logits(self, outputs: Any) -> Tensor:
        """Those of everything that is to be classified, shape (N, classes, …)."""
        ...

    def classes(self, batch: Batch) -> Tensor:
        """What they are to be, int64 of shape (N, …), IGNORED where none counts."""
        ...


TASKS: Registry[Task] = Registry("task")
"""Tasks by name."""

CLASSIFICATION = "classification"  # of which nothing is said anywhere: a spec's default


def task_of(name: str) -> Task:
    """A registered task, or what `package.module:callable` returns; ConfigError for an unknown or unfit one."""
    if name in TASKS:
        return TASKS[name]
    if not is_callable_name(name):
        raise unknown("task", name, TASKS)
    return _users(name)


def _users(name: str) -> Task:
    maker = load_callable(name, "task")
    try:
        task = maker()
    except Exception as error:  # the user's code: whatever it raises is told in one line, the cause chained
        raise ConfigError(f"task: '{name}' raised {type(error).__name__}: {error}") from error
    lacking = [one for one in ("outputs", "loss", "statistics", "score", "guessing") if not hasattr(task, one)]
    if not isinstance(getattr(task, "metric", None), Metric):
        lacking.insert(0, "metric (a prunetune.tasks.Metric)")
    if lacking:
        raise ConfigError(f"task: '{name}' returned a {type(task).__name__} without {', '.join(lacking)}")
    return task


def predictions(outputs: Any) -> Tensor:
    """The predictions among what a network gives: a tensor itself, else what stands under `logits` in a mapping.

    A mapping of one tensor alone is that tensor; so transformers' outputs are read as they are.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
        tensors = [value for value in outputs.values() if isinstance(value, Tensor)]
        if isinstance(found, Tensor) or len(tensors) == 1:
            return found if isinstance(found, Tensor) else tensors[0]
        raise ConfigError(f"model: gives {shown(sorted(outputs))}; its predictions must stand under 'logits'")
    raise ConfigError(
        f"model: gives a {type(outputs).__name__}; it must give a tensor, or a mapping with one under 'logits'"
    )


def precise(values: Tensor) -> Tensor:
    """In double precision, or in single on a device that has no other."""
    return values.float() if values.device.type == "mps" else values.double()


def mean_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean over targets that are not IGNORED, 0 where all are; logits of shape (N, classes, …).

    Smoothing ε: a target is its class by 1 − ε, and any class alike by ε (Szegedy et al. 2016, arXiv 1512.00567).
    """
    total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
    return total / (targets != IGNORED).sum().clamp(min=1)


def mean_divergence(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of the softmax of logits / T, a mean as in `mean_cross_entropy`.

    T² keeps its gradients of one size whatever T is (Hinton et al. 2015, arXiv 1503.02531, sec. 2.1).
    """
    ours, theirs = (F.log_softmax(logits.float() / temperature, 1) for logits in (student, teacher))
    counted = targets != IGNORED
    each = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    return temperature**2 * (each * counted).sum() / counted.sum().clamp(min=1)


def kind(targets: Any) -> str:
    """What targets are, as an error says it."""
    return f"{targets.dtype} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__


def require_targets(task: str, targets: Any, rank: int, wanted: str) -> None:
    """ConfigError unless targets are classes, a tensor of so many dimensions; some may be IGNORED."""
    fits = isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == rank
    if not fits:
        raise ConfigError(f"task: {task}; the targets are {kind(targets)}; want {wanted}")
    low = int(targets.masked_fill(targets == IGNORED, 0).min()) if targets.numel() else 0
    if low < 0 or (rank == 1 and bool((targets == IGNORED).any())):
        raise ConfigError(f"task: {task}; a target is {min(low, int(targets.min()))}; want {wanted}")


def highest_class(examples: Examples) -> int:
    """The highest class among the targets; -1 without any."""
    return max((int(targets.max()) for targets in target_batches(examples) if targets.numel()), default=-1)


def class_counts(examples: Examples, skip: int = 0) -> Tensor:
    """How often each class is a target that counts, in double precision; `skip` targets of each row left out."""
    counts = torch.zeros(1 + highest_class(examples), dtype=torch.float64)
    for targets in target_batches(examples):
        shown = targets[:, skip:] if skip else targets
        counts += torch.bincount(shown[shown != IGNORED], minlength=len(counts)).double()
    return counts
