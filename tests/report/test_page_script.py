"""What the page's one script adds, in Chromium: values at marks, series that hide, tables that sort."""

import html
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from prunetune.analysis.pairing import percent
from prunetune.report.write_report import write_report
from tests.support.pages import browse, needs_browser
from tests.support.planted import ARMS, planted, scarred

RUN = """
const results = {};
const page = document.querySelector('iframe').contentDocument, seen = (part) => part.getClientRects().length > 0;
const key = (name) => page.activeElement.dispatchEvent(
  new page.defaultView.KeyboardEvent('keydown', {key: name, bubbles: true}));
const all = (selector, name) => [...page.querySelectorAll(selector)].map((element) => element.getAttribute(name));
const series = (group) => [...page.querySelectorAll(`${group} svg`)].map((svg) =>
  [...new Set([...svg.querySelectorAll('[data-series]')].filter(seen).map((mark) => mark.dataset.series))]);
const entry = (name) => page.querySelector(`#accuracy [data-entry="${name}"][role="button"]`);
const rows = () => [...page.querySelectorAll('#table-comparisons tbody tr')];
const column = (at) => rows().map((row) => row.cells[at].textContent);
const tip = () => [page.getElementById('tip').textContent, page.getElementById('tip').getClientRects().length];

results.labels = all('#figure-answer :is([data-series], [data-series] *)[aria-label]', 'aria-label');
results.titles = page.querySelectorAll('[data-series] title').length;

results.before = series('#accuracy');
entry('reinit').dispatchEvent(new Event('click'));
results.hidden = series('#accuracy');
results.elsewhere = series('#answer');
results.pressed = all('#accuracy [data-entry="reinit"][role="button"]', 'aria-pressed');
entry('reinit').focus();
key('Enter');
results.again = series('#accuracy');

page.querySelector('#figure-answer [tabindex="0"]').focus();
results.first = page.activeElement.getAttribute('aria-label');
results.stops = page.querySelectorAll('#figure-answer [tabindex="0"]').length;
key('End');
results.last = [page.activeElement.getAttribute('aria-label'), ...tip()];
key('ArrowLeft');
results.left = [page.activeElement.getAttribute('aria-label'), ...tip()];
key('Escape');
results.escaped = tip()[1];

const box = page.querySelector('#figure-answer [data-series="ticket"] use').getBoundingClientRect();
page.querySelector('#figure-answer svg').dispatchEvent(new page.defaultView.PointerEvent('pointermove',
  {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true}));
results.hovered = tip();

const heads = [...page.querySelectorAll('#table-comparisons thead th')];
const [at, kinds] = ['Mean', 'Difference'].map((title) => heads.findIndex((th) => th.textContent === title));
const sort = (index) => heads[index].querySelector('button').click();
results.unsorted = column(at);
sort(kinds); sort(at);
results.rising = column(at);
results.said = heads.map((th) => th.getAttribute('aria-sort'));
sort(at);
results.falling = column(at);
results.saidThen = heads[at].getAttribute('aria-sort');
sort(kinds);
results.byKind = [column(kinds), column(at)];
document.body.textContent = 'found ' + encodeURIComponent(JSON.stringify(results)) + ' end';
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripted")
    write_report(scarred(planted(seeds=3)), folder)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page showed before and after each thing that a reader may do."""
    unfolded = (folder / "report.html").read_text(encoding="utf-8").replace("<details", "<details open")
    wrapper = tmp_path_factory.mktemp("wrapper") / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><iframe style="width:1280px;height:900px" srcdoc="{html.escape(unfolded)}"></iframe>'
        f"<script>onload = () => {{{RUN}}}</script>",
        encoding="utf-8",
    )
    told = re.search(rb"found (\S+) end", browse(wrapper.parent, wrapper, "--dump-dom"))
    assert told is not None
    return json.loads(unquote(told[1].decode()))


pytestmark = [pytest.mark.browser, needs_browser]


def mean_and_range(folder: Path, arm: str, sparsity: float) -> list[float]:
    rows = json.loads((folder / "results.json").read_text())["trials"]
    values = [
        row["test_accuracy"]
        for row in rows
        if (row["arm"], row["sparsity"], row["learning_rate"], row["diverged"]) == (arm, sparsity, 0.1, False)
    ]
    return [statistics.mean(values), min(values), max(values)]


def test_a_mark_says_what_the_file_of_results_says(folder: Path, found: dict[str, Any]) -> None:
    sparsities = (0.5, 0.75, 0.875, 0.9375)
    expected = [("dense", 0.0), *((arm, sparsity) for arm in ARMS for sparsity in sparsities)]
    assert found["titles"] == 0  # or the browser would show them a second time
    assert len(found["labels"]) == len(expected)
    for label, (arm, sparsity) in zip(found["labels"], expected, strict=True):
        place = f"{arm}, {percent(sparsity)}: " if sparsity else f"{arm}: "
        assert label.startswith(place)
        numbers = [float(number) for number in re.findall(r"\d+\.\d\d", label.removeprefix(place))]
        assert numbers == [round(value, 2) for value in mean_and_range(folder, arm, sparsity)]


def test_an_entry_hides_its_arm_in_all_figures_of_its_group_and_shows_it_again(found: dict[str, Any]) -> None:
    assert len(found["before"]) == 2
    assert all(set(series) == {"dense", *ARMS} for series in found["before"])
    assert all(set(series) == {"dense", *ARMS} - {"reinit"} for series in found["hidden"])
    assert found["pressed"] == ["false", "false"]
    assert found["elsewhere"] == [["dense", *ARMS]]
    assert found["again"] == found["before"]


def test_a_figure_is_walked_by_keys(found: dict[str, Any]) -> None:
    assert found["stops"] == 1
    assert found["first"] == "dense"
    label, said, shown = found["last"]
    assert label == said == found["labels"][-1]
    assert shown == 1
    assert found["left"] == [found["labels"][-2], found["labels"][-2], 1]
    assert found["escaped"] == 0


def test_the_pointer_shows_the_same(found: dict[str, Any]) -> None:
    assert found["hovered"] == [found["labels"][1], 1]


def numbers(cells: Sequence[str]) -> list[float]:
    return [float(cell.replace("−", "-")) for cell in cells]


def test_a_table_sorts_by_numbers_both_ways_and_is_stable(found: dict[str, Any]) -> None:
    unsorted = numbers(found["unsorted"])
    assert unsorted != sorted(unsorted)
    assert min(unsorted) < -1  # by its characters, −0.5 would come before −1.5
    assert numbers(found["rising"]) == sorted(unsorted)
    assert numbers(found["falling"]) == sorted(unsorted, reverse=True)
    assert [said for said in found["said"] if said] == ["ascending"]
    assert found["saidThen"] == "descending"
    kinds, means = found["byKind"]
    assert kinds == sorted(kinds)
    for kind in set(kinds):  # within a kind the means fall, as they did before
        own = numbers([mean for name, mean in zip(kinds, means, strict=True) if name == kind])
        assert own == sorted(own, reverse=True)
