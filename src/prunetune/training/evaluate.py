"""What a network scores on images that it was not trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunetune.data import Dataset
from prunetune.training.batches import normaliser
from prunetune.training.heartbeat import beat
from prunetune.training.numerics import autocast, enough_memory, reproducible
from prunetune.training.objective import loss_of, metric_of
from prunetune.training.recipe import Recipe

BATCH = 500  # images at a time; fixed, so that a score never depends on the recipe's batch size
MEMORY = f"evaluation: {BATCH} images at a time", "run fewer trainings at once with --jobs, or a smaller model"


@dataclass(frozen=True)
class Score:
    """`accuracy` in percent (100 times the mean of the user's metric, if there is one) and the mean `loss`."""

    accuracy: float
    loss: float


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset, recipe: Recipe, device: torch.device | str
) -> Score:
    """Score `model`, which lies on `device`, on images (N, C, H, W) as stored and their labels (N,); N at least 1.

    The model is in evaluation mode meanwhile, nothing of it is changed, and no random number is drawn. A batch's loss
    counts by its size. ConfigError when the user's loss or metric returns the wrong shape, or memory is short.
    """
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        with reproducible(device), torch.no_grad(), enough_memory(*MEMORY):
            totals = _totals(model, images, labels, dataset, recipe, device)
    finally:
        model.train(training)
    right, loss = totals.double().sum(0).tolist()
    return Score(100 * right / len(labels), loss / len(labels))


def _totals(
    model: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset, recipe: Recipe, device: torch.device
) -> Tensor:
    """Sums of the scores and of the losses per batch, shape (batches, 2), on the CPU."""
    loss, metric, normalise = loss_of(recipe), metric_of(recipe), normaliser(dataset, device)
    totals = []
    for batch, targets in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        targets = targets.to(device)
        with autocast(recipe, device):
            outputs = model(normalise(batch.to(device)))
            scores, mean = metric(outputs, targets), loss(outputs, targets)
        totals.append(torch.stack([scores.float().sum(), mean.float() * len(targets)]))
        beat()
    return torch.stack(totals).cpu()
