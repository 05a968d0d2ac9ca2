"""The documentation's examples run, and the documentation names only what there is."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import prunetune
from prunetune.cli.main import app
from prunetune.data import DATA
from prunetune.models import MODELS
from prunetune.plan.compile import plan
from prunetune.sparsity.allocation import ALLOCATIONS
from prunetune.sparsity.criteria import CRITERIA
from prunetune.spec.load import load_spec
from prunetune.spec.recipe_fields import RecipeSpec
from prunetune.spec.study import Spec
from prunetune.steps.arms import ARMS
from prunetune.steps.mask_algorithms import MASKS
from prunetune.steps.transforms import TRANSFORMS
from prunetune.training.augment import AUGMENTATIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SPEC = ROOT / "docs" / "reference" / "spec.md"
NEEDS = {  # what docs/how-to/PAGE or a module's docstrings use beside the package itself
    "channels.md": ("torch_pruning",),
    "loops.md": ("accelerate", "lightning", "transformers"),
    "prunetune.execution.executors.ray": ("ray",),
    "prunetune.execution.executors.slurm": ("submitit",),
    "prunetune.integrations.accelerate": ("accelerate",),
    "prunetune.integrations.lightning": ("lightning",),
    "prunetune.integrations.transformers": ("transformers",),
}
MODULES = [m.name for m in pkgutil.walk_packages(prunetune.__path__, "prunetune.") if "worker" not in m.name]


def require(name: str) -> None:
    """Skip where an extra of the package is not installed."""
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone after it, also where other tests run in this process."""
    for registry in (ALLOCATIONS, ARMS, AUGMENTATIONS, CRITERIA, DATA, MASKS, MODELS, TRANSFORMS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))


@pytest.mark.usefixtures("registries")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.. is deprecated:FutureWarning")  # Lightning 2.6 with torch 2.13
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # tiny data sets in memory
@pytest.mark.filterwarnings("ignore:.*pin_memory. argument is set as true:UserWarning")  # without a GPU
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(page.name)
    monkeypatch.chdir(tmp_path)
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_extending_shows_examples() -> None:
    assert len(re.findall(r"^>>> ", (ROOT / "docs" / "how-to" / "extending.md").read_text(), re.MULTILINE)) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    require(name)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", SPEC], ids=lambda page: page.name)
def test_the_spec_of_a_page_is_one(page: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert plan(load_spec(yaml.safe_load(text))).trainings > 0


def test_the_spec_page_shows_the_defaults() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", SPEC.read_text(), re.DOTALL)
    shown = yaml.safe_load(text)
    assert set(shown) == set(Spec.model_fields)
    assert set(shown["recipe"]) == set(RecipeSpec.model_fields)
    assert load_spec(shown).resolved() == load_spec({"model": "resnet20", "data": "cifar10"}).resolved()


def test_the_spec_page_names_every_registered_model_mask_and_data_set() -> None:
    text = SPEC.read_text()
    missing = [name for name in [*MODELS, *DATA, *MASKS, *CRITERIA, *ALLOCATIONS] if f"`{name}" not in text]
    assert missing == []


def test_it_is_said_that_a_callable_is_run() -> None:
    assert "`package.module:callable` is imported and run" in SPEC.read_text()
    for verb in ("audit", "prune"):
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert re.search(r"package\.module:callable[^.]* run", " ".join(shown.split())), verb


def test_the_tutorial_quotes_the_example() -> None:
    program = (ROOT / "examples" / "own_cnn.py").read_text()
    quoted = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tutorials" / "own-cnn.md").read_text(), re.DOTALL)
    assert len(quoted) >= 5
    assert [block for block in quoted if block not in program] == []
