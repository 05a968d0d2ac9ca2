"""What a network scores on examples that it was not trained on, and what the networks on a line between two score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunetune.data import Batch, Examples, TrainingData
from prunetune.data.examples import first_tensor, moved
from prunetune.sparsity.forward_pass import call
from prunetune.sparsity.mask import Mask
from prunetune.training.batches import example_inputs, heartbeat
from prunetune.training.numerics import autocast, choose_layout, enough_memory, reproducible
from prunetune.training.objective import Objective, metric_of, objective_of, user_errors
from prunetune.training.recipe import Recipe

BATCH = 500  # examples at a time; fixed, so that a score never depends on the recipe's batch size
MEMORY = f"evaluation: {BATCH} examples at a time", "run fewer trainings at once with --jobs, or a smaller model"


@dataclass(frozen=True)
class Score:
    """The task's metric over all examples, in its unit (of classification: accuracy in percent), and the mean loss."""

    value: float
    loss: float


def evaluate(
    model: nn.Module, examples: Examples, data: TrainingData, recipe: Recipe, device: torch.device | str
) -> Score:
    """Score `model`, which lies on `device`, on some examples of `data`, at least one, by the recipe's task.

    The model is in evaluation mode meanwhile, nothing of it is changed, and no random number is drawn. A batch's loss
    counts by its size. ConfigError when the user's loss or metric returns the wrong shape, or memory is short.
    """
    objective = objective_of(recipe)
    found, losses = _in_evaluation(model, examples, data, recipe, objective, torch.device(device), BATCH)
    statistics, loss = _rows(found, losses) if objective.rows else _sums(found, losses)
    return Score(_score(objective, statistics), float(loss) / len(examples))


def score_blocks(
    model: nn.Module, examples: Examples, data: TrainingData, recipe: Recipe, device: torch.device | str, blocks: int
) -> tuple[float, list[float]]:
    """The score on all examples, and without each of about so many blocks of consecutive ones, of at most `BATCH`."""
    objective, size = objective_of(recipe), min(BATCH, math.ceil(len(examples) / blocks))
    found, _ = _in_evaluation(model, examples, data, recipe, objective, torch.device(device), size)
    each = [statistics.cpu().double() for statistics in found]
    if objective.rows:
        whole, others = torch.cat(each), [torch.cat([*each[:i], *each[i + 1 :]]) for i in range(len(each))]
    else:
        whole = torch.stack(each).sum(0)
        others = [whole - own for own in each]
    return _score(objective, whole), [_score(objective, rest) for rest in others]


def _score(objective: Objective, statistics: Tensor) -> float:
    with user_errors("task: its score"):
        return float(objective.score(statistics))


def _in_evaluation(
    model: nn.Module,
    examples: Examples,
    data: TrainingData,
    recipe: Recipe,
    objective: Objective,
    device: torch.device,
    at_once: int,
) -> tuple[list[Tensor], list[Tensor]]:
    training = model.training
    model.eval()
    try:
        with reproducible(device), torch.no_grad(), enough_memory(*MEMORY):
            return _per_batch(model, examples, data, recipe, objective, device, at_once)
    finally:
        model.train(training)


def _per_batch(
    model: nn.Module,
    examples: Examples,
    data: TrainingData,
    recipe: Recipe,
    objective: Objective,
    device: torch.device,
    at_once: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """The statistics of every batch, and the sum of its losses, on the device."""
    prepare, found, losses = data.preparation(device), [], []
    for stored in examples.in_order(at_once):
        inputs, targets = moved(stored, device)
        batch = Batch(prepare(inputs), targets)
        count, first = len(first_tensor(batch.inputs)), first_tensor(batch.inputs)
        with autocast(recipe, device), user_errors(f"task: a batch of {count} cannot be scored: it", first):
            outputs = call(model, batch.inputs)
            statistics, mean = objective.statistics(outputs, batch), objective.loss(outputs, batch)
        found.append(statistics)
        losses.append(mean.to(statistics.dtype) * count)
        heartbeat()
    return found, losses


def _sums(found: Sequence[Tensor], losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Statistics and losses added up in double precision on the CPU, where the device is waited for once."""
    totals = [torch.cat([one.flatten(), loss.view(1)]) for one, loss in zip(found, losses, strict=True)]
    *statistics, loss = torch.stack(totals).cpu().double().sum(0)
    return torch.stack(statistics).view(found[0].shape), loss


def _rows(found: Sequence[Tensor], losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Statistics one below the other, and the losses added up."""
    return torch.cat(list(found)).cpu().double(), torch.stack(list(losses)).cpu().double().sum()


IMAGES = 2048  # training images, the first ones, over which running statistics are recomputed

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class PathScores:
    """What the networks between two ends score, an entry for each `alpha` from 0 to 1.

    Linear mode connectivity: Frankle et al. 2020 (arXiv 1912.05671).
    """

    alpha: tuple[float, ...]
    test: tuple[Score, ...]
    revived: tuple[int, ...]  # pruned positions of the live network that are not zero: 0, or something is broken
    higher_is_better: bool = True  # of the score

    @property
    def loss_barrier(self) -> float:
        """The most by which the test loss lies above the straight line between its two ends."""
        return barrier(self.alpha, [score.loss for score in self.test])

    @property
    def score_barrier(self) -> float:
        """The most by which the test score is worse than the straight line between its two ends, in its unit."""
        sign = -1 if self.higher_is_better else 1
        return barrier(self.alpha, [sign * score.value for score in self.test])


def score_path(
    model: nn.Module,
    first: State,
    second: State,
    mask: Mask | None,
    data: TrainingData,
    recipe: Recipe,
    points: int,
    device: torch.device | str = "cpu",
) -> PathScores:
    """Score the networks (1 − alpha) · `first` + alpha · `second` on the test images, at `points` ≥ 2 equal distances.

    Running statistics are recomputed at every alpha, 0 and 1 too, because the average of two running variances is not
    the variance in the averaged network: with interpolated statistics, units that the average has quietened are
    scaled by a variance that they no longer have, and a barrier appears that the weights do not have. So the ends
    score a little otherwise than the trainings recorded, unless the network keeps no running statistics. `model` holds
    the last network afterwards. Draws no random number.
    """
    where = torch.device(device)
    alphas = tuple(i / (points - 1) for i in range(points))
    scores, revived = [], []
    with reproducible(where):
        choose_layout(model.to(where), example_inputs(data, where))
        for alpha in alphas:
            model.load_state_dict(interpolated(first, second, alpha))
            recompute_statistics(model, data, recipe, where)
            scores.append(evaluate(model, data.test, data, recipe, where))
            revived.append(_revived(model, mask) if mask is not None else 0)
    return PathScores(alphas, tuple(scores), tuple(revived), metric_of(recipe).higher_is_better)


def interpolated(first: State, second: State, alpha: float) -> dict[str, Tensor]:
    """(1 − alpha) · first + alpha · second, exact at both ends and where both agree; what is no float: the nearer's."""
    return {
        name: torch.lerp(start, second[name], alpha)
        if start.is_floating_point()
        else (start if alpha < 0.5 else second[name])
        for name, start in first.items()
    }


def recompute_statistics(model: nn.Module, data: TrainingData, recipe: Recipe, device: torch.device) -> None:
    """Set every layer's running statistics to their plain mean over batches of the first `IMAGES` training images.

    The images are unaugmented, in batches as equal as can be, since each counts alike. Layers with running statistics
    are in training mode, so that each sees what the batch's own moments make of the layers before it; all others are
    in evaluation mode, as they will be when the network is scored. Does nothing where no layer keeps statistics.
    """
    layers = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if not layers:
        return
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's cumulative average
        layer.train()
    count = min(IMAGES, len(data.train))
    parts = torch.arange(count).tensor_split(-(-count // BATCH))
    gather, prepare = data.train.reader(parts, 0), data.preparation(device)
    with torch.no_grad(), autocast(recipe, device):
        for part in parts:
            call(model, prepare(moved(gather(part), device).inputs))
    model.eval()


def barrier(alphas: Sequence[float], values: Sequence[float]) -> float:
    """max over alpha of v(alpha) − ((1 − alpha) v(0) + alpha v(1)): 0 or more, as it is 0 at the ends.

    Exactly 0 for a constant. NaN where a value is not finite.

    >>> barrier((0.0, 0.5, 1.0), (1.0, 4.0, 3.0)), barrier((0.0, 0.5, 1.0), (1.0, 0.0, 3.0))
    (2.0, 0.0)
    """
    if not all(map(math.isfinite, values)):
        return math.nan
    start, end = values[0], values[-1]
    chord = [start + a * (end - start) if a < 0.5 else end - (1 - a) * (end - start) for a in alphas]
    return max(value - straight for value, straight in zip(values, chord, strict=True))


def _revived(model: nn.Module, mask: Mask) -> int:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return sum(int(parameters[name].detach().cpu()[~kept].count_nonzero()) for name, kept in mask.items())
