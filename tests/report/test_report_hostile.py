"""Pages and figures of studies with hostile names and numbers: nothing in them runs, and nothing is loaded."""

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prunetune.errors import LONGEST_LINE, ConfigError
from prunetune.report.comparison.comparison_page import write_comparison
from prunetune.report.comparison.comparison_rows import compare_studies, read_studies
from prunetune.report.tradeoff.tradeoff_page import render_tradeoff_again, write_tradeoff
from prunetune.report.tradeoff.tradeoff_rows import ParameterDensity, Tradeoff
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Results
from tests.report.test_tradeoff import found  # noqa: F401 - a fixture
from tests.support.pages import BROWSER, SCRIPT, needs_browser
from tests.support.planted import HOSTILE, planted, scarred
from tests.support.planted_views import viewed

POLICY = "default-src 'none'; {scripts}style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NAMES = {
    "markup": HOSTILE + '"><img src=x onerror=alert(1)>' + "]]></text><script>x</script>",
    "control": "a\x00b\x1b[2J\x7f\ud800",
    "foreign": "名前 θ $x^2$ ../../x",
}
LOADS = ("src", "href", "srcset", "data", "action", "poster", "background", "formaction", "cite", "xlink:href")


class Elements(HTMLParser):
    """Every element of a page with its attributes, as a browser's parser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def assert_loads_and_runs_nothing(text: str, scripts: str = "") -> None:
    """The policy stands first in the page, and nothing in it needs more than it allows: no script but this one."""
    digest = base64.b64encode(hashlib.sha256(scripts.encode()).digest()).decode()
    text = text.replace(f"<script>{scripts}</script>", "", 1)
    elements = Elements(text).found
    policies = [a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a]
    assert policies == [POLICY.format(scripts=f"script-src 'sha256-{digest}'; " if scripts else "")]
    tags = [tag for tag, _ in elements]
    assert tags.index("meta") < tags.index("style")
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "img", "image", "foreignobject"} & set(
        tags
    )
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in LOADS:
            target = attributes.get(name, "#")
            is_link = tag == "a" and re.match(r"https://|[\w./-]+$", target)
            assert target.startswith(("#", "data:")) or is_link, (tag, target)
        assert not re.search(r"url\((?!#)|@import|expression\(", attributes.get("style", "")), (tag, attributes)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import", styles[0])


def assert_svg_is_a_drawing(path: Path) -> None:
    """Well-formed, of elements that only draw, with references into itself alone."""
    for element in ET.parse(path).iter():
        assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "image", "a", "style", "iframe")
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name.endswith("href"):
                assert value.startswith("#")


def renamed(results: Results, name: str) -> Results:
    """The study with `name` wherever a name can stand."""

    def put(row: Any) -> Any:
        new = {"mask": name, "arm": name, "layer": name, "why": name, "note": name}
        old = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        change = {
            key: value
            for key, value in new.items()
            if old.get(key) and old[key] not in ("dense", "ticket", "reinit", "finetune")
        }
        return dataclasses.replace(row, **change)

    rows = ("trials", "correlations", "missing", "budget", "residuals", "connectivity", "overlap_by_layer")
    changed: dict[str, Any] = {rows_of: tuple(map(put, getattr(results, rows_of))) for rows_of in rows}
    layers = tuple(dataclasses.replace(row, name=f"{i}.{name}", reason=name) for i, row in enumerate(results.layers))
    study = results.study | {"name": name, "model": name, "data": name, "model_args": {name: name}}
    environment = results.environment | {"command": name, name: name}
    return dataclasses.replace(results, **changed, layers=layers, study=study, environment=environment, notes=(name,))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_report(name: str, tmp_path: Path) -> None:
    results = scarred(viewed(masks=("iterative",), seeds=3, rates=(0.1,)))
    page = write_report(renamed(results, name), tmp_path / "out").page
    assert_loads_and_runs_nothing(page.read_text(encoding="utf-8"), SCRIPT)
    figures = list((tmp_path / "out" / "figures").glob("*"))
    assert len(figures) > 4
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {page.parent, page.parent / "figures"}
    for figure in figures:
        assert re.fullmatch(r"[\w.-]+\.svg", figure.name, re.ASCII)
        assert_svg_is_a_drawing(figure)
    before = page.read_bytes()
    assert render_again(tmp_path / "out").page.read_bytes() == before


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_trade_off(name: str, found: Tradeoff, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    layers = (ParameterDensity(name, name, 9, 9, name), ParameterDensity(f"{name}.b", name, 9, 4, ""))
    rows = tuple(dataclasses.replace(row, layers=layers) for row in found.rows)
    words = {"name": name, "model": name, "data": name, "mask": name, "pattern": name, "missing": (name,)}
    own: dict[str, Any] = {"study": {name: name}, "environment": {"command": name, name: name}}
    page = write_tradeoff(dataclasses.replace(found, rows=rows, **words, **own), tmp_path).page
    assert_loads_and_runs_nothing(page.read_text(encoding="utf-8"), SCRIPT)
    for figure in (tmp_path / "figures").glob("*"):
        assert_svg_is_a_drawing(figure)
    before = page.read_bytes()
    assert render_tradeoff_again(tmp_path).page.read_bytes() == before


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a small study's file."""
    folder = tmp_path_factory.mktemp("written")
    write_report(planted(seeds=2, rates=(0.1,), arms=("ticket", "reinit")), folder)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": 1.0},
        {"sparsity": -1e308, "test_accuracy": 1e308},
        {"sparsity": None, "arm": "", "mask": ""},
        {"learning_rate": 10**400},
        {"learning_rate": None, "seed": 10**400, "epochs": -1},
    ],
    ids=lambda change: "-".join(change),
)
def test_numbers_that_no_study_comes_to(change: dict[str, Any], written: dict[str, Any], tmp_path: Path) -> None:
    """Shown, or refused in one line: the file may be anybody's."""
    trials = [*written["trials"][:-1], written["trials"][-1] | change]
    (tmp_path / "results.json").write_text(json.dumps(written | {"trials": trials}))
    assert_shown_or_one_line(tmp_path)


@pytest.mark.parametrize("depth", [400, 900])
def test_a_file_of_lists_within_lists(depth: int, written: dict[str, Any], tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(depth):
        deep = [deep]
    (tmp_path / "results.json").write_text(json.dumps(written | {"study": {"deep": deep}}))
    assert_shown_or_one_line(tmp_path)


def assert_shown_or_one_line(folder: Path) -> None:
    try:
        render_again(folder)
    except ConfigError as error:
        line = str(error)
        assert line.startswith(f"{folder}/results.json: ")
        assert line.isprintable()
        assert len(line) <= LONGEST_LINE


def test_figures_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    own = tmp_path / "figures" / "overview.svg"
    own.write_text("<svg/>")
    few: dict[str, Any] = {"seeds": 1, "arms": ("ticket",)}
    write_report(planted(rates=(0.01,), **few), tmp_path)
    assert (tmp_path / "figures" / "accuracy-0.01-iterative.svg").exists()
    write_report(planted(rates=(0.1,), **few), tmp_path)
    assert own.read_text() == "<svg/>"
    assert not (tmp_path / "figures" / "accuracy-0.01-iterative.svg").exists()


def violations(page: Path, profile: Path) -> str:
    """What a browser writes to its console while it shows a page."""
    assert BROWSER is not None
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    shows = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --v=0 --dump-dom"
    command = [BROWSER, *quiet.split(), *shows.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "</html>" in done.stdout
    return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.browser
@needs_browser
def test_a_browser_finds_nothing_to_refuse(found: Tradeoff, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    audit = write_report(scarred(planted(seeds=3, rates=(0.1,))), tmp_path / "audit").page
    pruned = write_tradeoff(found, tmp_path / "prune").page
    compared = write_comparison(compare_studies(read_studies([audit.parent]), resamples=60), tmp_path / "compare").page
    assert violations(audit, tmp_path / "profile") == ""
    assert violations(compared, tmp_path / "profile") == ""
    assert violations(pruned, tmp_path / "profile") == ""
    broken = tmp_path / "broken.html"
    broken.write_text(audit.read_text().replace("</main>", "<script>document.title = 'ran'</script></main>"))
    assert "Content Security Policy" in violations(broken, tmp_path / "profile")
