"""The pages as text: links lead somewhere, prose has one sentence per line, the package's description stands alone."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "studies" / "README.md"])
SOURCES = [path for folder in ("src", "tests", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
WIDTH = 120
_CODE = re.compile(r"`+[^`]+`+|!?\[[^\]]*\]\([^)]*\)")
_END = re.compile(
    r"(?<!\bet al)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\b[A-Z])(?<!^\d)[.?!]['\")*_]* +['\"(*_`\[]*[A-ZΑ-Ωθκ]"
)


def _prose(text: str) -> Iterator[str]:
    """The lines of paragraphs and lists: no headings, tables, comments, pictures and code."""
    fenced = code = False
    blank = True
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        code = line.startswith("    ") and (blank or code)
        blank = not line.strip()
        if not (fenced or code or line.lstrip().startswith(("```", "|", "#", "<"))):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text()):
        link = target[0] or target[1]
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_pages_that_code_names_are_there() -> None:
    for path in [*SOURCES, *ROOT.glob("studies/*/study.yaml"), *ROOT.glob("src/**/*.yaml")]:
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_has_one_sentence_per_line(page: Path) -> None:
    for line in _prose(page.read_text()):
        text = _CODE.sub("x", line)  # which no line end may split
        assert len(line) <= WIDTH or len(text.split()) == 1, line
        assert not _END.search(text), line


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_every_extra_is_in_the_table(page: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (table,) = re.findall(r"^\| extra \|.*?(?:\n\n|\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(extras)


def test_the_page_on_citing_says_what_the_file_says() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    software, paper = re.findall(r"^@\w+\{.*?^\}", (ROOT / "docs/how-to/cite.md").read_text(), re.MULTILINE | re.DOTALL)
    (reference,) = citation["references"]
    for entry, source in ((software, citation), (paper, reference)):
        assert f"{{{source['title']}}}" in entry
    assert f"{{{citation['version']}}}" in software
    assert f"{{{citation['date-released'][:4]}}}" in software
    people = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in reference["authors"])
    assert people in " ".join(paper.split())
    for value in (reference["collection-title"], reference["volume-title"], reference["identifiers"][0]["value"]):
        assert f"{{{value}}}" in paper
    assert f"{{{reference['year']}}}" in paper


def test_the_description_of_the_package_stands_alone() -> None:
    """An index shows it without the repository: no picture, and no link to a file."""
    assert not re.search(r"!\[|<img|\]\((?!https://)", (ROOT / "docs" / "package.md").read_text())


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## \[(\d[\d.]*)\](?: - ([\d-]+))?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (citation["version"], citation["date-released"]) == changes[0]
