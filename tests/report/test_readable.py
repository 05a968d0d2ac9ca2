"""Pages as people read them: texts that stand out in both themes, one vocabulary, indices that are set, on paper."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunetune.report.comparison.comparison_page import write_comparison
from prunetune.report.comparison.comparison_rows import compare_studies, read_studies
from prunetune.report.page import typeset
from prunetune.report.write_report import write_report
from tests.report.test_figures import contrast
from tests.support.pages import browse, needs_browser
from tests.support.planted_views import viewed

TEXTS = {  # what is set in it -> what is behind it
    "ink": ("paper", "page", "soft"),
    "muted": ("paper", "page"),
    "link": ("paper", "page"),
    "paper": ("ink",),  # the value at a mark
    "yes": ("yes-back",),
    "no": ("no-back",),
    "open": ("open-back",),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("readable")
    report = write_report(viewed(masks=("iterative",), seeds=3), folder / "audit").page
    found = compare_studies(read_studies([folder / "audit"]), resamples=60)
    return {"audit": report, "compare": write_comparison(found, folder / "compare").page}


def themes(page: str) -> Iterator[dict[str, str]]:
    """The variables of the light theme and of the dark one, as the style sheet of the page has them."""
    for rules in re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]:
        yield dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})\b", rules))


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_texts_stand_out_from_what_is_behind_them(name: str, pages: dict[str, Path]) -> None:
    """WCAG AA: 4.5 to 1."""
    light, dark = themes(pages[name].read_text(encoding="utf-8"))
    assert contrast(light["paper"], "#000000") > 15 > 3 > contrast(dark["paper"], "#000000")
    for variables in (light, dark):
        for text, backs in TEXTS.items():
            for back in backs:
                assert contrast(variables[text], variables[back]) >= 4.5, (text, back)


def said(page: str) -> str:
    """What is seen of a page, what is set lower left out: without code, and without what is read out only."""
    seen = re.sub(r"<(style|script|title|desc|pre|code|sub|sup)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    seen = re.sub(r'<tspan dy="0.3em"[^>]*>.*?</tspan>', "", seen, flags=re.DOTALL)
    apart = re.sub(r"<(?:th|td|li|p|text|span)[ >]", r" | \g<0>", seen)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", apart)))


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_indices_are_set_and_signs_are_true(name: str, pages: dict[str, Path]) -> None:
    seen = said(pages[name].read_text(encoding="utf-8"))
    assert "R(θ, θ)" in seen  # R_p(θ_0, θ_T), of which what is lower is left out
    for raw in (r"\bR_", r"θ_", r"θ[0T]", r"\btheta_", r"\b[Kk]appa \d", r"e\^", r"(?<![\w.])-\d"):
        assert re.findall(rf".{{0,30}}{raw}.{{0,20}}", seen) == []


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_an_answer_is_yes_no_or_undecided(name: str, pages: dict[str, Path]) -> None:
    page = pages[name].read_text(encoding="utf-8")
    others = {"kept", "breached", "tie", "behind", "not asked", "exceeds", "agrees", "disagrees", "condition not met"}
    states = {"sufficient", "insufficient", "converged, still correlated", "best of those tried"}
    answers = set(re.findall(r'data-answer="([^"]*)"', page))
    assert {one for one in answers if not one.startswith("not tested")} <= {"yes", "no", "undecided"} | others | states
    assert not re.findall(r"<td[^>]*>(?:holds|fails|inconclusive|open|not checked)\b", page)


def test_only_names_with_an_index_are_set() -> None:
    assert typeset("R_p of e^-kappa, kappa 0.5") == "R<sub>p</sub> of e<sup>−κ</sup>, κ 0.5"
    assert typeset("R_.2(theta_0, θT).") == "R<sub>.2</sub>(θ<sub>0</sub>, θ<sub>T</sub>)."
    assert typeset("4ep-kappa2, my_R_p, theta_0th, R_x, <b>") == "4ep-kappa2, my_R_p, theta_0th, R_x, &lt;b&gt;"


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_figures_say_what_is_seen(name: str, pages: dict[str, Path]) -> None:
    page = pages[name].read_text(encoding="utf-8")
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) > 2
    for figure in figures:
        title, words = (re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", figure, re.DOTALL) for tag in ("title", "desc"))
        assert title is not None
        assert words is not None
        assert len(re.findall(r"\d", words[1])) > 3  # the numbers, not only what kind of figure it is


@pytest.mark.browser
@needs_browser
def test_on_paper_every_chapter_is_unfolded(pages: dict[str, Path], tmp_path: Path) -> None:
    unfolded = tmp_path / "unfolded.html"
    unfolded.write_text(pages["audit"].read_text(encoding="utf-8").replace("<details", "<details open"))
    counts = []
    for page in (pages["audit"], unfolded):
        browse(tmp_path, page, f"--print-to-pdf={tmp_path / 'page.pdf'}")
        counts.append(len(re.findall(rb"/Type /Page\b", (tmp_path / "page.pdf").read_bytes())))
    assert counts[0] > 8  # folded it would be two
    assert abs(counts[0] - counts[1]) <= 1


MEASURE = """
const page = document.querySelector('iframe').contentDocument, cut = [];
for (const svg of page.querySelectorAll('svg')) {
  const whole = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (box.left < whole.left || box.right > whole.right || box.bottom > whole.bottom) cut.push(text.textContent);
  }
}
for (const table of page.querySelectorAll('.scroll')) {
  if (table.scrollWidth > table.clientWidth) cut.push(table.getAttribute('aria-label'));
}
document.body.textContent = `measured ${page.querySelectorAll('svg text').length} cut [${cut.join('; ')}]`;
"""


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("name", ["audit", "compare"])
def test_nothing_is_cut_on_a_desk(name: str, pages: dict[str, Path], tmp_path: Path) -> None:
    unfolded = html.escape(pages[name].read_text(encoding="utf-8").replace("<details", "<details open"))
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><iframe style="width:1280px;height:800px" srcdoc="{unfolded}"></iframe>'
        f"<script>onload = () => {{{MEASURE}}}</script>",
        encoding="utf-8",
    )
    found = re.search(r"measured (\d+) cut \[(.*?)\]", browse(tmp_path, wrapper, "--dump-dom").decode())
    assert found is not None
    assert int(found[1]) > 50
    assert found[2] == ""
