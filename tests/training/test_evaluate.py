"""Scores, with the built-in and with a user's loss and metric."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.data import Dataset
from prunetune.training.evaluate import BATCH, Score, evaluate, score_blocks
from tests.support.refusals import refused
from tests.support.train_makers import RECIPE, dataset, network

LABELS = torch.tensor([0, 1, 2, 2])
OUTPUTS = torch.tensor([[3.0, 1, 0], [0, 2, 1], [5, 4, 3], [0, 2, 2.5]])  # right, right, third guess, right


class Recall(nn.Module):
    """A network that gives the outputs that it was fed, and drops half of them while it is trained."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(images.flatten(1), training=self.training)


def recalled(outputs: Tensor, labels: Tensor) -> Dataset:
    images = outputs.view(*outputs.shape, 1, 1)
    return Dataset.of("outputs", (images, labels), (images, labels))


def score(outputs: Tensor = OUTPUTS, labels: Tensor = LABELS, **changes: Ref) -> Score:
    data = recalled(outputs, labels)
    return evaluate(Recall(), data.test, data, replace(RECIPE, **changes), "cpu")  # type: ignore[arg-type]


def test_by_hand() -> None:
    losses = [
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(OUTPUTS.tolist(), LABELS.tolist(), strict=True)
    ]
    result = score()
    assert result.value == 75.0
    assert result.loss == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_many_batches_count_by_their_size() -> None:
    n = 2 * BATCH + 1
    outputs = torch.zeros(n, 2)
    outputs[-1, 1] = 7.0  # the odd one of the last batch: the only one that is right
    result = score(outputs, torch.ones(n, dtype=torch.int64))
    assert result.value == pytest.approx(100 / n, rel=1e-9)
    assert result.loss == pytest.approx((2 * BATCH * math.log(2) + math.log1p(math.exp(-7))) / n, rel=1e-6)


@pytest.mark.parametrize(("blocks", "sizes"), [(2, [4, 3]), (3, [3, 3, 1]), (50, [1] * 7)])
def test_without_each_block_the_others_are_scored(blocks: int, sizes: list[int]) -> None:
    right = [True, False, True, True, False, False, True]
    outputs = torch.tensor([[0.0, 1.0] if one else [1.0, 0.0] for one in right])
    data = recalled(outputs, torch.ones(7, dtype=torch.int64))
    whole, others = score_blocks(Recall(), data.test, data, RECIPE, "cpu", blocks)
    assert whole == pytest.approx(100 * 4 / 7)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    left = [right[:start] + right[start + size :] for start, size in zip(starts, sizes, strict=True)]
    assert others == pytest.approx([100 * sum(rest) / len(rest) for rest in left])


def test_users_loss_and_metric() -> None:
    result = score(
        loss=Ref.of("tests.support.train_makers:hinge", {"margin": 2.0}),
        metric=Ref.of("tests.support.train_makers:top_two"),
    )
    # Of the third image no guess of the first two is right.
    assert result.value == pytest.approx(75.0)
    assert score(metric=Ref.of("tests.support.train_makers:top_two"), labels=torch.tensor([1, 1, 2, 2])).value == 62.5
    hinges = [(0 + 0) / 3, (0 + 1) / 3, (4 + 3) / 3, (0 + 1.5) / 3]
    assert result.loss == pytest.approx(sum(hinges) / 4, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "name", "words"),
    [
        (
            "loss",
            "vector_loss",
            ("recipe.loss", "(4,)", "vector_loss", "scalar"),
        ),
        (
            "metric",
            "scalar_metric",
            ("recipe.metric", "scalar_metric", "returned"),
        ),
        ("metric", "number_metric", ("recipe.metric", "returned")),
        ("metric", "nowhere", ("recipe.metric", "tests.support.train_makers:nowhere", "import")),
    ],
)
def test_wrong_callables_are_named(field: str, name: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        score(**{field: Ref.of(f"tests.support.train_makers:{name}")})  # type: ignore[arg-type]


def test_an_exploded_network_scores_nan_loss() -> None:
    result = score(OUTPUTS * math.nan)
    assert math.isnan(result.loss)
    assert result.value <= 100


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_or_the_process_is_changed(training: bool) -> None:
    data, model = dataset(), network().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    first = evaluate(model, data.test, data, RECIPE, "cpu")
    assert first == evaluate(model, data.test, data, RECIPE, "cpu")
    assert model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert all(p.grad is None for p in model.parameters())
