"""The picture of ADMM's residuals: the numbers drawn are the means of the rows, and only of rows that there are."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from prunetune.report.figures.style import standalone
from prunetune.report.figures.training import residual_drawings
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Residuals
from tests.support.planted import planted

CURVES = {(0.5, 0): (0.4, 0.2, 0.1), (0.5, 1): (0.2, 0.1, 0.05), (0.9, 0): (0.8, 0.6, 0.3), (0.9, 1): (0.7, 0.5, 0.2)}
ROWS = [Residuals(0.1, "admm", sparsity, seed, values) for (sparsity, seed), values in CURVES.items()]


def test_a_line_for_each_sparsity_of_means_over_seeds() -> None:
    [drawing] = residual_drawings(ROWS)
    lines = {line.get_label(): line.get_ydata() for line in drawing.figure.axes[0].get_lines()}
    assert lines["50 %"] == pytest.approx([0.3, 0.15, 0.075])
    assert lines["90 %"] == pytest.approx([0.75, 0.55, 0.25])
    assert drawing.description == "50 %: from 0.300 to 0.075. 90 %: from 0.750 to 0.250."


def test_a_panel_for_each_rate_and_algorithm() -> None:
    rows = [*ROWS, *(replace(row, learning_rate=0.01) for row in ROWS), *(replace(row, mask="admm@1") for row in ROWS)]
    assert [drawing.name for drawing in residual_drawings(rows)] == ["residual-0.01-admm", "residual-0.1-admm",
                                                                    "residual-0.1-admm-1"]  # fmt: skip
    assert residual_drawings([]) == []


@pytest.mark.parametrize("lost", [math.nan, math.inf, 0.0])
def test_a_curve_ends_where_it_is_no_positive_number(lost: float) -> None:
    rows = [*ROWS[:1], replace(ROWS[1], values=(0.2, 0.1, lost))]
    [line] = residual_drawings(rows)[0].figure.axes[0].get_lines()
    assert np.asarray(line.get_ydata()) == pytest.approx([0.3, 0.15])


def test_many_rounds_still_make_a_readable_panel() -> None:
    rows = [replace(ROWS[0], sparsity=i / 20) for i in range(1, 13)]
    lines = residual_drawings(rows)[0].figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["5 %", "25 %", "40 %", "60 %"]  # places 0, 11/3, 22/3 and 11 of 12


def test_ticks_are_numbers_and_nothing_is_cut_off() -> None:
    figure = residual_drawings(ROWS)[0].figure
    text = standalone(figure, "residual", "title", "words")
    assert "$" not in text
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    shown = [item for item in (*figure.texts, figure.axes[0].xaxis.label) if item.get_text()]
    assert all(item.get_window_extent(renderer).x1 <= figure.bbox.x1 for item in shown)
    assert all(item.get_window_extent(renderer).x0 >= 0 for item in shown)


def test_the_report_keeps_them_and_shows_them_only_where_they_are(tmp_path: Path) -> None:
    results = planted(seeds=2, rates=(0.1,))
    write_report(results, tmp_path / "without")
    assert "ADMM's way" not in (tmp_path / "without" / "report.html").read_text()
    write_report(replace(results, residuals=tuple(ROWS)), tmp_path / "with")
    page = (tmp_path / "with" / "report.html").read_bytes()
    assert b'id="figure-residual-0.1-admm"' in page
    render_again(tmp_path / "with")
    assert (tmp_path / "with" / "report.html").read_bytes() == page
