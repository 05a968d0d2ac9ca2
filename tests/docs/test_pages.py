"""The pages as text: links lead somewhere, prose has one sentence per line, the package's description stands alone."""

import re
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


def test_the_description_of_the_package_stands_alone() -> None:
    """An index shows it without the repository: no picture, and no link to a file."""
    assert not re.search(r"!\[|<img|\]\((?!https://)", (ROOT / "docs" / "package.md").read_text())


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## \[(\d[\d.]*)\](?: - ([\d-]+))?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (citation["version"], citation["date-released"]) == changes[0]
