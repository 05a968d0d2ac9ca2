"""The documentation's examples run, and the documentation names only what there is."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import prunetune
from prunetune.study.plan import plan
from prunetune.study.spec import load_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MODULES = [m.name for m in pkgutil.walk_packages(prunetune.__path__, "prunetune.") if "worker" not in m.name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_extending_shows_examples() -> None:
    assert len(re.findall(r"^>>> ", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
        link = target[0] or target[1]
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_spec_in_the_readme_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    spec = load_spec(yaml.safe_load(text))
    assert plan(spec).trainings > 0
