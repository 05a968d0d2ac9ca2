"""What else a study does with examples of any kind: criteria that look at data, channels, lines, curvature, layers."""

import pytest
import torch

from prunetune.api import plan_study
from prunetune.core.seeding import OrderDigest, generator
from prunetune.data import load_examples
from prunetune.execution.run_step import execute
from prunetune.models import build
from prunetune.plan.compile import Plan
from prunetune.steps.quantities import MeasureBarrier, MeasureCurvature, MeasureSensitivity
from prunetune.steps.steps import Connect, Prune, Step, Train
from prunetune.store.store import Store
from tests.support.task_makers import HERE, absolute_error, tiny

SNIP = {"kind": "one_shot", "criterion": "snip", "allocation": "global"}
SYNFLOW = {"kind": "one_shot", "criterion": {"name": "synflow", "rounds": 2}, "allocation": "global"}
CHANNEL = {"kind": "one_shot", "pattern": "channel"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    """Two named inputs, a loss of the user's, and everything that is measured beside the score."""
    pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
    spec = tiny(
        "regression", "TwoInputs", "two_inputs",
        masks=[SNIP, SYNFLOW, CHANNEL], connectivity=["ticket"], data_args={"validation": 0.2},
        measure=["movement", "barriers", "curvature", "sensitivity"], arms=["ticket"],
    )  # fmt: skip
    spec["recipe"] |= {"loss": f"{HERE}:absolute_error"}
    store = Store(tmp_path_factory.mktemp("measured"))
    made = plan_study(spec, store=store.root).plan
    for step in made.steps:
        execute(step, store)
    return made, store


def network(made: Plan, store: Store, key: str) -> torch.nn.Module:
    model = build(made.model, made.input_shape, made.outputs)
    model.load_state_dict(store.state(key))
    return model.eval()


def of_kind(made: Plan, kind: type[Step]) -> list[Step]:
    return [step for step in made.steps if isinstance(step, kind)]


def relative_rmse(model: torch.nn.Module, made: Plan, part: str = "test") -> float:
    inputs, targets = getattr(load_examples(made.data), part).gather(
        torch.arange(len(getattr(load_examples(made.data), part)))
    )
    with torch.no_grad():
        errors = [(float(p) - float(t)) ** 2 for p, t in zip(model(**inputs)["logits"][:, 0], targets, strict=True)]
    mean = sum(targets.tolist()) / len(targets)
    return 100 * (sum(errors) / sum((t - mean) ** 2 for t in targets.tolist())) ** 0.5


def test_snip_scores_by_the_users_loss_on_the_examples_it_is_shown(study: tuple[Plan, Store]) -> None:
    made, store = study
    (step,) = [step for step in of_kind(made, Prune) if isinstance(step, Prune) and step.criterion.name == "snip"]
    probe, digest = step.probe, OrderDigest()
    assert probe is not None
    train = load_examples(made.data).train
    shown = torch.randperm(len(train), generator=generator("probe", probe.seed))[: probe.images]
    digest.update(shown)
    assert store.metrics(step.key)["probe_digest"] == digest.hexdigest()
    model = network(made, store, step.source.step.key)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for part in shown.tensor_split(-(-len(shown) // probe.batch_size)):
        batch = train.gather(part)
        model.zero_grad()
        absolute_error(model(**batch.inputs), batch).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            total[name] += p.grad * len(part) / len(shown)
    mask = store.mask(step.key)
    scores = torch.cat([(model.get_parameter(name).detach() * total[name]).abs().flatten() for name in mask])
    kept = torch.cat([mask[name].flatten() for name in mask])
    assert float(scores[kept].min()) >= float(scores[~kept].max()) - 1e-6


def test_a_pattern_of_channels_is_found_with_real_inputs(study: tuple[Plan, Store]) -> None:
    made, store = study
    (step,) = [step for step in of_kind(made, Prune) if isinstance(step, Prune) and step.pattern == "channel"]
    rows = store.mask(step.key)["body.weight"].flatten(1)
    assert (rows.all(1) | ~rows.any(1)).all()
    assert rows.any(1).sum() == 8


def test_lines_are_measured_in_the_metrics_unit(study: tuple[Plan, Store]) -> None:
    made, store = study
    lines = [*of_kind(made, Connect), *of_kind(made, MeasureBarrier)]
    assert lines
    for step in lines:
        assert isinstance(step, Connect | MeasureBarrier)
        found = store.metrics(step.key)
        assert found["test_accuracy"] is found["accuracy_barrier"] is None
        for score, weights in ((found["score"][0], step.first), (found["score"][-1], step.second)):
            assert score == pytest.approx(relative_rmse(network(made, store, weights.step.key), made), rel=1e-4)
        count = len(found["score"]) - 1
        straight = [found["score"][0] * (1 - i / count) + found["score"][-1] * i / count for i in range(count + 1)]
        worse = max(value - line for value, line in zip(found["score"], straight, strict=True))
        assert found["score_barrier"] == pytest.approx(worse, abs=1e-6)  # lower is better: above the line is worse


def test_sensitivity_is_the_score_on_held_out_examples(study: tuple[Plan, Store]) -> None:
    made, store = study
    for step in of_kind(made, MeasureSensitivity):
        assert isinstance(step, MeasureSensitivity)
        whole = relative_rmse(network(made, store, step.weights.step.key), made, "validation")
        assert store.metrics(step.key)["whole"] == pytest.approx(whole, rel=1e-4)


def test_curvature_is_measured_by_the_users_loss(study: tuple[Plan, Store]) -> None:
    made, store = study
    assert all(store.metrics(step.key)["images"] > 0 for step in of_kind(made, MeasureCurvature))


def test_held_out_examples_are_scored_too(study: tuple[Plan, Store]) -> None:
    made, store = study
    for step in of_kind(made, Train)[:2]:
        found = store.metrics(step.key)["validation_score"]
        assert found == pytest.approx(relative_rmse(network(made, store, step.key), made, "validation"), rel=1e-4)
