"""Numbers: the mean squared error, and its root beside the spread of the targets."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.core.metric import Metric
from prunetune.data.examples import Batch, Examples, target_batches
from prunetune.errors import ConfigError, counted, shown
from prunetune.tasks.task import kind, precise, predictions


class Regression:
    """Predictions of shape (N,), (N, 1) or (N, numbers) for floating targets of shape (N,) or (N, numbers).

    The metric is the root of the mean squared error in percent of the standard deviation of the targets that are
    scored, 100 √(1 − R²): it is 0 for perfect predictions and 100 for their mean, whatever unit the targets have.
    """

    metric: ClassVar[Metric] = Metric("relative RMSE", "%", "points", higher_is_better=False, margin=1.0, gap=1.0)

    def outputs(self, examples: Examples) -> int:
        """How many numbers an example has."""
        width, first, differ = 1, None, False
        for targets in target_batches(examples):
            fits = isinstance(targets, Tensor) and targets.dim() in (1, 2) and targets.is_floating_point()
            if not fits or not bool(torch.isfinite(targets).all()):
                odd = ", not all finite" if fits else ""
                raise ConfigError(
                    f"task: regression; the targets are {kind(targets)}{odd}; want finite floating numbers of shape "
                    "(N,) or (N, numbers)"
                )
            width = 1 if targets.dim() == 1 else targets.shape[1]
            first = targets[:1] if first is None else first
            differ = differ or bool((targets != first).any())
        if not differ:
            value = shown(first[0].tolist()) if first is not None else None
            what = f"the targets of {counted(len(examples), 'example')} are all {value}"
            raise ConfigError(f"task: regression; {what}; want some that differ, as the metric is relative to them")
        return width

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean squared error."""
        return _errors(outputs, batch).square().mean()

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """For each number the count, the sum, the sum of squares, and that of the errors: shape (4, numbers)."""
        targets, errors = precise(batch.targets), precise(_errors(outputs, batch))
        parts = [torch.ones_like(targets), targets, targets.square(), errors.square()]
        return torch.stack([part.reshape(len(targets), -1).sum(0) for part in parts])

    def score(self, statistics: Tensor) -> float:
        """√(sum of squared errors / sum of squared deviations from each number's mean), in percent; NaN without any."""
        count, total, squares, errors = statistics
        deviations = float((squares - total.square() / count).sum())
        return 100 * math.sqrt(float(errors.sum()) / deviations) if deviations > 0 else math.nan

    def guessing(self, examples: Examples) -> float | None:
        """That of the targets' mean."""
        return 100.0


def _errors(outputs: Any, batch: Batch) -> Tensor:
    """Predictions minus targets, of the targets' shape; two shapes are never stretched to fit each other."""
    found, targets = predictions(outputs), batch.targets
    if found.shape != targets.shape and found.shape != (*targets.shape, 1) and (*found.shape, 1) != targets.shape:
        got, want = tuple(found.shape), tuple(targets.shape)
        raise ConfigError(f"model: gives predictions of shape {got} for targets of shape {want}; they must be alike")
    return found.float().reshape(targets.shape) - targets
