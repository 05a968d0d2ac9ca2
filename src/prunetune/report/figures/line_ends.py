"""The names of lines beside their right ends, in place of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunetune.report.figures.marks import name_entry, name_marks
from prunetune.report.figures.plot_primitives import HEIGHT, WIDTH, Line
from prunetune.report.figures.style import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND_ROOM = 0.09  # of the panel's height
MOST_ENDS, LONGEST_END, END_ROOM = 8, 14, 11.0  # lines named at their ends, letters of a name, points of its height


def label_ends(axes: Axes, lines: Sequence[Line]) -> bool:
    """Write each line's name beside its right end if all have room there, so that no legend is needed; say whether.

    The axes give up the room of the names to their right, and take that of the legend below.
    """
    from matplotlib.lines import Line2D

    lines = [line for line in lines if line.means]
    if not 2 <= len(lines) <= MOST_ENDS or max(len(line.label) for line in lines) > LONGEST_END:
        return False
    figure, box, (low, high) = axes.figure, axes.get_position(), axes.get_ylim()
    ends = spaced(
        [line.means[-1] for line in lines],
        END_ROOM / (72 * HEIGHT * (box.height + LEGEND_ROOM)) * (high - low),
        low,
        high,
    )
    texts = [axes.text(0, 0, line.label, size=9.5, va="center_baseline") for line in lines]
    room = (max(text.get_window_extent().width for text in texts) + 12 * figure.dpi / 72) / figure.bbox.width
    axes.set_position((box.x0, box.y0 - LEGEND_ROOM, box.width - room, box.height + LEGEND_ROOM))
    edge = axes.get_xlim()[1]
    step = 6 / (72 * WIDTH * (box.width - room)) * (edge - axes.get_xlim()[0])
    for line, text, end in zip(lines, texts, ends, strict=True):
        style = {"color": colour(line.role), "linewidth": 0.8, "alpha": 0.7, "transform": axes.transData}
        leader = figure.add_artist(Line2D([edge, edge + step], [line.means[-1], end], **style))
        text.set_position((edge + 1.5 * step, end))
        text.set_color(colour(line.role))
        name_marks(leader, line.label)
        name_entry(text, line.label)
    return True


def spaced(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """The places moved apart until each is `least` from the next, within low and high as far as they fit, in order.

    >>> spaced([3.0, 3.0, 0.5], 1.0, 0.0, 10.0)
    [2.5, 3.5, 0.5]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[tuple[float, int]] = []  # of places that touch: their centre, and how many they are
    for i in order:
        groups.append((places[i], 1))
        while len(groups) > 1 and _touch(groups[-2], groups[-1], least):
            (first, m), (second, n) = groups[-2:]
            groups[-2:] = [((first * m + second * n) / (m + n), m + n)]
    found = [centre + (i - (n - 1) / 2) * least for centre, n in groups for i in range(n)]
    over, under = max(found[-1] - high, 0.0), max(low - found[0], 0.0)
    moved = dict(zip(order, found, strict=True))
    return [moved[i] - over + under for i in range(len(places))]


def _touch(lower: tuple[float, int], upper: tuple[float, int], least: float) -> bool:
    return upper[0] - lower[0] < least * (lower[1] + upper[1]) / 2
