"""Gradients shortened to a norm, and weight decay that leaves biases and normalisation alone, against loops by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunetune.sparsity.mask import Mask
from prunetune.spec.load import load_spec
from prunetune.steps.steps import describe
from prunetune.training.loop import train
from prunetune.training.recipe import Recipe, Schedule
from tests.support.refusals import refused
from tests.support.train_makers import COUNT, dataset

STEPS, RATE, DECAY = 4, 0.5, 0.01
PLAIN = Recipe(STEPS, COUNT, RATE, momentum=0.0, weight_decay=DECAY, schedule=Schedule("constant"))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))


def by_hand(recipe: Recipe, mask: Mask | None) -> tuple[dict[str, torch.Tensor], int]:
    """Whole batches, one update after another; and how many gradients were too long."""
    data, model, shortened = dataset(), network(), 0
    x = data.preparation(torch.device("cpu"))(data.train_images)
    kept = {name: mask[name] if mask and name in mask else torch.ones_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p *= kept[name]
    for _ in range(STEPS):
        gradients = torch.autograd.grad(F.cross_entropy(model(x), data.train_labels), list(model.parameters()))
        counted = [g * kept[name] for g, (name, _) in zip(gradients, model.named_parameters(), strict=True)]
        length = math.sqrt(math.fsum(float(v) ** 2 for g in counted for v in g.flatten()))
        scale = min(1.0, recipe.clip_norm / length) if recipe.clip_norm else 1.0
        shortened += scale < 1
        with torch.no_grad():
            for g, (name, p) in zip(gradients, model.named_parameters(), strict=True):
                decays = p.dim() > 1 or recipe.decay_norms is None
                p -= RATE * (g * scale + (DECAY * p if decays else 0.0))
                p *= kept[name]
    return {name: p.detach() for name, p in model.named_parameters()}, shortened


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": 0.6}, {"decay_norms": False}, {"clip_norm": 0.6, "decay_norms": False}]
)
def test_every_update_is_that_of_the_loop_by_hand(changes: dict[str, float], masked: bool) -> None:
    recipe, model = replace(PLAIN, **changes), network()  # type: ignore[arg-type]
    mask = Mask({"1.weight": torch.arange(512).view(8, 64) % 2 == 0}) if masked else None
    trained = train(model, dataset(), recipe, order_seed=0, augment_seed=0, mask=mask)
    wanted, shortened = by_hand(recipe, mask)
    assert shortened >= ("clip_norm" in changes)
    for name, value in wanted.items():
        torch.testing.assert_close(trained.state[name], value, rtol=1e-4, atol=1e-5)
    assert trained.revived == 0


def test_they_are_in_a_key_where_they_are_set_and_nowhere_else() -> None:
    def keyed(**recipe: object) -> set[str]:
        spec = load_spec({"model": "small", "data": "fashion-mini", "recipe": recipe})
        return set(describe(spec.recipe.at(0.1, "cpu"))) & {"clip_norm", "decay_norms"}

    assert keyed() == keyed(clip_norm=None, decay_norms=True) == set()
    assert keyed(clip_norm=1, decay_norms=False) == {"clip_norm", "decay_norms"}


def test_a_norm_is_above_zero() -> None:
    with refused("recipe.clip_norm", 0):
        load_spec({"model": "small", "data": "fashion-mini", "recipe": {"clip_norm": 0}})
    with refused("devices", 2, "causal_lm"):
        load_spec({"model": "small", "data": "fashion-mini", "task": "causal_lm", "devices": 2})
