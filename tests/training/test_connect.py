"""The line between two networks: closed forms, a network and its permutation, and running statistics, slowly."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.data import Dataset
from prunetune.sparsity.mask import Mask
from prunetune.training.evaluate import (
    PathScores,
    Score,
    barrier,
    evaluate,
    interpolated,
    recompute_statistics,
    score_path,
)
from prunetune.training.recipe import Recipe
from tests.support.train_makers import PRUNABLE, RECIPE, dataset, half_mask, network, run

CPU = torch.device("cpu")


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of networks with one output."""
    return ((outputs[:, 0] - targets) ** 2).mean()


REGRESSION = Recipe(1, 4, 0.1, loss=Ref.of(f"{__name__}:squares"))


def points_of(inputs: Tensor, labels: list[int]) -> Dataset:
    """Points of shape (n, features) as floating images, to train and to test on."""
    pairs = inputs[:, :, None, None], torch.tensor(labels)
    return Dataset.of("points", pairs, pairs, outputs=3)


# --- barriers ---------------------------------------------------------------------------------------------------


def test_a_barrier_is_measured_from_the_straight_line_between_the_ends():
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert barrier(alphas, (2.0, 2.0, 5.0, 3.5, 4.0)) == 2.0  # the chord: 2, 2.5, 3, 3.5, 4
    assert barrier(alphas, (2.0, 2.5, 3.0, 3.5, 4.0)) == 0.0
    assert barrier(alphas, (2.0, 1.0, 1.0, 1.0, 4.0)) == 0.0  # a valley is none
    assert math.isnan(barrier(alphas, (2.0, math.nan, 3.0, 3.0, 4.0)))
    assert math.isnan(barrier(alphas, (2.0, math.inf, 3.0, 3.0, 4.0)))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 2.3025851])
def test_a_constant_has_no_barrier_whatever_its_rounding(value: float):
    assert barrier(tuple(i / 10 for i in range(11)), (value,) * 11) == 0.0


def test_accuracy_falls_where_loss_rises():
    line = PathScores((0.0, 0.5, 1.0), (Score(90.0, 0.5), Score(60.0, 2.0), Score(80.0, 1.0)), (0, 0, 0))
    assert line.loss_barrier == 1.25
    assert line.score_barrier == 25.0
    better = PathScores((0.0, 0.5, 1.0), (Score(60.0, 1.0), Score(90.0, 0.1), Score(60.0, 1.0)), (0, 0, 0))
    assert (better.loss_barrier, better.score_barrier) == (0.0, 0.0)


def test_a_linear_model_with_squared_error_has_no_barrier():
    """Along the line the loss is a parabola: L(a) − chord(a) = −a (1 − a) mean((x · Δw)²)."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(20, 5, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 1, bias=False))
    first, second = ({"1.weight": torch.randn(1, 5, generator=generator)} for _ in range(2))
    line = score_path(model, first, second, None, points_of(inputs, [i % 3 for i in range(20)]), REGRESSION, 11)
    moved = (inputs.double() @ (second["1.weight"] - first["1.weight"]).double().T).square().mean().item()
    start, end = line.test[0].loss, line.test[-1].loss
    assert line.alpha == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    for alpha, score in zip(line.alpha, line.test, strict=True):
        chord = (1 - alpha) * start + alpha * end
        assert score.loss - chord == pytest.approx(-alpha * (1 - alpha) * moved, rel=1e-4, abs=1e-5)
    assert moved > 1
    assert line.loss_barrier == 0.0


def test_a_network_and_its_permutation_are_two_wells():
    """f(x) = v1 relu(w1 x) + v2 relu(w2 x): both ends are the same function, and half-way there is none left.

    At alpha < 1/2 with k = 1 − 2 alpha: w = (k, −k), v = (1 + alpha, 2 − alpha), so f(1) = k (1 + alpha) of the 1 that
    is wanted and f(−1) = k (2 − alpha) of 2; mirrored above. In the middle the loss is (1 + 4) / 2.
    """
    data = points_of(torch.tensor([[1.0], [-1.0]]), [1, 2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    first = {"1.weight": torch.tensor([[1.0], [-1.0]]), "3.weight": torch.tensor([[1.0, 2.0]])}
    second = {"1.weight": torch.tensor([[-1.0], [1.0]]), "3.weight": torch.tensor([[2.0, 1.0]])}
    line = score_path(model, first, second, None, data, REGRESSION, 11)
    assert line.test[0].loss == line.test[-1].loss == 0.0
    for alpha, score in zip(line.alpha, line.test, strict=True):
        near = min(alpha, 1 - alpha)
        k = 1 - 2 * near
        by_hand = ((1 - k * (1 + near)) ** 2 + (2 - k * (2 - near)) ** 2) / 2
        assert score.loss == pytest.approx(by_hand, abs=1e-6)
    assert line.loss_barrier == 2.5


# --- the networks on the line -----------------------------------------------------------------------------------


def test_between_is_exact_at_the_ends_and_where_both_agree():
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(500, generator=generator)
    first, second = (
        {"w": torch.randn(500, generator=generator), "same": same.clone(), "n": torch.tensor(n)} for n in (4, 9)
    )
    for alpha, end, count in ((0.0, first, 4), (1.0, second, 9)):
        found = interpolated(first, second, alpha)
        assert torch.equal(found["w"], end["w"])
        assert int(found["n"]) == count
    for alpha in (i / 10 for i in range(11)):
        found = interpolated(first, second, alpha)
        assert torch.equal(found["same"], same)
        slow = (1 - alpha) * first["w"].double() + alpha * second["w"].double()
        assert torch.allclose(found["w"].double(), slow, atol=1e-6)


def test_equal_ends_have_a_barrier_of_exactly_zero():
    state = run(mask=half_mask(network())).state
    line = score_path(network(1), state, state, None, dataset(), RECIPE, 11)
    assert len({score.loss for score in line.test}) == len({score.value for score in line.test}) == 1
    assert (line.loss_barrier, line.score_barrier) == (0.0, 0.0)


def test_pruned_weights_stay_zero_on_the_line_and_one_that_does_not_is_counted():
    mask = half_mask(network())
    first, second = (dict(run(network(0), mask=mask, order_seed=seed).state) for seed in (1, 5))
    assert score_path(network(1), first, second, mask, dataset(), RECIPE, 3).revived == (0, 0, 0)
    assert not torch.equal(first["3.weight"], second["3.weight"])
    second["3.weight"] = second["3.weight"].clone()
    second["3.weight"][~mask["3.weight"]] += 1e-30
    pruned = int((~mask["3.weight"]).sum())
    assert score_path(network(1), first, second, mask, dataset(), RECIPE, 3).revived == (0, pruned, pruned)
    assert set(mask) == set(PRUNABLE)


def test_without_running_statistics_the_ends_score_as_their_trainings_recorded():
    """To the last digit of the loss: the same weights in the same memory order."""

    def plain() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.Flatten(), nn.Linear(32 * 16, 4),
            )  # fmt: skip

    ends = [run(plain(), order_seed=seed) for seed in (1, 5)]
    line = score_path(plain(), ends[0].state, ends[1].state, None, dataset(), RECIPE, 5)
    assert (line.test[0], line.test[-1]) == (ends[0].test, ends[1].test)
    assert line.test[0] != line.test[-1]


# --- running statistics -----------------------------------------------------------------------------------------


def normed() -> nn.Sequential:
    """Two batch norms, one after the other's outputs have been through a ReLU and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2),
            nn.Flatten(), nn.Linear(2 * 4 * 4, 4),
        )  # fmt: skip


def slow_statistics(model: nn.Sequential, data: Dataset, batches: list[int]) -> list[np.ndarray]:
    """Mean and variance of both norms' inputs, in double precision by numpy, averaged over batches of these sizes."""
    pixels = data.train_images.double().numpy()
    inputs = (pixels / 255 - pixels.mean() / 255) / (pixels.std() / 255)
    weights = {name: tensor.detach().double().numpy() for name, tensor in model.named_parameters()}
    found = []
    for i, size in enumerate(batches):
        start = sum(batches[:i])
        first = slow_conv(inputs[start : start + size], weights["0.weight"], weights["0.bias"])
        mean, var = moments(first)
        hidden = np.maximum(normalised(first, mean, var, weights["1.weight"], weights["1.bias"]), 0)
        second = slow_conv(hidden, weights["4.weight"], weights["4.bias"])
        found.append([unbiased(mean, var, first), unbiased(*moments(second), second)])
    return [np.mean([batch[layer] for batch in found], axis=0) for layer in (0, 1)]


def slow_conv(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    height, width = images.shape[2] - 2, images.shape[3] - 2
    out = np.zeros((len(images), len(kernel), height, width)) + bias[None, :, None, None]
    for row in range(3):
        for column in range(3):
            window = images[:, :, row : row + height, column : column + width]
            out += np.einsum("nchw,oc->nohw", window, kernel[:, :, row, column])
    return out


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images.mean((0, 2, 3)), images.var((0, 2, 3))


def unbiased(mean: np.ndarray, var: np.ndarray, images: np.ndarray) -> list[np.ndarray]:
    count = images.size / images.shape[1]
    return [mean, var * count / (count - 1)]


def normalised(
    images: np.ndarray, mean: np.ndarray, var: np.ndarray, gain: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    across = (None, slice(None), None, None)
    return (images - mean[across]) / np.sqrt(var[across] + 1e-5) * gain[across] + shift[across]


@pytest.mark.parametrize(("count", "batches"), [(50, [50]), (1100, [367, 367, 366]), (2100, [410, 410, 410, 409, 409])])
def test_statistics_are_those_of_the_first_training_images(count: int, batches: list[int]):
    data = dataset(count)
    model = normed()
    for layer in (model[1], model[5]):
        layer.running_mean.fill_(7.0)  # type: ignore[union-attr, operator]
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    recompute_statistics(model, data, RECIPE, CPU)
    slow = slow_statistics(model, data, batches)
    for layer, (mean, var) in zip((model[1], model[5]), slow, strict=True):
        assert np.allclose(layer.running_mean.numpy(), mean, atol=1e-5)  # type: ignore[union-attr, operator]
        assert np.allclose(layer.running_var.numpy(), var, rtol=1e-4)  # type: ignore[union-attr, operator]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert not any(module.training for module in model.modules())


def test_the_variance_of_an_average_is_not_the_average_of_variances():
    """The artefact that the recomputation is for: a permuted network's hidden units cancel half-way."""
    data, first = dataset(), dict(normed().state_dict())
    order = torch.tensor([1, 2, 0])
    second = {name: t[order] if name[:2] in ("0.", "1.") and t.dim() else t for name, t in first.items()}
    second["4.weight"] = first["4.weight"][:, order]
    model = normed()
    stored: list[dict[str, Tensor]] = []
    for state in (first, second):
        model.load_state_dict(state)
        recompute_statistics(model, data, RECIPE, CPU)
        stored.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    one, other = stored
    walked = score_path(model, one, other, None, data, RECIPE, 3)
    assert walked.test[0].loss == pytest.approx(walked.test[2].loss, rel=1e-5)
    model.load_state_dict(interpolated(one, other, 0.5))
    averaged = model.state_dict()["1.running_var"].clone()
    stale = evaluate(model, data.test, data, RECIPE, CPU)
    recompute_statistics(model, data, RECIPE, CPU)
    assert (model.state_dict()["1.running_var"] < 0.9 * averaged).any()
    fresh = evaluate(model, data.test, data, RECIPE, CPU)
    assert walked.test[1].loss == pytest.approx(fresh.loss, rel=1e-5)
    assert abs(stale.loss - fresh.loss) > 1e-3


def test_nothing_is_drawn():
    state, mask = run().state, Mask({"3.weight": torch.ones(8, 4, 3, 3)})
    torch.manual_seed(0)
    before = torch.get_rng_state()
    score_path(network(1), state, run(order_seed=5).state, mask, dataset(), RECIPE, 2)
    assert torch.equal(torch.get_rng_state(), before)
    score_path(normed(), normed().state_dict(), normed().state_dict(), None, dataset(), RECIPE, 2)
    assert torch.equal(torch.get_rng_state(), before)
