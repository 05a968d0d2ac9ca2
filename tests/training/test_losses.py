"""A batch in parts, smoothed labels and a teacher: against whole batches, torch's own and loops by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.data import Batch
from prunetune.data.parts import from_mapping
from prunetune.execution.run_step import execute
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Train
from prunetune.store.layout import state_file
from prunetune.store.store import Store
from prunetune.tasks.task import IGNORED
from prunetune.training.loop import Trained, train
from prunetune.training.objective import objective_of, training_loss
from prunetune.training.recipe import Distill, Recipe, Schedule
from tests.support import task_makers
from tests.support.refusals import refused
from tests.support.study_specs import spec
from tests.support.train_makers import COUNT, dataset

RECIPE = Recipe(3, 16, 0.3, schedule=Schedule("constant"))
N, CLASSES = 12, 4


def normless(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def images(recipe: Recipe, **options: Any) -> Trained:
    return train(normless(), dataset(), recipe, order_seed=1, augment_seed=2, **options)


def assert_alike(one: Trained, two: Trained) -> None:
    """Up to rounding: sums are taken in another order."""
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5)
    for name, value in one.state.items():
        torch.testing.assert_close(value, two.state[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 5, 16])
@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.3}, {"augment": ("crop", "flip")}, {"label_smoothing": 0.2}])
def test_a_batch_in_parts_is_the_whole_batch(parts: int, changes: dict[str, Any]) -> None:
    """The last batch has two images: fewer than there are parts."""
    assert COUNT % RECIPE.batch_size == 2
    recipe = replace(RECIPE, **changes)
    whole, accumulated = images(recipe), images(replace(recipe, accumulate=parts))
    assert accumulated.steps == whole.steps
    assert_alike(accumulated, whole)


def test_parts_count_by_the_tokens_that_count_in_them() -> None:
    """A mean over tokens of a batch whose parts have more and fewer of them is no mean of the parts' means."""
    data = from_mapping(task_makers.counting(), "counting")[0]
    targets = data.train.gather(torch.arange(len(data.train))).targets
    assert len({int((row != IGNORED).sum()) for row in targets}) > 1
    found = []
    for parts in (None, 3):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = task_makers.language_model(12)
        recipe = replace(RECIPE, task=Ref.of("causal_lm"), accumulate=parts)
        found.append(train(model, data, recipe, order_seed=1, augment_seed=2))
    assert_alike(*found)


def logits(seed: int) -> Tensor:
    return torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(seed), requires_grad=True)


BATCH = Batch(torch.zeros(N, 1), torch.arange(N) % CLASSES)


@pytest.mark.parametrize("epsilon", [0.1, 0.7])
def test_smoothed_labels_are_torchs(epsilon: float) -> None:
    outputs = logits(0)
    found = training_loss(replace(RECIPE, label_smoothing=epsilon))(outputs, BATCH)
    torch.testing.assert_close(found, F.cross_entropy(outputs, BATCH.targets, label_smoothing=epsilon))
    plain = objective_of(replace(RECIPE, label_smoothing=epsilon)).loss(outputs, BATCH)
    torch.testing.assert_close(plain, F.cross_entropy(outputs, BATCH.targets), rtol=0, atol=0)


def test_smoothed_pixels_and_tokens_leave_out_what_is_ignored() -> None:
    targets = torch.randint(0, CLASSES, (N, 6), generator=torch.Generator().manual_seed(3))
    targets[:, 2] = IGNORED
    outputs = torch.randn(N, 6, CLASSES, generator=torch.Generator().manual_seed(4))
    kept = [i for i in range(6) if i != 2]
    wanted = {
        "token_classification": (outputs[:, kept], targets[:, kept]),
        "causal_lm": (outputs[:, [0, 2, 3, 4]], targets[:, [1, 3, 4, 5]]),
    }
    for task, (rows, classes) in wanted.items():
        found = training_loss(replace(RECIPE, task=Ref.of(task), label_smoothing=0.1))(outputs, Batch(outputs, targets))
        value = F.cross_entropy(rows.reshape(-1, CLASSES), classes.reshape(-1), label_smoothing=0.1)
        torch.testing.assert_close(found, value)


def softened(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


@pytest.mark.parametrize(("weight", "temperature"), [(0.25, 1.0), (0.9, 3.0), (1.0, 0.5)])
def test_a_teachers_part_is_the_loop_by_hand(weight: float, temperature: float) -> None:
    student, told = logits(0), logits(1)

    class Teacher(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return 1 * told

    found = training_loss(replace(RECIPE, distill=Distill(weight, temperature)), Teacher())(student, BATCH)
    own, taught = [], []
    for row, other, target in zip(student.tolist(), told.tolist(), BATCH.targets.tolist(), strict=True):
        own.append(-math.log(softened(row, 1)[target]))
        p, q = softened(other, temperature), softened(row, temperature)
        taught.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    wanted = (1 - weight) * math.fsum(own) / N + weight * temperature**2 * math.fsum(taught) / N
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert student.grad is not None
    assert told.grad is None


def test_a_teacher_is_heard_and_left_as_it_is() -> None:
    recipe, teacher = replace(RECIPE, distill=Distill(1.0, 2.0)), normless(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    taught, other = images(recipe, teacher=teacher), images(recipe, teacher=normless(2))
    assert not any(torch.equal(taught.state[name], other.state[name]) for name in taught.state)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert_alike(images(replace(recipe, accumulate=4), teacher=teacher), taught)
    own = images(replace(recipe, distill=Distill(1e-9, 2.0)), teacher=teacher)
    torch.testing.assert_close(own.state["1.weight"], images(RECIPE).state["1.weight"])


FIELDS = {"masks": ["iterative", "admm"], "sparsities": [0.5, 0.75], "learning_rates": [0.1, 0.2], "rewind": "1ep"}


def test_all_trainings_but_the_dense_ones_have_their_dense_run_as_teacher() -> None:
    """And those of an equal study without one keep their keys: the dense ones are the very same."""
    taught = {"epochs": 6, "batch_size": 64, "distill": {"weight": 0.5, "temperature": 4}}
    arms = ["ticket", "reinit", "rewind", "finetune", "scratch_long"]
    longer = {"pretraining": {"longer": 2}, "arms": arms}
    made, plain = (plan(load_spec(spec(**FIELDS, **longer, **more))) for more in ({"recipe": taught}, {}))
    dense = {trial.step.key for trial in plain.trials if trial.mask is None}
    assert len(dense) == 4
    by_rate = {t.learning_rate: t.step.key for t in made.trials if t.arm == "dense"}
    trainings = [step for step in made.steps if isinstance(step, Train)]
    assert {step.key for step in trainings if step.teacher is None} == dense
    others = [step for step in trainings if step.teacher is not None]
    assert len(others) == len([step for step in plain.steps if isinstance(step, Train)]) - len(dense)
    for step in others:
        assert step.teacher is not None
        assert step.teacher.step.key == by_rate[step.recipe.learning_rate]
        assert step.recipe.distill == Distill(0.5, 4.0)


def test_a_study_reads_the_teacher_from_its_store(store: Store) -> None:
    """A ticket that learns from nothing but the dense run comes close to what that gives."""
    fields = task_makers.tiny("classification", "mlp", "digits", arms=["ticket"])
    fields["recipe"] |= {"distill": {"weight": 1, "temperature": 1}, "accumulate": 2}
    made = plan(load_spec(fields))
    for step in made.steps:
        execute(step, store)
    dense, ticket = (trial.step for trial in made.trials)
    assert isinstance(dense, Train)
    read = store.manifest(ticket.key)["inputs"]
    assert f"{dense.key}/{state_file(None)}" in read
    assert store.metrics(ticket.key)["train_loss"][-1] < 0.1 < store.metrics(dense.key)["train_loss"][-1]


REFUSED: list[tuple[dict[str, Any], str, list[object]]] = [
    ({"recipe": {"accumulate": 65, "batch_size": 64}}, "recipe.accumulate", [65, 64]),
    ({"recipe": {"accumulate": 2}, "devices": 2}, "recipe.accumulate", [2, "devices"]),
    ({"recipe": {"label_smoothing": 1.0}}, "recipe.label_smoothing", [1.0]),
    ({"recipe": {"label_smoothing": 0.1}, "task": "regression"}, "recipe.label_smoothing", [0.1, "regression"]),
    (
        {"recipe": {"label_smoothing": 0.1, "loss": "tests.support.train_makers:hinge"}},
        "recipe.label_smoothing",
        [0.1, "loss"],
    ),
    (
        {"recipe": {"distill": {"weight": 0.5, "temperature": 1}}, "task": "multilabel"},
        "recipe.distill",
        ["multilabel"],
    ),
    ({"recipe": {"distill": {"weight": 0, "temperature": 1}}}, "recipe.distill.weight", [0]),
    ({"recipe": {"distill": {"weight": 1}}}, "recipe.distill.temperature", []),
]


@pytest.mark.parametrize(("fields", "field", "mentions"), REFUSED)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], field: str, mentions: list[object]) -> None:
    with refused(field, *mentions):
        load_spec({"model": "small", "data": "fashion-mini", **fields})
