"""Which task a study has: its name in a spec, the metric that the verdict is read in, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.metric import ACCURACY, Metric
from prunetune.core.references import Ref
from prunetune.data import Batch, Examples
from prunetune.data.parts import from_mapping
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec
from prunetune.tasks import TASKS
from prunetune.training.loop import train
from prunetune.training.recipe import Recipe
from tests.support.refusals import refused

HERE = __name__


class Absolute:
    """A task of one's own: the mean absolute error."""

    metric: ClassVar[Metric] = Metric("MAE", "kg", "kg", higher_is_better=False, margin=2.0, gap=3.0)

    def outputs(self, examples: Examples) -> int:
        return 1

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return (outputs[:, 0] - batch.targets).abs().mean()

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        errors = (outputs[:, 0] - batch.targets).abs()
        return errors.new_tensor([float(errors.sum()), len(errors)])

    def score(self, statistics: Tensor) -> float:
        return float(statistics[0] / statistics[1])

    def guessing(self, examples: Examples) -> float | None:
        return None


class Countless(Absolute):
    def outputs(self, examples: Examples) -> Any:
        return None


class OutputsFail(Absolute):
    def outputs(self, examples: Examples) -> int:
        raise KeyError("column")


class LossFails(Absolute):
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        raise KeyError("column")


class StatisticsAreAList(Absolute):
    def statistics(self, outputs: Any, batch: Batch) -> Any:
        return [1.0, 2.0]


class ScoreFails(Absolute):
    def score(self, statistics: Tensor) -> float:
        raise KeyError("column")


class LossWithoutGradient(Absolute):
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return super().loss(outputs, batch).detach()


class LossFailsLater(Absolute):
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        if len(batch.targets) == 4:
            raise KeyError("column")
        return super().loss(outputs, batch)


class GuessingFails(Absolute):
    def guessing(self, examples: Examples) -> float | None:
        raise KeyError("column")


class GuessesAText(Absolute):
    def guessing(self, examples: Examples) -> Any:
        return "much"


def unfinished() -> object:
    return object()


def failing() -> object:
    raise OSError("no disk")


def spec(**fields: Any) -> Spec:
    return load_spec({"model": "small", "data": "fashion-mini", **fields})


def test_nothing_said_is_classification_and_is_not_named() -> None:
    assert spec().metric == spec(task="classification").metric == ACCURACY
    assert "task" not in spec(task="classification").resolved()


@pytest.mark.parametrize("task", list(TASKS))
def test_margin_and_gap_are_the_metrics_where_they_are_not_given(task: str) -> None:
    made, metric = spec(task=task), TASKS[task].metric
    assert (made.metric, made.verdict.margin, made.verdict.gap) == (metric, metric.margin, metric.gap)
    given = spec(task=task, verdict={"gap": 0.25})
    assert (given.verdict.margin, given.verdict.gap) == (metric.margin, 0.25)
    assert load_spec(made.resolved()).resolved() == made.resolved()


def test_a_task_of_ones_own_is_called_for() -> None:
    made = spec(task=f"{HERE}:Absolute")
    assert (made.metric.name, made.verdict.margin, made.verdict.gap) == ("MAE", 2.0, 3.0)


@pytest.mark.parametrize(
    ("task", "mentions"),
    [
        ("regresion", ["regresion", "regression"]),
        ("nowhere.at:all", ["nowhere.at:all"]),
        (f"{HERE}:unfinished", ["metric", "score"]),
        (f"{HERE}:failing", ["OSError", "no disk"]),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(task: str, mentions: list[str]) -> None:
    with refused("task", *mentions):
        spec(task=task)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", None),
        ("name", "a\nb"),
        ("unit", None),
        ("difference_unit", 3),
        ("higher_is_better", None),
    ],
)
def test_a_metric_that_cannot_be_read_is_refused_where_it_is_made(field: str, value: Any) -> None:
    with refused(f"metric.{field}", repr(value)):
        replace(Absolute.metric, **{field: value})


def test_a_margin_may_be_above_100_where_the_unit_is_no_percentage() -> None:
    assert spec(task="causal_lm", verdict={"margin": 250}).verdict.margin == 250
    with refused("verdict.margin", 250, 100):
        spec(task="multilabel", verdict={"margin": 250})


def test_a_metric_of_ones_own_belongs_to_classification() -> None:
    with refused("recipe.metric", "regression"):
        spec(task="regression", recipe={"metric": f"{HERE}:failing"})


def test_the_spec_page_says_of_every_task_what_its_metric_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "spec.md").read_text()
    for name, metric in ((name, TASKS[name].metric) for name in TASKS):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        shown = f"{metric.name}, {metric.unit}".rstrip(", ")
        better = "higher" if metric.higher_is_better else "lower"
        assert row.endswith(f"| {shown} | {better} | {metric.margin:g}, {metric.gap:g} |")


@pytest.mark.parametrize(
    ("task", "mentions"),
    [
        ("ScoreFails", ["score", "KeyError"]),
        ("LossWithoutGradient", ["gradient"]),
        ("LossFailsLater", ["batch of 4", "KeyError"]),
    ],
)
def test_what_goes_wrong_in_a_task_while_training_is_one_line(task: str, mentions: list[str]) -> None:
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.1, task=Ref.of(f"{HERE}:{task}"))
    part = torch.randn(12, 3), torch.randn(12)
    data, _ = from_mapping({"train": part, "test": part}, "rows")
    with refused("task", *mentions):
        train(nn.Linear(3, 1), data, recipe, order_seed=0, augment_seed=0)
