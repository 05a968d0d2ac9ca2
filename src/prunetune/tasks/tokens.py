"""One class a token: of a sequence's own tokens, or the next token of a language model."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
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

_EACH = "one class a token, int64 of shape (N, length), −100 where none counts"


class TokenClassification:
    """Logits of shape (N, length, classes) for targets of shape (N, length), int64; a target of −100 is ignored."""

    metric: ClassVar[Metric] = Metric("token accuracy", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)
    mean_of_examples = False  # but of pixels or tokens

    def outputs(self, examples: Examples) -> int:
        """The number of classes."""
        for targets in target_batches(examples):
            require_targets("token_classification", targets, 2, _EACH)
        return 1 + highest_class(examples)

    def logits(self, outputs: Any) -> Tensor:
        """Of every token: shape (N, classes, length)."""
        return predictions(outputs).transpose(1, 2)

    def classes(self, batch: Batch) -> Tensor:
        """The tokens' classes."""
        return batch.targets

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy, the mean over tokens that are not ignored."""
        return mean_cross_entropy(self.logits(outputs), self.classes(batch))

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """The number of tokens that are right, and of those that count."""
        counted = batch.targets != IGNORED
        right = (predictions(outputs).argmax(-1) == batch.targets) & counted
        return precise(torch.stack([right.sum(), counted.sum()]))

    def score(self, statistics: Tensor) -> float:
        """The share that is right, in percent; NaN where no token counts."""
        right, count = statistics.tolist()
        return 100 * right / count if count else math.nan

    def guessing(self, examples: Examples) -> float | None:
        """The share of the most frequent class, in percent."""
        counts = class_counts(examples)
        return 100 * float(counts.max() / counts.sum())


class CausalLM:
    """Logits of shape (N, length, vocabulary) for the tokens themselves as targets, shape (N, length), int64.

    Position t predicts target t + 1, so that the first target counts nowhere; a target of −100 is ignored (padding).
    """

    metric: ClassVar[Metric] = Metric("perplexity", "", "", higher_is_better=False, margin=0.5, gap=0.5)
    mean_of_examples = False  # but of pixels or tokens

    def outputs(self, examples: Examples) -> int:
        """The size of the vocabulary, as far as it is used."""
        for targets in target_batches(examples):
            require_targets("causal_lm", targets, 2, _EACH)
        return 1 + highest_class(examples)

    def logits(self, outputs: Any) -> Tensor:
        """Of every position but the last: shape (N, vocabulary, length − 1)."""
        return predictions(outputs)[:, :-1].transpose(1, 2)

    def classes(self, batch: Batch) -> Tensor:
        """Every token but the first."""
        return batch.targets[:, 1:]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy of the next token, the mean over tokens that are not ignored."""
        return mean_cross_entropy(self.logits(outputs), self.classes(batch))

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """The sum of the tokens' cross entropies in nats, and how many they are."""
        targets = self.classes(batch)
        losses = F.cross_entropy(self.logits(outputs).float(), targets, ignore_index=IGNORED, reduction="none")
        return torch.stack([precise(losses).sum(), precise((targets != IGNORED).sum())])

    def score(self, statistics: Tensor) -> float:
        """exp of the mean cross entropy over all tokens; infinite where that is too large for a number."""
        total, count = statistics.tolist()
        mean = total / count if count else math.nan
        return math.exp(mean) if mean < 700 else math.inf

    def guessing(self, examples: Examples) -> float | None:
        """The perplexity of the tokens' own frequencies, whatever came before."""
        counts = class_counts(examples, skip=1)
        shares = counts[counts > 0] / counts.sum()
        return math.exp(-float((shares * shares.log()).sum()))
