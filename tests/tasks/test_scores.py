"""Losses and scores of every task, against loops written out and scikit-learn, over batches of uneven sizes."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, r2_score
from torch import Tensor

from prunetune.data import Batch, TensorExamples
from prunetune.tasks import TASKS, predictions
from prunetune.tasks.task import IGNORED
from tests.support.refusals import refused
from tests.support.task_makers import draws

N, CUTS = 23, (0, 7, 8, 20, 23)
Case = tuple[Tensor, Tensor]  # outputs and targets of N examples


def classes(*shape: int, ignored: bool = True) -> Tensor:
    """Classes 0 to 3 (never 2, so that one class is no target), some of them ignored."""
    drawn = torch.randint(0, 4, shape, generator=draws(5))
    drawn[drawn == 2] = 1
    if ignored:
        drawn[torch.rand(shape, generator=draws(6)) < 0.2] = IGNORED
    return drawn


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=draws(7))


CASES: dict[str, Case] = {
    "classification": (noise(N, 4), classes(N, ignored=False)),
    "multilabel": (noise(N, 3), (torch.rand(N, 3, generator=draws(8)) < torch.tensor([0.5, 0.2, 0.0])).float()),
    "regression": (noise(N, 2), 3 + noise(N, 2).flip(0) * torch.tensor([1.0, 20.0])),
    "segmentation": (noise(N, 4, 3, 5), classes(N, 3, 5)),
    "token_classification": (noise(N, 6, 4), classes(N, 6)),
    "causal_lm": (noise(N, 6, 4), classes(N, 6)),
}


def pairs(case: Case, next_token: bool = False) -> list[tuple[list[float], int]]:
    """Logits and class of every target that counts, one by one."""
    outputs, targets = case
    if outputs.dim() == 4:
        outputs, targets = outputs.permute(0, 2, 3, 1).flatten(1, 2), targets.flatten(1)
    if next_token:
        outputs, targets = outputs[:, :-1], targets[:, 1:]
    found = zip(outputs.reshape(-1, outputs.shape[-1]).tolist(), targets.flatten().tolist(), strict=True)
    return [(logits, target) for logits, target in found if target != IGNORED]


def surprise(logits: list[float], target: int) -> float:
    return math.log(math.fsum(map(math.exp, logits))) - logits[target]


def mean_surprise(case: Case, next_token: bool = False) -> float:
    found = [surprise(*pair) for pair in pairs(case, next_token)]
    return math.fsum(found) / len(found)


def predicted(case: Case) -> tuple[list[int], list[int]]:
    """The targets that count, and what is predicted for each."""
    found = pairs(case)
    return [target for _, target in found], [logits.index(max(logits)) for logits, _ in found]


def binary(case: Case) -> float:
    total = 0.0
    for logits, wanted in zip(case[0].tolist(), case[1].tolist(), strict=True):
        for logit, label in zip(logits, wanted, strict=True):
            chance = 1 / (1 + math.exp(-logit))
            total -= math.log(chance if label else 1 - chance)
    return total / case[0].numel()


def squares(case: Case) -> float:
    found, wanted = (side.flatten().tolist() for side in case)
    return math.fsum((a - b) ** 2 for a, b in zip(found, wanted, strict=True)) / len(found)


LOSSES: dict[str, Callable[[Case], float]] = {
    "classification": mean_surprise,
    "multilabel": binary,
    "regression": lambda case: (
        sum((a - b) ** 2 for a, b in zip(*(x.flatten().tolist() for x in case), strict=True)) / 46
    ),
    "segmentation": mean_surprise,
    "token_classification": mean_surprise,
    "causal_lm": lambda case: mean_surprise(case, next_token=True),
}

zero: Any = 0  # scikit-learn's stubs want a text

SCORES: dict[str, Callable[[Case], float]] = {
    "classification": lambda case: 100 * accuracy_score(*predicted(case)),
    "multilabel": lambda case: 100 * f1_score(case[1], case[0] > 0, average="macro", zero_division=zero),
    "regression": lambda case: 100 * math.sqrt(1 - r2_score(case[1], case[0], multioutput="variance_weighted")),
    "segmentation": lambda case: 100 * jaccard_score(*predicted(case), average="macro"),
    "token_classification": lambda case: 100 * accuracy_score(*predicted(case)),
    "causal_lm": lambda case: math.exp(mean_surprise(case, next_token=True)),
}


def score(task: str, outputs: Any, targets: Tensor) -> float:
    """Statistics of uneven batches, added up."""
    parts = [slice(*cut) for cut in pairwise(CUTS)]
    statistics = [TASKS[task].statistics(outputs[part], Batch(None, targets[part])).double() for part in parts]
    return TASKS[task].score(torch.stack(statistics).sum(0))


def test_every_task_is_here() -> None:
    assert set(TASKS) == {*CASES, "detection"}  # which has its own tests


@pytest.mark.parametrize("task", CASES)
def test_the_loss_is_that_of_a_loop_over_all_targets(task: str) -> None:
    outputs, targets = CASES[task]
    assert float(TASKS[task].loss(outputs, Batch(None, targets))) == pytest.approx(LOSSES[task](CASES[task]), rel=1e-5)


@pytest.mark.parametrize("task", CASES)
def test_the_score_is_exact_over_all_examples_however_they_are_batched(task: str) -> None:
    assert score(task, *CASES[task]) == pytest.approx(SCORES[task](CASES[task]), rel=1e-6)


@pytest.mark.parametrize("task", CASES)
def test_better_outputs_score_better_in_the_metrics_direction(task: str) -> None:
    outputs, targets = CASES[task]
    where = targets.clamp(min=0)
    better = {
        "multilabel": lambda: outputs + 3 * (2 * targets - 1),
        "regression": lambda: (outputs + targets) / 2,
        "segmentation": lambda: outputs + 3 * torch.nn.functional.one_hot(where, 4).permute(0, 3, 1, 2),
        "causal_lm": lambda: outputs + 3 * torch.nn.functional.one_hot(where.roll(-1, 1), 4),
    }.get(task, lambda: outputs + 3 * torch.nn.functional.one_hot(where, 4))()
    metric = TASKS[task].metric
    assert metric.oriented(score(task, better, targets)) > metric.oriented(score(task, outputs, targets))


def blind(task: str, targets: Tensor) -> Tensor:
    """The outputs of a network that looks at no input."""
    if task == "multilabel":
        return torch.ones_like(targets)
    if task == "regression":
        return targets.mean(0).expand_as(targets)
    counted = (targets[:, 1:] if task == "causal_lm" else targets).flatten()
    shares = torch.bincount(counted[counted != IGNORED], minlength=4).double()
    logits = (shares / shares.sum()).log().clamp(min=-700)
    alike = logits.expand(*targets.shape, 4)
    return alike.permute(0, 3, 1, 2) if task == "segmentation" else alike


@pytest.mark.parametrize("task", CASES)
def test_guessing_is_what_a_network_scores_that_looks_at_no_input(task: str) -> None:
    targets = CASES[task][1]
    guessed = TASKS[task].guessing(TensorExamples(targets, targets))
    assert guessed == pytest.approx(score(task, blind(task, targets), targets), rel=1e-6)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [("classification", 4), ("multilabel", 3), ("regression", 2), ("segmentation", 4), ("causal_lm", 4)],
)
def test_the_number_of_outputs_follows_from_the_targets(task: str, wanted: int) -> None:
    assert TASKS[task].outputs(TensorExamples(CASES[task][1], CASES[task][1])) == wanted


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("targets", [torch.full((4, 2, 2, 2), 0.5), torch.tensor([[[-3]]])])
def test_targets_of_another_kind_are_refused(task: str, targets: Tensor) -> None:
    with refused("task", task):
        TASKS[task].outputs(TensorExamples(targets, targets))


@pytest.mark.parametrize("targets", [torch.ones(1), torch.full((600,), 2.0), torch.ones(4, 2)])
def test_numbers_that_are_all_alike_are_refused_as_no_error_is_relative_to_them(targets: Tensor) -> None:
    with refused("task", "regression", "all"):
        TASKS["regression"].outputs(TensorExamples(targets, targets))


def test_a_class_below_zero_is_refused_and_an_ignored_token_is_not() -> None:
    tokens = torch.tensor([[0, 1, IGNORED]])
    assert TASKS["token_classification"].outputs(TensorExamples(tokens, tokens)) == 2
    with refused("task", "token_classification", -1):
        TASKS["token_classification"].outputs(TensorExamples(tokens[:, :2] - 1, tokens[:, :2] - 1))
    with refused("task", "classification", IGNORED):
        TASKS["classification"].outputs(TensorExamples(tokens[0], tokens[0]))


@pytest.mark.parametrize(("task", "shape"), [("regression", (N, 3)), ("regression", (2,)), ("multilabel", (N, 2))])
def test_two_shapes_are_never_stretched_to_fit_each_other(task: str, shape: tuple[int, ...]) -> None:
    with refused("model", shape):
        TASKS[task].loss(torch.zeros(shape), Batch(None, CASES[task][1]))


@pytest.mark.parametrize("columns", [(), (1,)])
def test_one_number_an_example_may_be_a_column_or_not(columns: tuple[int, ...]) -> None:
    targets = noise(N)
    loss = TASKS["regression"].loss(torch.zeros(N, *columns), Batch(None, targets))
    assert float(loss) == pytest.approx(float(targets.square().mean()))


def test_a_batch_whose_targets_are_all_ignored_weighs_nothing() -> None:
    outputs = noise(2, 6, 4).requires_grad_()
    loss = TASKS["token_classification"].loss(outputs, Batch(None, torch.full((2, 6), IGNORED)))
    loss.backward()
    assert loss.item() == 0.0
    assert outputs.grad is not None
    assert not outputs.grad.any()


@pytest.mark.parametrize("task", ["token_classification", "causal_lm"])
def test_a_score_without_a_token_that_counts_is_no_number(task: str) -> None:
    assert not math.isfinite(TASKS[task].score(torch.zeros(2)))


def test_predictions_are_a_tensor_or_stand_under_logits() -> None:
    one, two = noise(2), noise(3)
    assert predictions(one) is predictions({"logits": one, "hidden": two}) is predictions({"hidden": one}) is one
    with refused("model", "logits"):
        predictions({"first": one, "second": two})
    with refused("model", "tuple"):
        predictions((one, two))
