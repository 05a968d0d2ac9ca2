"""Texts beside the marks that they name, over no other mark, bar or text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

MARK, BAR, APART = 4.5, 1.5, 1.5  # points: from a mark's centre to its edge, half a bar, room around a text
DISTANCES = (7.0, 13.0, 20.0, 28.0, 37.0, 47.0, 58.0)  # points from a mark's centre to its text that are tried
LED = DISTANCES[1]  # from there on a thin line leads to the text
TURNS = (90, 270, 0, 180, 45, 135, 315, 225, 22.5, 157.5, 337.5, 202.5)  # degrees, in the order in which they are tried


Ends = tuple[tuple[float, float], tuple[float, float]]  # of a line, in the units of the axes


@dataclass(frozen=True)
class PointLabel:
    """A text for a mark, the mark's place, and the ends of its bar, all in the units of the axes."""

    text: str
    place: tuple[float, float]
    ends: Ends
    paint: str
    mark: float = MARK  # points from its centre to its edge


def label_points(axes: Axes, labels: Sequence[PointLabel], size: float, lines: Sequence[Ends] = ()) -> None:
    """Write each text as near to its mark as it is free there; of places that all are taken, where least is covered.

    `lines` are kept free as bars are. The limits of the axes must be set: they are what texts keep within.
    """
    scale = axes.figure.dpi / 72
    inside = axes.get_window_extent()
    taken = [_mark_box(axes, label, scale) for label in labels]
    taken += [_line_box(axes, ends, scale) for ends in (*(label.ends for label in labels), *lines)]
    for label in labels:
        width, height = _extent(axes, label.text, size)
        centre = axes.transData.transform(label.place)
        tried = [
            (offset, _box(centre[0] + scale * offset[0], centre[1] + scale * offset[1], width, height, scale))
            for offset in _offsets(width / scale, height / scale, label.mark - MARK)
        ]
        within = [one for one in tried if inside.containsx(one[1].x0) and inside.containsx(one[1].x1)]
        within = [one for one in within if inside.containsy(one[1].y0) and inside.containsy(one[1].y1)] or tried
        offset, box = min(within, key=lambda one: _covered(one[1], taken))
        taken.append(box)
        _write(axes, label, offset, size, led=_gap(offset, width / scale, height / scale) >= LED)


def _write(axes: Axes, label: PointLabel, offset: tuple[float, float], size: float, led: bool) -> None:
    line: Any = {"arrowstyle": "-", "color": label.paint, "linewidth": 0.7, "alpha": 0.7, "shrinkA": 0, "shrinkB": 0}
    style: Any = {"ha": "center", "va": "center", "size": size, "color": label.paint}
    arrow = line if led else None
    axes.annotate(label.text, label.place, offset, textcoords="offset points", arrowprops=arrow, **style)


def _offsets(width: float, height: float, more: float) -> Iterator[tuple[float, float]]:
    """From a mark's centre to that of a text of this size, near ones first, in points."""
    for distance in DISTANCES:
        for turn in TURNS:
            across, up = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            yield across * (distance + more + width / 2), up * (distance + more + height / 2)


def _gap(offset: tuple[float, float], width: float, height: float) -> float:
    """Points from the mark's centre to the edge of its text."""
    return math.hypot(max(abs(offset[0]) - width / 2, 0.0), max(abs(offset[1]) - height / 2, 0.0))


def _extent(axes: Axes, text: str, size: float) -> tuple[float, float]:
    written = axes.text(0, 0, text, size=size)
    found = written.get_window_extent()
    written.remove()
    return found.width, found.height


def _mark_box(axes: Axes, label: PointLabel, scale: float) -> Bbox:
    x, y = axes.transData.transform(label.place)
    return _box(x, y, 2 * scale * (label.mark - APART), 2 * scale * (label.mark - APART), scale)


def _line_box(axes: Axes, ends: Ends, scale: float) -> Bbox:
    from matplotlib.transforms import Bbox

    (left, low), (right, high) = (axes.transData.transform(end) for end in ends)
    return Bbox.from_extents(left, low, right, high).padded(scale * BAR)


def _box(x: float, y: float, width: float, height: float, scale: float) -> Bbox:
    """In pixels, with room around it."""
    from matplotlib.transforms import Bbox

    room = scale * APART
    across, up = width / 2 + room, height / 2 + room
    return Bbox.from_extents(x - across, y - up, x + across, y + up)


def _covered(box: Bbox, taken: Sequence[Bbox]) -> float:
    """How much of what is taken a box lies over, in square pixels."""
    return sum(
        max(0.0, min(box.x1, one.x1) - max(box.x0, one.x0)) * max(0.0, min(box.y1, one.y1) - max(box.y0, one.y0))
        for one in taken
    )
