"""Quartiles and paired ratios against hand-worked tables and numpy; goals; a record's file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.findings import Comparison, Goal, Measured, Spread, paired, read, save, spread
from tests.support.benchmark_records import record
from tests.support.refusals import refused


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=30))
def test_quartiles_are_numpys(samples: list[float]) -> None:
    assert spread(samples) == pytest.approx(tuple(np.percentile(samples, [50, 25, 75])))


def test_quartiles_by_hand() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that halves its speed in a round changes no ratio, but would change one of medians."""
    base, other = Measured("base", (100.0, 50.0, 80.0)), Measured("other", (150.0, 75.0, 120.0))
    found = Comparison("", "images/s", "base", (base, other), (0.0, 0.0, 0.0))
    assert paired(other.samples, base.samples) == (1.5, 1.5, 1.5)
    assert found.ratio("other", "base") == Spread(1.5, 1.5, 1.5)
    assert found.ratio("base", "other").median == pytest.approx(2 / 3)


def test_ratios_of_unequal_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired((1.0,), (1.0, 2.0))


@pytest.mark.parametrize(("least", "most", "met"), [(1.5, None, True), (None, 1.5, True), (1.6, None, False)])
def test_a_goal_keeps_its_bounds(least: float | None, most: float | None, met: bool) -> None:
    assert Goal("", 1.5, least, most).met is met
    assert not Goal("", 1.5, 0.8, 1.2).met


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    saved = record()
    assert read(save(saved, tmp_path)) == saved
    assert [path.name for path in tmp_path.iterdir()] == ["planted.json"]


def test_a_file_that_is_no_record_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "planted.json").write_text('{"benchmark": 3}')
    with refused("results", "planted.json", "record"):
        read(tmp_path / "planted.json")
