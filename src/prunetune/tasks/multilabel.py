"""Any number of labels an example: binary cross entropy for each, and the mean F1 of the labels."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from prunetune.core.metric import Metric
from prunetune.data.examples import Batch, Examples, target_batches
from prunetune.errors import ConfigError
from prunetune.tasks.task import kind, precise, predictions


class Multilabel:
    """Logits of shape (N, labels) for targets of that shape, each 0 or 1; a logit above 0 predicts its label."""

    metric: ClassVar[Metric] = Metric("macro-F1", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)

    def outputs(self, examples: Examples) -> int:
        """The number of labels."""
        width = 0
        for targets in target_batches(examples):
            if (
                not isinstance(targets, Tensor)
                or targets.dim() != 2
                or not bool(((targets == 0) | (targets == 1)).all())
            ):
                raise ConfigError(
                    f"task: multilabel; the targets are {kind(targets)}; want shape (N, labels), each 0 or 1"
                )
            width = targets.shape[1]
        return width

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Binary cross entropy of the logits, the mean over examples and labels."""
        return F.binary_cross_entropy_with_logits(_logits(outputs, batch), batch.targets.float())

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """True positives, false positives and false negatives, shape (3, labels)."""
        chosen, wanted = _logits(outputs, batch) > 0, batch.targets.bool()
        return precise(torch.stack([(chosen & wanted).sum(0), (chosen & ~wanted).sum(0), (~chosen & wanted).sum(0)]))

    def score(self, statistics: Tensor) -> float:
        """The mean over labels of F1 = 2 TP / (2 TP + FP + FN), in percent; 0 for a label that nothing is about."""
        hits, false, missed = statistics
        return 100 * float((2 * hits / (2 * hits + false + missed).clamp(min=1)).mean())

    def guessing(self, examples: Examples) -> float | None:
        """All labels for every example: F1 = 2 p / (1 + p) of a label that a share p has."""
        counts = sum((targets.double().sum(0) for targets in target_batches(examples)), torch.zeros(()))
        shares = counts / len(examples)
        return 100 * float((2 * shares / (1 + shares)).mean())


def _logits(outputs: Any, batch: Batch) -> Tensor:
    found = predictions(outputs)
    if found.shape != batch.targets.shape:
        got, want = tuple(found.shape), tuple(batch.targets.shape)
        raise ConfigError(f"model: gives logits of shape {got} for targets of shape {want}; they must be alike")
    return found
