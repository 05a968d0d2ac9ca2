"""transformers' models as they are: named inputs, outputs with logits, tied weights; trained, scored and pruned."""

from pathlib import Path

import pytest
import torch

from prunetune.api import plan_study
from prunetune.data import load_examples
from prunetune.execution.run_step import execute
from prunetune.models import build
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.support.task_makers import tiny

pytest.importorskip("transformers")
MODELS = "tests.support.transformer_makers"


@pytest.mark.parametrize(("task", "name"), [("causal_lm", "gpt2"), ("token_classification", "bert")])
def test_a_transformer_goes_through_a_study(task: str, name: str, tmp_path: Path) -> None:
    spec = tiny(task, "mlp", "digits", arms=["ticket"]) | {"model": f"{MODELS}:{name}", "data": f"{MODELS}:texts"}
    made = plan_study(spec, store=tmp_path).plan
    store = Store(tmp_path)
    for step in made.steps:
        execute(step, store)
    dense, ticket = (trial.step for trial in made.trials)
    assert isinstance(dense, Train)
    assert isinstance(ticket, Train)
    assert store.metrics(ticket.key)["density"] == pytest.approx(0.5, abs=0.01)
    model = build(made.model, made.input_shape, made.outputs)
    model.load_state_dict(store.state(dense.key))
    model.eval()
    inputs, labels = load_examples(made.data).test.gather(torch.arange(32))
    with torch.no_grad():
        theirs = model(**inputs, labels=labels)
    found = store.metrics(dense.key)
    assert found["test_loss"] == pytest.approx(float(theirs.loss), rel=1e-4)  # by the library's own loss
    if task == "causal_lm":
        assert found["score"] == pytest.approx(float(theirs.loss.exp()), rel=1e-4)
