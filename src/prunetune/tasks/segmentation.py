"""One class a pixel: cross entropy, and the mean over classes of intersection over union."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from prunetune.core.metric import Metric
from prunetune.data.examples import Batch, Examples, target_batches
from prunetune.tasks.task import (
    IGNORED,
    class_counts,
    highest_class,
    mean_cross_entropy,
    precise,
    predictions,
    require_targets,
)


class Segmentation:
    """Logits of shape (N, classes, H, W) for targets of shape (N, H, W), int64; a pixel of class −100 is ignored."""

    metric: ClassVar[Metric] = Metric("mIoU", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)
    mean_of_examples = False  # but of pixels or tokens

    def outputs(self, examples: Examples) -> int:
        """The number of classes."""
        for targets in target_batches(examples):
            require_targets("segmentation", targets, 3, "one class a pixel, int64 of shape (N, H, W)")
        return 1 + highest_class(examples)

    def logits(self, outputs: Any) -> Tensor:
        """One for every pixel and class."""
        return predictions(outputs)

    def classes(self, batch: Batch) -> Tensor:
        """The pixels' classes."""
        return batch.targets

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy, the mean over pixels that are not ignored."""
        return mean_cross_entropy(self.logits(outputs), self.classes(batch))

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """How many pixels of each class (row) are predicted to be of which (column): shape (classes, classes)."""
        logits, classes = predictions(outputs), predictions(outputs).shape[1]
        counted = batch.targets != IGNORED
        places = batch.targets[counted] * classes + logits.argmax(1)[counted]
        return precise(torch.bincount(places, minlength=classes * classes).view(classes, classes))

    def score(self, statistics: Tensor) -> float:
        """The mean of intersection over union, in percent, over classes that are there or are predicted somewhere."""
        hits = statistics.diagonal()
        union = statistics.sum(0) + statistics.sum(1) - hits
        met = union > 0
        return 100 * float((hits[met] / union[met]).mean())

    def guessing(self, examples: Examples) -> float | None:
        """The most frequent class everywhere: its share, over the number of classes that there are."""
        counts = class_counts(examples)
        return 100 * float(counts.max() / counts.sum()) / int(counts.count_nonzero())
