"""A difference shown to people has a true minus, on pages and in the terminal; files for machines have numbers."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

from prunetune.report.comparison.comparison_page import write_comparison
from prunetune.report.comparison.comparison_rows import cells_text, compare_studies, read_studies
from prunetune.report.write_report import write_report
from tests.support.planted import planted, stored
from tests.support.scored import REWARD, of_metric

HYPHEN_AS_MINUS = re.compile(r"(?:^|[\s\[(|])-\d.{0,20}", re.MULTILINE)
TRUE_MINUS = re.compile(r"−\d")


class Text(HTMLParser):
    """What a page says, its figures' descriptions included, without styles and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.said.append(data)


def test_page_and_terminal_of_a_study_have_one_minus(tmp_path: Path) -> None:
    report = write_report(planted(), tmp_path)
    for text in ("\n".join(Text(report.page.read_text()).said), report.text):
        assert HYPHEN_AS_MINUS.findall(text) == []
        assert TRUE_MINUS.search(text)
    rows = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert min(row["mean"] for row in rows) < 0


def test_scores_below_zero_have_the_same_minus(tmp_path: Path) -> None:
    """Every score of a reward is negative: in tables, sentences, figures and what is read out of them."""
    study = of_metric(planted(seeds=3), REWARD, lambda accuracy: accuracy - 200)
    report = write_report(study, tmp_path)
    assert TRUE_MINUS.search(report.text)
    for text in ("\n".join(Text(report.page.read_text()).said), report.text):
        assert HYPHEN_AS_MINUS.findall(text) == []
    (tmp_path / "results.json").read_text().index('"score": -1')  # numbers of files are numbers


def test_comparison_and_its_terminal_have_one_minus_and_its_csv_has_numbers(tmp_path: Path) -> None:
    studies = read_studies([stored(planted(), tmp_path / "one")])
    written = write_comparison(compare_studies(studies, resamples=60), tmp_path / "out")
    shown = ("\n".join(Text(written.page.read_text()).said), written.text)
    for text in (*shown, cells_text(studies, ("ticket iterative", "dense"), False, False)):
        assert HYPHEN_AS_MINUS.findall(text) == []
    with (tmp_path / "out" / "regimes.csv").open() as file:
        leads = [float(row["ticket − dense"]) for row in csv.DictReader(file)]
    assert min(leads) < 0
