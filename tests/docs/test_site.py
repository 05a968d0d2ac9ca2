"""What the site generates from the code: all of it, with descriptions."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("mkdocs", reason="needs the extra prunetune[docs]")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("docs_site")


def test_every_command_and_option_is_there(site: ModuleType) -> None:
    from prunetune.cli.main import app

    text = "\n".join(site.command_line())
    group = typer.main.get_command(app)
    for verb, command in getattr(group, "commands", {}).items():
        assert f"## prunetune {verb}" in text
        options = [option for p in command.params if p.param_type_name == "option" for option in p.opts]
        assert [option for option in options if f"`{option}" not in text and f", {option}" not in text] == []


def test_every_field_is_described(site: ModuleType) -> None:
    assert [row for row in site.spec_fields() if row.endswith("|  |")] == []


def test_a_file_that_a_page_asks_for_is_shown_whole(site: ModuleType) -> None:
    pages = [(page, page.read_text()) for page in sorted((ROOT / "docs").rglob("*.md"))]
    asked = [(page, found[2]) for page, text in pages for found in site.GENERATED.finditer(text) if found[1] == "file"]
    assert {Path(name).parts[0] for _, name in asked} == {"examples"}
    for page, name in asked:
        _, *lines, _ = "\n".join(site.generated("file", name)).split("\n")
        assert "\n".join(lines) + "\n" == (ROOT / name).read_text()
        assert f"](../../{name})" in page.read_text(), f"{page.name} links no {name}"


def test_every_public_module_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference" / "api").glob("*.md"))
    names = (ROOT / "tests" / "docs" / "test_public_names.py").read_text()
    public = re.findall(r'^    "(prunetune[\w.]*)",$', names, re.MULTILINE)
    assert [name for name in public if f"generated: api {name} -->" not in pages] == []
