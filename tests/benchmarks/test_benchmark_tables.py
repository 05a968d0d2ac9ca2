"""Records as Markdown: figures, goals, doubts; and pages that are filled with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.findings import save
from benchmarks.tables import fill, markdown
from tests.support.benchmark_records import record
from tests.support.refusals import refused

PAGE = "# Page\n\n<!-- benchmark: planted -->\nold\n<!-- end -->\n\n<!-- benchmark: other -->\nkept\n<!-- end -->\n"


def test_a_comparison_shows_median_quartiles_paired_ratio_and_share() -> None:
    text = markdown(record())
    assert "|  | images/s | quartiles | ratio to usual | quartiles | share |" in text
    assert "| usual | 150 | 125 to 175 | 1.00 | 1.00 to 1.00 | 38 % |" in text
    assert "| ours | 350 | 325 to 375 | 2.50 | 2.25 to 2.75 | 75 % |" in text


def test_goals_say_whether_they_are_met() -> None:
    text = markdown(record())
    assert "- Goal, ratio ≥ 1.60: 2.50, met" in text
    assert "- Goal, overhead ≤ 0.0300: 0.0500, not met" in text


def test_smallest_sizes_judge_no_goal() -> None:
    text = markdown(record(quick=True))
    assert "2.50, not judged at this size" in text
    assert "its figures mean nothing" in text
    assert "met\n" not in text


def test_rows_that_do_different_things_have_no_ratio() -> None:
    planted = record()
    apart = replace(planted.findings.comparisons[0], baseline=None)
    text = markdown(replace(planted, findings=replace(planted.findings, comparisons=(apart,))))
    assert "| ours | 350 | 325 to 375 | 75 % |" in text


@pytest.mark.parametrize(
    ("others", "flag"), [((0.01, 0.05), ""), ((0.01, 0.2), "in 1 of 2 rounds"), ((None, None), "")]
)
def test_rounds_that_others_disturbed_are_flagged(others: tuple[float | None, ...], flag: str) -> None:
    text = markdown(record(others=others))
    assert flag in text
    assert ("Busy" in text) == bool(flag)


def test_filling_a_page_changes_the_block_of_a_record_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert fill(page, [record()]) == 1
    once = page.read_text()
    assert once.startswith("# Page\n")
    assert once.endswith("<!-- benchmark: other -->\nkept\n<!-- end -->\n")
    assert markdown(record()) in once
    assert "old" not in once
    fill(page, [record()])
    assert page.read_text() == once


def test_a_page_without_a_block_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Page\n")
    with refused("tables", "has no block"):
        fill(tmp_path / "page.md", [record()])


def test_tables_are_printed_from_the_records_that_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(replace(record(), benchmark="sharing"), tmp_path)
    assert main(["tables", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("## sharing\n\n**Training**")


def test_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shareing"]) == 2
    assert "did you mean 'sharing'?" in capsys.readouterr().err
