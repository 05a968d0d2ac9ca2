"""Each task through a whole study: what is stored is what a loop over single examples finds, and the proofs hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score, jaccard_score, r2_score
from torch import nn
from torch.utils.data import Dataset

from prunetune.api import plan_study
from prunetune.core.seeding import order_digest
from prunetune.data import Batch, identify, load_examples
from prunetune.execution.run_step import execute
from prunetune.models import build
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train, describe
from prunetune.store.store import Store
from prunetune.tasks import TASKS
from tests.support import task_makers
from tests.support.cli_runs import prunetune
from tests.support.refusals import refused
from tests.support.task_makers import HERE, tiny

STUDIES = {
    "classification": ("mlp", "digits"),
    "multilabel": ("mlp", "digit_labels"),
    "regression": ("TwoInputs", "two_inputs"),
    "segmentation": ("pixel_net", "blobs"),
    "token_classification": ("Tagger", "sentences"),
    "causal_lm": ("language_model", "counting"),
}


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Plan, Store]:
    """A tiny study of the task, all of its steps done."""
    store = Store(tmp_path_factory.mktemp(request.param))
    made = plan_study(tiny(request.param, *STUDIES[request.param]), store=store.root).plan
    for step in made.steps:
        execute(step, store)
    return request.param, made, store


def trained(plan: Plan, store: Store, step: Train) -> nn.Module:
    model = build(plan.model, plan.input_shape, plan.outputs)
    model.load_state_dict(store.state(step.key))
    return model.eval()


def answers(model: nn.Module, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Every test example alone through the network: predictions and targets, flat, of those that count."""
    test, found = load_examples(plan.data).test, []
    for i in range(len(test)):
        inputs, targets = test.gather(torch.tensor([i]))
        with torch.no_grad():
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        found.append((outputs["logits"] if isinstance(outputs, dict) else outputs, targets))
    rows = [(o.permute(0, 2, 3, 1) if o.dim() == 4 else o).flatten(0, -2) for o, _ in found]
    return torch.cat(rows).double().numpy(), torch.cat([targets.flatten() for _, targets in found]).numpy()


def expected(task: str, model: nn.Module, plan: Plan) -> float:
    outputs, targets = answers(model, plan)
    counted = targets != -100
    if task == "multilabel":
        return 100 * f1_score(targets.reshape(outputs.shape), outputs > 0, average="macro")
    if task == "regression":
        return 100 * (1 - r2_score(targets, outputs[:, 0])) ** 0.5
    if task == "causal_lm":
        length = load_examples(plan.data).test.gather(torch.tensor([0])).targets.shape[1]
        logits = torch.tensor(outputs).reshape(-1, length, outputs.shape[1])[:, :-1].flatten(0, 1)
        after = torch.tensor(targets).reshape(-1, length)[:, 1:].flatten()
        chosen = logits.log_softmax(1)[torch.arange(len(after)), after.clamp(min=0)]
        return float(torch.exp(-chosen[after != -100].mean()))
    predicted = outputs.argmax(1)[counted]
    if task == "segmentation":
        return 100 * jaccard_score(targets[counted], predicted, average="macro")
    return 100 * float((predicted == targets[counted]).mean())


def test_the_stored_score_is_that_of_single_examples(study: tuple[str, Plan, Store]) -> None:
    task, made, store = study
    name = "test_accuracy" if task == "classification" else "score"
    for trial in made.trials:
        assert isinstance(trial.step, Train)
        stored = store.metrics(trial.step.key)
        assert stored[name] == pytest.approx(expected(task, trained(made, store, trial.step), made), rel=1e-5)
        assert task == "classification" or stored["test_accuracy"] is stored["validation_accuracy"] is None


def test_training_improves_on_guessing(study: tuple[str, Plan, Store]) -> None:
    task, made, store = study
    metric, stored = made.spec.metric, store.metrics(made.trials[0].step.key)
    guessed = TASKS[task].guessing(load_examples(made.data).test)
    found = stored["test_accuracy"] if task == "classification" else stored["score"]
    assert guessed is not None
    assert metric.oriented(found) > metric.oriented(guessed)


def test_pruned_weights_are_zero_and_the_order_of_the_data_is_the_seeds(study: tuple[str, Plan, Store]) -> None:
    _, made, store = study
    train = load_examples(made.data).train
    sparse = [step for step in made.steps if isinstance(step, Train) and step.mask]
    assert len(sparse) == 2
    for step in sparse:
        assert isinstance(step.mask, Prune)
        stored, mask, state = store.metrics(step.key), store.mask(step.mask.key), store.state(step.key)
        assert all(not state[name][~kept].any() for name, kept in mask.items())
        assert stored["density"] == pytest.approx(0.5, abs=0.01)
        assert stored["data_order_digest"] == order_digest(step.order_seed, step.recipe.epochs, len(train))
        assert {"zeros stay zero", "density"} <= set(stored["invariants"])


def test_a_second_time_gives_the_same_bytes(study: tuple[str, Plan, Store], tmp_path: Path) -> None:
    _, made, store = study
    again = Store(tmp_path)
    for step in made.steps:
        execute(step, again)
        one, two = ((place.root / "steps" / step.key[:2] / step.key) for place in (store, again))
        for file in one.glob("*.safetensors"):
            assert file.read_bytes() == (two / file.name).read_bytes()
        assert (one / "metrics.json").read_bytes() == (two / "metrics.json").read_bytes()


def test_the_task_is_in_keys_where_it_is_another_than_classification(study: tuple[str, Plan, Store]) -> None:
    task, made, _ = study
    recipes = [describe(step)["recipe"] for step in made.steps if isinstance(step, Train)]
    assert {recipe.get("task", {}).get("name", "classification") for recipe in recipes} == {task}


FIVE_LINES = f"""\
model: {HERE}:TwoInputs
data: {HERE}:two_inputs
task: regression
recipe: {{epochs: 2, batch_size: 32, optimizer: adam, loss: '{HERE}:absolute_error'}}
learning_rates: [0.01]
"""


@pytest.mark.slow
def test_two_inputs_and_a_dict_of_outputs_take_five_lines_and_one_loss(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(FIVE_LINES)
    few = ["sparsities=[0.5]", "masks=[one_shot]", "arms=[ticket,reinit]"]
    options = [
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--store",
        "store",
        "--out",
        "out",
        *(t for s in few for t in ("--set", s)),
    ]
    done = prunetune("audit", spec, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["study"]["task"] == "regression"
    assert len(results["trials"]) == 3


@pytest.mark.slow
def test_such_a_network_is_pruned_and_shipped(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(FIVE_LINES)
    options = ["--sparsity", "0.5", "--export", "onnx", "--jobs", "1", "--store", "store", "--out", "out"]
    done = prunetune("prune", "spec.yaml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Relative RMSE" in done.stdout
    (file,) = (tmp_path / "out" / "models").glob("*-50.onnx")
    runtime = pytest.importorskip("onnxruntime").InferenceSession(str(file))
    weights = load_file(file.with_suffix(".safetensors"))
    model = task_makers.TwoInputs()
    model.load_state_dict(weights)
    (inputs, _) = load_examples(identify(f"{HERE}:two_inputs")).test.gather(torch.arange(5))
    found = runtime.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        np.testing.assert_allclose(found[0], model(**inputs)["logits"].numpy(), atol=1e-5)


def test_a_loss_of_ones_own_gets_the_whole_batch() -> None:
    batch = load_examples(identify(f"{HERE}:two_inputs")).train.gather(torch.arange(5))
    outputs = {"logits": torch.zeros(5, 1)}
    doubled = sum(
        (2 if body[2] > 0 else 1) * abs(target)
        for body, target in zip(batch.inputs["body"].tolist(), batch.targets.tolist(), strict=True)
    )
    assert float(task_makers.absolute_error(outputs, Batch(*batch))) == pytest.approx(doubled / 5)


SYNFLOW = {"masks": [{"kind": "one_shot", "criterion": "synflow"}]}
REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    (
        {"task": "causal_lm", "model": f"{HERE}:language_model", "data": f"{HERE}:counting"} | SYNFLOW,
        "masks.0.criterion",
        ["synflow", "int64"],
    ),
    ({"model": f"{HERE}:mlp", "data": f"{__name__}:read_rows", "devices": 2}, "devices", ["2", "example by example"]),
    ({"model": f"{HERE}:mlp", "data": f"{__name__}:other_test"}, "data", ["test", "RuntimeError"]),
    *(
        ({"task": f"tests.tasks.test_names:{name}", "model": f"{HERE}:mlp", "data": f"{HERE}:diabetes"}, "task", said)
        for name, said in {
            "Countless": ["outputs(examples)", "None"],
            "OutputsFail": ["outputs(examples)", "KeyError"],
            "LossFails": ["LossFails", "KeyError"],
            "StatisticsAreAList": ["statistics"],
            "GuessingFails": ["guessing(examples)", "KeyError"],
            "GuessesAText": ["guessing(examples)", "much"],
        }.items()
    ),
    ({"task": "segmentation", "model": f"{HERE}:mlp", "data": f"{HERE}:digits"}, "task", ["segmentation", "N, H, W"]),
    ({"task": "regression", "model": "small", "data": "fashion-mini"}, "task", ["regression", "floating"]),
    ({"task": "classification", "model": "small", "data": f"{HERE}:digits"}, "model", ["small", "(64,)"]),
    ({"task": "regression", "model": f"{HERE}:mlp", "data": f"{HERE}:two_inputs"}, "model", ["mlp"]),
    (
        {"task": "multilabel", "model": f"{HERE}:language_model", "data": f"{HERE}:digit_labels"},
        "model",
        ["two examples"],
    ),
]


def test_numbers_of_a_table_are_not_taken_for_classes_unasked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,digit\n" + "".join(f"{i},{i % 7},{i % 3}\n" for i in range(30)))
    fields = {"model": f"{HERE}:mlp", "data": f"csv:{tmp_path / 't.csv'}"}
    with refused("task", "regression", "data_args.classes"):
        plan(load_spec(fields))
    assert plan(load_spec(fields | {"data_args": {"classes": True}})).outputs == 3


class Rows(Dataset[Any]):
    """Examples that are read one at a time."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Any:
        return torch.full((64,), float(i)), i % 10


def read_rows() -> dict[str, Any]:
    return {"train": Rows(), "test": Rows()}


def other_test() -> dict[str, Any]:
    """Test examples of another width than those to train on."""
    return {"train": (torch.ones(40, 64), torch.arange(40) % 10), "test": (torch.ones(9, 63), torch.arange(9))}


@pytest.mark.parametrize(("fields", "field", "mentions"), REFUSED)
def test_what_does_not_fit_together_is_refused_before_anything_is_trained(
    fields: dict[str, Any], field: str, mentions: list[str]
) -> None:
    with refused(field, *mentions):
        plan(load_spec(fields))
