"""The presets of the paper's thesis: their settings, and that their steps are those of the stored study."""

import pytest

from prunetune.plan.compile import plan
from prunetune.spec import presets
from prunetune.spec.load import load_spec
from tests.support.refusals import refused

RECIPES = {  # name -> epochs, weight decay
    "1ep-kappa0.5": (1, 5.7e-3),
    "4ep-kappa0.05": (4, 1.4e-4),
    "4ep-kappa0.5": (4, 1.4e-3),
    "4ep-kappa2": (4, 5.7e-3),
    "4ep-kappa6": (4, 1.7e-2),
    "12ep-kappa0.05": (12, 4.7e-5),
    "12ep-kappa0.5": (12, 4.7e-4),
    "12ep-kappa2": (12, 1.9e-3),
    "12ep-kappa6": (12, 5.7e-3),
}
MIXED = ["4ep-kappa0.05", "4ep-kappa2", "4ep-kappa6"]
ARMS = ["ticket", "reinit", "finetune", "random_mask", "sign_reinit"]
MIXED_ARMS = ["ticket", "reinit", "mixed(0.25)", "mixed(0.5)", "mixed(0.75)"]
TRAIN_IMAGES = 10_000
NAMES = [f"thesis/{name}" for name in RECIPES] + [f"thesis/mixed-{name}" for name in MIXED]
KEYS = {  # of 4ep-kappa2 at rate 0.1, 50 %, seed 0, as they are stored
    "dense": "0980e3bf3b0d2be36d695fe780c75966c4fe6363197cac8155ec5e0ae064557d",
    "ticket": "8adc116cac101e1b39a93dcb49870458d7d496c261e26c8a3ebf555239cd2196",
}


def test_the_presets_are_these_and_their_group() -> None:
    assert [name for name in presets.names() if name.startswith("thesis/")] == NAMES
    assert presets.members("thesis/all") == tuple(NAMES)
    with refused("spec", "thesis/all", "12", "thesis/1ep", "stands"):
        load_spec("thesis/all")


@pytest.mark.parametrize("name", NAMES)
def test_the_settings(name: str) -> None:
    mixed, regime = "mixed-" in name, name.removeprefix("thesis/").removeprefix("mixed-")
    loaded = load_spec(name)
    epochs, decay = RECIPES[regime]
    assert loaded.name == name.replace("/", "-")
    assert (loaded.model, loaded.data, loaded.model_args, loaded.data_args) == ("small", "fashion-mini", {}, {})
    recipe = loaded.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.augment) == (epochs, 64, decay, ())
    own = {"epochs": epochs, "batch_size": 64, "weight_decay": decay}
    assert recipe == load_spec({"model": "small", "data": "fashion-mini", "recipe": own}).recipe  # all else by default
    assert loaded.learning_rates == (0.01, 0.1)
    assert [mask.label for mask in loaded.masks] == ["iterative"]
    assert loaded.sparsities == ((0.5, 0.8) if mixed else (0.5, 0.8, 0.9375))
    assert list(loaded.named_arms) == (MIXED_ARMS if mixed else ARMS)
    assert loaded.seeds == 5


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_name_says_kappa_at_the_higher_rate(name: str) -> None:
    """κ = Σ_t η_t λ/(1 − μ), step by step: the rate falls tenfold after 8/15 and 12/15 of the training."""
    loaded = load_spec(f"thesis/{name}")
    steps = loaded.recipe.epochs * -(-TRAIN_IMAGES // 64)
    rates = [0.1 * 0.1 ** ((step >= steps * 8 / 15) + (step >= steps * 12 / 15)) for step in range(steps)]
    kappa = sum(rates) * loaded.recipe.weight_decay / (1 - loaded.recipe.momentum)
    assert kappa == pytest.approx(float(name.rpartition("kappa")[2]), rel=0.1)


def test_the_steps_are_those_of_the_stored_study() -> None:
    for name in ("thesis/4ep-kappa2", "thesis/mixed-4ep-kappa2"):
        made = plan(load_spec(name))
        place = {(0.0, 0.1, 0), (0.5, 0.1, 0)}
        found = {t.arm: t.step.key for t in made.trials if (t.sparsity, t.learning_rate, t.seed) in place}
        assert {arm: found[arm] for arm in KEYS} == KEYS


def test_a_mixed_study_only_adds_mixes_to_its_namesake() -> None:
    whole, mixed = (plan(load_spec(f"thesis/{name}")) for name in ("4ep-kappa6", "mixed-4ep-kappa6"))
    shared = {step.key for step in whole.steps}
    new = {t.step.key for t in mixed.trials if t.step.key not in shared}
    assert new == {t.step.key for t in mixed.trials if t.arm.startswith("mixed(")}
    assert len(new) == 2 * 5 * 2 * 3
