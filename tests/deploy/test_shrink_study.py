"""A real study under the pattern `channel`, on real images, whose trained networks are shrunk in the end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.api import Audit, audit
from prunetune.data import load
from prunetune.deploy.channel_surgery import shrink
from prunetune.errors import ConfigError
from prunetune.models import build
from prunetune.plan.compile import plan
from prunetune.sparsity.scope import prunable
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Train
from prunetune.store.store import Store

pytestmark = pytest.mark.slow
pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")

SPEC: dict[str, Any] = {
    "name": "channels",
    "model": "small",
    "model_args": {"width": 4},
    "data": "fashion-mini",
    "data_args": {"train_limit": 256},
    "recipe": {"epochs": 1, "batch_size": 32, "weight_decay": 1e-3, "schedule": {"kind": "constant"}},
    "learning_rates": [0.1],
    "masks": [
        {"kind": "iterative", "pattern": "channel"},
        {"kind": "gradual", "pattern": "channel", "epochs": 2},
        {"kind": "one_shot", "pattern": "channel", "criterion": "snip"},
    ],
    "sparsities": [0.25, 0.5],
    "arms": ["ticket", "reinit", "finetune", "shuffle", "sign_reinit", "random_mask"],
    "rewind": "0ep",
    "seeds": 1,
}
KEPT = {0.25: [3, 6, 12], 0.5: [2, 4, 8]}  # of the 4, 8 and 16 channels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channels")


@pytest.fixture(scope="module")
def audited(folder: Path) -> Audit:
    return audit(SPEC, out=folder / "out", store=folder / "store", jobs=1, device="cpu")


def test_the_study_runs_and_breaks_no_rule(audited: Audit) -> None:
    assert audited.failures == ()
    assert len(audited.results.trials) == 1 + 3 * 2 * 6
    counts = {rule.name: rule.checked for rule in audited.results.invariants}
    assert min(counts[name] for name in ("mask counts", "mask nested", "zeros stay zero", "density")) > 0
    assert counts["arms share layer counts"] > 0


def test_density_is_measured_over_the_prunable_weights(audited: Audit, folder: Path) -> None:
    """Not over batch norms and the first convolution, which the masks name too."""
    store, planned = Store(folder / "store"), plan(load_spec(SPEC), device="cpu")
    names = prunable(build(planned.model, planned.input_shape, planned.outputs))
    assert "0.weight" not in names
    for trial in planned.trials:
        step = trial.step
        assert isinstance(step, Train)
        if step.mask is not None:
            mask = store.mask(step.mask.key)
            assert {"0.weight", "1.bias"} <= set(mask)
            kept, total = (sum(int(f(mask[name])) for name in names) for f in (torch.sum, torch.numel))
            assert store.metrics(step.key)["density"] == pytest.approx(kept / total, abs=2 / total)


@pytest.mark.parametrize("arm", ["finetune", "random_mask"])
def test_a_stored_network_shrinks(audited: Audit, folder: Path, arm: str) -> None:
    store, planned = Store(folder / "store"), plan(load_spec(SPEC), device="cpu")
    images = load(planned.data).test_images[:64].float() / 255
    for trial in planned.trials:
        step = trial.step
        if trial.arm != arm or not isinstance(step, Train) or step.mask is None:
            continue
        model = build(planned.model, planned.input_shape, planned.outputs)
        model.load_state_dict(store.state(step.key))
        small = shrink(model, store.mask(step.mask.key), images)
        assert [layer.out_channels for layer in small.modules() if isinstance(layer, nn.Conv2d)] == KEPT[trial.sparsity]
        with torch.no_grad():
            torch.testing.assert_close(small.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-4)


REFUSED = [
    ({"kind": "admm", "pattern": "channel"}, {}, "pattern: 'channel' has no projection for the penalty of 'admm'"),
    ({"kind": "one_shot", "pattern": "channel", "allocation": "erk"}, {}, "allocation: 'erk' has no say under pattern"),
    (
        {"kind": "one_shot", "pattern": "channel"},
        {"scope": {"exclude": ["*"]}},
        "pattern: 'channel' finds no channel in this model that could go ('0': '0.weight' is excluded by '*'",
    ),
]


@pytest.mark.parametrize(("mask", "more", "line"), REFUSED)
def test_what_is_refused_when_the_study_is_planned(mask: dict[str, Any], more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(load_spec({**SPEC, "masks": [mask], **more}), device="cpu")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
