"""The public API: which names there are, where they are documented, and those of the last minor version, which warn."""

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import prunetune
from prunetune import errors

ROOT = Path(__file__).parents[2]
PUBLIC = (
    "prunetune",
    "prunetune.data",
    "prunetune.deploy",
    "prunetune.errors",
    "prunetune.execution",
    "prunetune.integrations.accelerate",
    "prunetune.integrations.lightning",
    "prunetune.integrations.transformers",
    "prunetune.models",
    "prunetune.results",
    "prunetune.sparsity",
    "prunetune.spec",
    "prunetune.steps",
    "prunetune.tasks",
    "prunetune.training",
)
SHOWN = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/*.py"))]
RENAMED = {
    "prune": "compute_mask",
    "hold": "apply_mask",
    "release": "remove_mask",
    "held_mask": "get_mask",
    "survey": "list_parameters",
}
ERRORS = {"RequestError": "ConfigError", "BreachError": "InvariantError", "DamageError": "CorruptionError"}


def _public_module(name: str) -> ModuleType:
    if name.startswith("prunetune.integrations."):
        pytest.importorskip(name.rpartition(".")[2])
    if name == "prunetune.execution":
        for executor in ("ray", "submitit"):
            pytest.importorskip(executor)
    return import_module(name)


def _documented_constants(module: ModuleType) -> set[str]:
    """The names that a module assigns at its top and describes in a string on the next line."""
    named = set()
    for statement, after in pairwise(ast.parse(inspect.getsource(module)).body):
        if isinstance(after, ast.Expr) and isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            named |= {target.id for target in targets if isinstance(target, ast.Name)}
    return named


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    module = _public_module(name)
    constants = [public for public in module.__all__ if public.isupper()]
    homes = [other for other in list(sys.modules.values()) if getattr(other, "__name__", "").startswith("prunetune.")]
    described = set().union(*(_documented_constants(home) for home in homes if set(constants) & vars(home).keys()))
    assert [public for public in constants if public not in described] == []
    assert [p for p in module.__all__ if p not in constants and not inspect.getdoc(getattr(module, p))] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_name_is_that_of_a_module_of_its_package(name: str) -> None:
    module = _public_module(name)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    assert {path.stem for folder in folders for path in folder.iterdir()} & set(module.__all__) == set()


def test_a_public_name_has_one_home() -> None:
    """Errors are in `prunetune` too; what identifies a model and a data set has one word."""
    names = Counter(public for name in PUBLIC for public in _public_module(name).__all__)
    twice = {"identify", "PruneCallback", *errors.__all__}
    assert {name for name, count in names.items() if count > 1} <= twice


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_lists_its_public_names_alone(name: str) -> None:
    module = _public_module(name)
    if Path(str(module.__file__)).with_suffix(".pyi").exists():  # others are written out, with what they import
        assert [public for public in dir(module) if not public.startswith("__")] == module.__all__


def test_importing_prunetune_imports_no_torch() -> None:
    program = "import sys, prunetune; prunetune.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_what_is_shown_imports_public_names(path: Path) -> None:
    text = path.read_text()
    for module, names in re.findall(r"^(?:>>> )?from (prunetune[\w.]*) import (.+)$", text, re.MULTILINE):
        assert module in PUBLIC, f"from {module} import {names}"
        assert set(re.findall(r"\w+", names)) <= {*_public_module(module).__all__}, f"from {module} import {names}"
    for name in re.findall(r"(?<![\w.\"'-])pt\.(\w+)", text):
        assert name in _public_module("prunetune").__all__, f"pt.{name}"
    for name in re.findall(r"`(prunetune(?:\.\w+)+)", text):
        parent, _, last = name.rpartition(".")
        assert name in PUBLIC or (parent in PUBLIC and last in _public_module(parent).__all__), name


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [*((prunetune, *names) for names in RENAMED.items()), *((errors, *names) for names in ERRORS.items())],
)
def test_an_old_name_warns_and_is_the_new_one(module: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{old} is named prunetune\.(errors\.)?{new} now$"):
        found = getattr(module, old)
    assert found is getattr(module, new)


@pytest.mark.parametrize("module", [prunetune, errors])
def test_any_other_name_is_none(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing  # pyright: ignore[reportAttributeAccessIssue]
