import base64
import dataclasses
import hashlib
import html
import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunetune.analysis.verdict import Verdict
from prunetune.report.answer import answers
from prunetune.report.page import page_text
from prunetune.report.text import whys
from prunetune.report.write_report import Report, write_report
from prunetune.rows import Results
from tests.support.pages import Page, browse, needs_browser, plain
from tests.support.planted import HOSTILE, planted, scarred

HEADINGS = """Left out: diverged or missing
Accuracy against sparsity
Mask algorithms together
Comparisons
Weight overlap
Trainings
Budget
Invariants
Layers
The rule, and its limits
Environment""".splitlines()
TABLES = (
    *("recommendation", "comparisons", "dense", "means", "trials", "correlations"),
    *("budget", "invariants", "layers", "missing", "environment"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    return write_report(scarred(planted(masks=("iterative", "admm"))), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(report) -> str:
    return report.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_nothing_is_loaded_and_nothing_runs(text, page):
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:", text, re.IGNORECASE)
    assert not page.all("link")
    assert not page.all("img")
    assert not [attribute for _, attributes in page.elements for attribute in attributes if attribute.startswith("on")]
    assert all((anchor["href"] or "").startswith("#") for anchor in page.all("a"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'")


def test_hostile_names_are_text(text, page):
    assert text.count("<script") == 1
    for where in (f"quick {HOSTILE}", f"aux.{HOSTILE}.weight", f"excluded by {HOSTILE}", f"while writing {HOSTILE}"):
        assert where in page.text


def test_it_leads_with_the_answer_and_then_the_verdict(report, page):
    words = page.text
    said = report.text.splitlines()[0]
    assert words.index(said) < words.index("Cost") < words.index("Learning rate 0.01") < words.index("Starts side by")
    badges = [element["data-verdict"] for element in page.all("span") if element.get("class") == "badge"]
    assert badges == [verdict.winning_property for verdict in report.verdicts]
    assert len(badges) == 4
    for verdict in report.verdicts:
        assert all(plain(sentence) in words for sentence in whys(verdict))
        assert f"Pre-training: {verdict.pretraining}." in words
        assert verdict.dense is not None
        assert all(plain(line) in words for line in verdict.dense.lines)


def test_everything_that_a_reader_needs_is_on_it(page):
    words = page.text
    assert "Rp at p = 0.2 is left out at 0.875 <b>" in words  # a note of the plan's, escaped
    for heading in HEADINGS:
        assert heading in words
    assert "They do not cover the choice of the test examples" in words
    assert "Margin 0.5 points, gap 0.5 points, α 0.05." in words
    assert "prunetune audit quick --jobs 2" in words
    assert "milestones: [3.2, 4.8]" in words
    assert "diverged: the loss was not finite" in words
    assert "AVX2" in words
    tables = {element.get("id") for element in page.all("table")}
    assert {f"table-{name}" for name in TABLES} <= tables


def test_it_calls_nothing_an_image_of_which_it_does_not_know_that(page):
    """Signals and rows of tables are classified too."""
    assert re.findall(r"[^.]*\bimages?\b[^.]*", page.text.replace("test_images", "")) == []


def test_every_figure_is_on_it_and_is_a_file(report, page):
    files = {path.stem for path in (report.page.parent / "figures").glob("*.svg")}
    assert {(element.get("id") or "").removeprefix("figure-") for element in page.all("figure")} == files
    assert len(page.all("svg")) == len(files) == 8 + 8 + 4 + 1 + 1


def test_it_can_be_read_out(page):
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids
    assert all(heading.get("scope") in ("row", "col") for heading in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(svg.get("role") == "img" and svg.get("aria-labelledby") for svg in page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1


def ruled(verdict: Verdict, answer: Any) -> Verdict:
    return dataclasses.replace(verdict, winning_property=answer)


def test_a_study_without_the_arms_of_the_property_is_told_as_one_that_does_not_ask(tmp_path):
    text = _text(planted(arms=("ticket", "finetune"), seeds=3), tmp_path).replace("\N{NO-BREAK SPACE}", " ")
    assert "Not asked at 0.1; at 0.01 the dense network is insufficient." in text
    assert "To have it judged, add to the study's arms: reinit." in text
    assert "has no result in seed" not in text


def test_mixed_environments_are_flagged():
    results = planted(seeds=1)
    assert "Mixed environments" not in Page(page_text(results, answers(results), ())).text
    mixed = dataclasses.replace(results, environment=results.environment | {"mixed": ["torch: 2.12, 2.13"]})
    assert "Mixed environments" in Page(page_text(mixed, answers(mixed), ())).text


def _text(results: Results, folder: Path) -> str:
    return Page(write_report(results, folder).page.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    "results",
    [
        Results({}, {}, (), (), (), (), (), (), ()),
        planted(seeds=1, rates=(0.1,)),
        dataclasses.replace(planted(seeds=2), correlations=(), budget=(), layers=(), invariants=()),
        dataclasses.replace(planted(seeds=1), trials=planted(seeds=1).trials[:1]),
    ],
    ids=["nothing at all", "one seed and rate", "no correlations", "one dense run"],
)
def test_small_and_empty_studies_have_a_page_too(results, tmp_path):
    words = _text(results, tmp_path)
    assert "The rule, and its limits" in words
    assert "nan" not in words.lower().split()
    assert "None" not in words.split()


def test_guessing_is_recognised_when_the_environment_says_what_it_scores(tmp_path):
    results = planted(seeds=3)
    stuck = tuple(dataclasses.replace(t, test_accuracy=10.0) if t.arm == "reinit" else t for t in results.trials)
    results = dataclasses.replace(results, trials=stuck)
    text = _text(results, tmp_path)
    assert "stuck at chance" not in text
    assert "Not all of them learned." not in text
    told = dataclasses.replace(results, environment=results.environment | {"outputs": 10, "test_images": 10_000})
    text = _text(told, tmp_path)
    assert "stuck at chance" in text
    assert "no better than guessing: reinit at 50 %, iterative masks, learning rate 0.01, in seeds 0, 1 and 2;" in text
    assert "learning rate 0.1, in seeds 0, 1 and 2." in text  # eight means are named, and none is left over


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [320, 375, 768, 1440])
def test_no_width_needs_scrolling_sideways(text, tmp_path, width):
    wrapper = tmp_path / "wrapper.html"
    unfolded = text.replace("<details", "<details open")
    wrapper.write_text(
        f'<!doctype html><iframe style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{html.escape(unfolded)}"></iframe>'
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "document.body.textContent = 'measured ' + page.documentElement.scrollWidth + ' of ' + page.body.clientWidth"
        " + ' with ' + page.querySelectorAll('svg').length; }</script>",
        encoding="utf-8",
    )
    found = re.search(rb"measured (\d+) of (\d+) with (\d+)", browse(tmp_path, wrapper, "--dump-dom"))
    assert found is not None
    scroll, client, drawings = map(int, found.groups())
    assert drawings == 22
    assert width - 20 <= client <= width  # less a scroll bar
    assert scroll <= client


@pytest.mark.browser
@needs_browser
def test_it_shows_something_in_light_and_in_dark(report, tmp_path):
    seen = {}
    for theme, setting in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{theme}.png"
        options = (
            f"--screenshot={shot}",
            "--window-size=1200,1600",
            f"--blink-settings=preferredColorScheme={setting}",
        )
        browse(tmp_path, report.page, *options)
        seen[theme] = Image.open(io.BytesIO(shot.read_bytes())).convert("L")
    brightness = {theme: picture.resize((1, 1)).getpixel((0, 0)) for theme, picture in seen.items()}
    assert brightness["light"] > 200 > 80 > brightness["dark"]
    for picture in seen.values():
        assert picture.size == (1200, 1600)
        assert len(picture.getcolors(256) or []) > 60  # text and lines, not a blank sheet
