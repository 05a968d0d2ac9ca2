"""What `pt.audit` gives to somebody at a notebook or a terminal: an HTML element, data frames, progress."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import prunetune as pt
from prunetune.api import Audit, Prepared
from prunetune.errors import ConfigError
from prunetune.execution import progress
from prunetune.execution.events import Cached, Event, Failed
from prunetune.execution.executors.local import LocalExecutor
from prunetune.plan.compile import Plan, Remaining
from prunetune.report.results_files import canonical
from prunetune.report.write_report import write_report
from prunetune.rows import Correlation, Trial
from tests.support.pages import BROWSER, Page, browse, needs_browser, plain
from tests.support.planted import HOSTILE, planted, scarred
from tests.support.refusals import refused
from tests.support.toy_study import TINY_AUDIT


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    results = canonical(scarred(planted(masks=("iterative", "admm"), seeds=3)))  # sorted, as those of an audit are
    return Audit(write_report(results, tmp_path_factory.mktemp("report")), results)


@pytest.fixture(scope="module")
def html(found: Audit) -> str:
    return found._repr_html_()


def test_its_repr_is_a_line_and_its_text_the_whole_answer(found: Audit) -> None:
    assert "\n" not in repr(found)
    first = str(found).splitlines()[0]
    assert first.startswith("At learning rate 0.1")
    assert repr(found).endswith(f": {first}>")
    assert str(found) == found.report.text


# --- the HTML element


def test_it_shows_every_verdict_the_recommendation_and_the_accuracies(found: Audit, html: str) -> None:
    page = Page(html)
    badges = [element["data-verdict"] for element in page.all("div") if element.get("class") == "ruling"]
    assert sorted(map(str, badges)) == sorted(verdict.winning_property for verdict in found.verdicts)
    assert str(found).splitlines()[0] in page.text
    assert "train the sparse network from" in page.text
    assert len(page.all("figure")) == 4  # two rates, two mask algorithms
    assert str(found.report.page) in page.text


def test_it_loads_nothing_runs_nothing_and_quotes_names(html: str) -> None:
    assert not re.search(r"(src|href)=[\"'](?!#)|url\((?!#)|@import|<script|<link|<iframe| on\w+=", html)
    assert HOSTILE in Page(html).text


def test_its_style_holds_for_itself_alone(html: str) -> None:
    sheet = html[html.index("<style>") + 7 : html.index("</style>")]
    depth, outer = 0, ""
    for character in re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL):
        depth -= character == "}"
        outer += character if depth == 0 and character not in "{}" else "\n" if character == "{" and not depth else ""
        depth += character == "{"
    selectors = [line.strip() for line in outer.splitlines() if line.strip() and not line.strip().startswith("@media")]
    assert selectors
    assert all(selector.endswith(".prunetune") for selector in selectors)


def test_two_audits_in_a_notebook_share_no_ids(found: Audit, html: str) -> None:
    other = Audit(found.report, planted(masks=("iterative", "admm"), seeds=3))._repr_html_()
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (html, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((html, other), ids, strict=True):
        assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text)) <= own


@needs_browser
@pytest.mark.parametrize(("theme", "paper"), [("true", "rgb(255, 255, 255)"), ("false", "rgb(23, 29, 36)")])
def test_it_takes_the_notebooks_theme(html: str, tmp_path: Path, theme: str, paper: str) -> None:
    assert BROWSER
    script = "document.title = getComputedStyle(document.querySelector('.prunetune')).backgroundColor"
    page = tmp_path / "notebook.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><body data-jp-theme-light="{theme}">{html}<script>{script}</script>',
        encoding="utf-8",
    )
    assert f"<title>{paper}</title>" in browse(tmp_path, page, "--dump-dom").decode()


# --- data frames


@pytest.mark.parametrize(("rows", "kind"), [("trials", Trial), ("correlations", Correlation)])
def test_a_data_frame_has_every_row_and_the_columns_of_the_csv(found: Audit, rows: Any, kind: type) -> None:
    pandas = pytest.importorskip("pandas")
    frame = found.to_dataframe(rows)
    assert list(frame.columns) == [field.name for field in fields(kind)]
    assert len(frame) == len(getattr(found.results, rows))
    written = pandas.read_csv(found.report.page.with_name(f"{rows}.csv"))
    name = "test_accuracy" if rows == "trials" else "value"
    assert frame[name].to_list() == pytest.approx(written[name].to_list(), nan_ok=True)


def test_trials_are_the_rows_by_default(found: Audit) -> None:
    pytest.importorskip("pandas")
    assert found.to_dataframe().equals(found.to_dataframe("trials"))


def test_without_pandas_a_line_says_what_to_install(found: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refused("", "prunetune[notebook]"):
        found.to_dataframe()


@pytest.mark.parametrize("rows", ["trial", []])
def test_other_rows_are_refused(found: Audit, rows: Any) -> None:
    with refused("rows", rows, "trials"):
        found.to_dataframe(rows)


def test_a_measurement_that_failed_fails_the_audit(tmp_path: Path) -> None:
    """In a study that is stored no trial lacks a result then, and the exit code must still tell."""

    class Failing:
        def run(self, plan: Plan, store: Any) -> Iterator[Event]:
            kinds = {"barriers": "on a disk that is full", "movement": "on another one"}
            for asked in plan.quantities:
                if asked.kind in kinds:
                    yield Failed(asked.step.key, kinds[asked.kind], "OSError")

    study = TINY_AUDIT | {"arms": ["ticket"], "measure": ["movement", "barriers", "curvature"]}
    done = pt.audit(study, store=tmp_path / "s", out=tmp_path / "o", executor=Failing())  # pyright: ignore
    trials = {f"{arm} seed 0: not run" for arm in ("dense None", "ticket one_shot")}  # nothing is stored here
    assert set(done.failures) - trials == {
        "movement of theta_0/theta_T lr 0.05 seed 0: on another one",
        "movement of ticket_0/ticket_T one_shot 50.0% lr 0.05 seed 0: on another one",
        "barriers of theta_T/ticket_T one_shot 50.0% lr 0.05 seed 0: on a disk that is full",
    }
    page = Page(done.report.page.read_text(encoding="utf-8"))
    for line in done.failed_measurements:
        assert plain(f"a measurement failed, {line}") in page.text


# --- progress


def console(terminal: bool | None = None, jupyter: bool | None = None) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=terminal, force_jupyter=jupyter)


@pytest.mark.parametrize(
    ("kind", "watched", "drawn"),
    [
        ({"terminal": True}, True, True),
        ({"terminal": False}, False, False),
        ({"jupyter": True}, True, False),  # no ipywidgets: lines
    ],
)
def test_who_looks_on(kind: dict[str, bool], watched: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    assert progress.is_watched(console(**kind)) is watched
    assert progress.is_drawn(console(**kind)) is drawn


def test_a_notebook_with_ipywidgets_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object())
    assert progress.is_drawn(console(jupyter=True))


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_progress_is_shown_where_it_is_asked_for_or_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, terminal: bool, shown: bool
) -> None:
    displays: list[progress.Progress] = []
    events: list[Any] = []

    def made(planned: Plan, remaining: Remaining) -> progress.Progress:
        displays.append(progress.Progress(planned, remaining, console()))
        return displays[-1]

    def run(prepared: Prepared, folder: Path, *, on_event: Callable[[Event], None], **options: Any) -> None:
        for step in prepared.plan.steps:
            on_event(Cached(step.key))

    monkeypatch.setattr("prunetune.api.Progress", made)
    monkeypatch.setattr("prunetune.api.is_watched", lambda: terminal)
    monkeypatch.setattr("prunetune.api.run_study", run)
    pt.audit(TINY_AUDIT, store=tmp_path / "s", out=tmp_path / "o", on_event=events.append, progress=asked)
    assert len(events) > 4
    assert [display.finished for display in displays] == ([4] if shown else [])  # trainings


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"overrides": "seeds=1"}, "overrides: 'seeds=1' is a str; must be a list of texts"),
        ({"overrides": None}, "overrides: None; must be a list of texts"),
        ({"overrides": [1]}, "overrides: 1 is a int; must be a list of texts"),
        ({"store": 3}, "store: 3 is a int; must be a folder or a URL"),
        ({"out": 3}, "out: 3 is a int; must be a path"),
        ({"device": ["cpu"]}, "device: ['cpu'] is a list; must be auto, cpu, cuda or mps"),
        ({"on_event": 3}, "on_event: 3 is a int; must be a function"),
        ({"executor": 3}, "executor: 3 is a int; must be an executor"),
        ({"executor": LocalExecutor}, "is a class; must be an executor"),
    ],
)
def test_a_wrong_type_is_one_line(more: dict[str, Any], line: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"store": tmp_path / "s", "out": tmp_path / "o"} | more
    with pytest.raises(ConfigError, match=re.escape(line)):
        pt.audit(TINY_AUDIT, **asked)
    assert not (tmp_path / "s").exists()
