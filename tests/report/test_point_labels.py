"""Texts beside marks lie over no other text, mark or bar, however near the marks are to each other."""

from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from prunetune.report.figures.plot_primitives import panel
from prunetune.report.figures.point_labels import MARK, PointLabel, label_points
from prunetune.report.figures.style import drawing_style
from prunetune.report.tradeoff.budget_page import frontier_figure
from prunetune.report.tradeoff.tradeoff_figures import time_figure
from prunetune.report.tradeoff.tradeoff_rows import Tradeoff
from tests.report.test_budget import candidate, network, search

SPARSITIES = (0.3, 0.5, 0.8)


def figure_of(axes: Axes) -> Figure:
    assert isinstance(axes.figure, Figure)
    return axes.figure


def texts_of(axes: Axes) -> list[Bbox]:
    """A box for every text within the axes, without the line that leads to it."""
    figure_of(axes).draw_without_rendering()
    return [Text.get_window_extent(text) for text in axes.texts]


def marks_of(axes: Axes) -> list[Bbox]:
    """A box for every mark that is drawn, in pixels."""
    reach = MARK * axes.figure.dpi / 72
    places = [
        axes.transData.transform(place)
        for line in axes.lines
        if line.get_marker() not in ("", "None", None)
        for place in line.get_xydata()  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    ]
    return [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in places]


def assert_apart(axes: Axes, count: int) -> None:
    texts, marks = texts_of(axes), marks_of(axes)
    assert len(texts) == count
    assert not [pair for pair in combinations(texts, 2) if pair[0].overlaps(pair[1])]
    assert not [(text, mark) for text in texts for mark in marks if text.overlaps(mark)]


@pytest.mark.parametrize("quantity", ["params", "speedup", "size"])
def test_the_frontier_of_chains_that_cost_the_same(quantity: str) -> None:
    shown = [
        candidate(mask, sparsity, 0.3 * sparsity + 0.1 * place, 4.0 - 0.1 * sparsity)
        for place, mask in enumerate(("a", "b", "c"))
        for sparsity in SPARSITIES
    ]
    figure = frontier_figure(search(*shown, quantity=quantity, limit=1.5), shown).figure
    assert_apart(figure.axes[0], len(shown))


def test_networks_that_take_the_same_time() -> None:
    rows = [
        replace(network(sparsity, 4.0 + 0.01 * sparsity, 1000), scores=(90.0 - 0.05 * sparsity,), seeds=(0,))
        for sparsity in (0.0, *SPARSITIES)
    ]
    found = Tradeoff("n", "m", "d", "one_shot", "unstructured", 0.1, 1, tuple(rows), (), {"model": "m"}, {})
    axes = time_figure(found, 0).figure.axes[0]
    texts = texts_of(axes)
    assert len(texts) == len(rows)
    assert not [pair for pair in combinations(texts, 2) if pair[0].overlaps(pair[1])]


def labelled(labels: list[PointLabel]) -> tuple[Figure, Axes]:
    with drawing_style():
        figure, axes = panel("title", "subtitle")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        label_points(axes, labels, size=9.0, lines=[((0, 0.53), (1, 0.53))])
    return figure, axes


def label(x: float, y: float, high: float) -> PointLabel:
    return PointLabel("80 %", (x, y), ((x, y), (x, high)), "black")


def test_a_lone_text_is_beside_its_mark_and_over_no_bar_or_line() -> None:
    _, axes = labelled([label(0.5, 0.5, 0.9)])
    (text,) = texts_of(axes)
    x, y = axes.transData.transform((0.5, 0.5))
    assert not text.overlaps(Bbox.from_extents(x - 1, y, x + 1, axes.transData.transform((0.5, 0.9))[1]))
    assert text.y1 < axes.transData.transform((0.5, 0.53))[1]
    assert abs((text.x0 + text.x1) / 2 - x) < 60


def test_texts_keep_within_the_axes_also_where_there_is_no_room() -> None:
    """Rather over each other than outside; the same every time."""
    crowd = [label(0.99, 0.99, 0.99) for _ in range(40)]
    (_, axes), (_, again) = labelled(crowd), labelled(crowd)
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1 for box in texts_of(axes))
    assert [box.bounds for box in texts_of(axes)] == [box.bounds for box in texts_of(again)]
