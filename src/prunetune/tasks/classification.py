"""One class an example: cross entropy and accuracy."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from prunetune.core.metric import ACCURACY, Metric
from prunetune.data.examples import Batch, Examples, target_batches
from prunetune.tasks.task import class_counts, highest_class, predictions, require_targets


class Classification:
    """Logits of shape (N, classes) for targets of shape (N,), int64."""

    metric: ClassVar[Metric] = ACCURACY

    def outputs(self, examples: Examples) -> int:
        """The number of classes."""
        for targets in target_batches(examples):
            require_targets("classification", targets, 1, "one class an example, int64 of shape (N,)")
        return 1 + highest_class(examples)

    def logits(self, outputs: Any) -> Tensor:
        """One row an example."""
        return predictions(outputs)

    def classes(self, batch: Batch) -> Tensor:
        """The targets."""
        return batch.targets

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy, the mean over examples."""
        return F.cross_entropy(predictions(outputs), batch.targets)

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """The number of examples that are right, and of all."""
        right = predictions(outputs).argmax(1) == batch.targets
        return torch.stack([right.sum(), right.new_tensor(len(right), dtype=torch.int64)]).float()

    def score(self, statistics: Tensor) -> float:
        """The share that is right, in percent."""
        right, count = statistics.tolist()
        return 100 * right / count

    def guessing(self, examples: Examples) -> float | None:
        """The share of the most frequent class, in percent."""
        counts = class_counts(examples)
        return 100.0 * int(counts.max()) / int(counts.sum())
