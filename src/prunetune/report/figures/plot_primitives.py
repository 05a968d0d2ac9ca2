"""The marks of which figures are made: lines over seeds, points with bounds, bars with a chance level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prunetune.analysis.pairing import percent, signed
from prunetune.core.metric import ACCURACY, Metric
from prunetune.report.figures.marks import name_marks
from prunetune.report.figures.style import colour, family
from prunetune.report.table_format import number, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDTH, HEIGHT = 5.0, 3.75  # inches of 72 points: small enough to be read on a phone without shrinking
BOX = (0.115, 0.25, 0.87, 0.56)  # of the axes in the panel
LABEL_ROOM = 0.085  # of the axis, for one tick label
SPARSITY_AXIS = "sparsity, % of the prunable weights removed"
CHANCE = "chance"
APART, MOST_APART = 0.013, 0.1  # of the axis: from one line's markers to the next's, and from the first's to the last's
SHAPES = {  # role -> marker, dashes
    "ink": ("", (0, ())),
    "ticket": ("o", (0, ())),
    "reinit": ("s", (0, (4, 1.6))),
    "rewind": ("^", (0, (6, 1.6, 1.4, 1.6))),
    "finetune": ("D", (0, ())),
    "finetune_chain": ("*", (0, (4, 1.6))),
    "shuffle": ("v", (0, (1.4, 1.6))),
    "other-1": ("P", (0, ())),
    "other-2": ("X", (0, (4, 1.6))),
    "other-3": ("p", (0, (6, 1.6, 1.4, 1.6))),
    "other-4": ("h", (0, (1.4, 1.6))),
    "other-5": ("8", (0, (2.5, 1.6))),
    "other-6": ("H", (0, (6, 1.6))),
    "mixed-1": ("<", (0, (4, 1.6))),
    "mixed-2": ("d", (0, (2.5, 1.6))),
    "mixed-3": (">", (0, (6, 1.6))),
    "mask-1": ("P", (0, ())),
    "mask-2": ("X", (0, (4, 1.6))),
    "mask-3": ("p", (0, (6, 1.6, 1.4, 1.6))),
    "mask-4": ("h", (0, (1.4, 1.6))),
    "mask-5": ("8", (0, (2.5, 1.6))),
    "mask-6": ("H", (0, (6, 1.6))),
}

MANY, COARSE = 16, (2, 4, 10, 20, 40, 100, 200)  # times what is fine: a range to squeeze, and its marks

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """Means against sparsity, with the lowest and the highest seed; of scores, or of shares in percent."""

    label: str
    role: str
    sparsities: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    metric: Metric = ACCURACY

    def alt_text(self) -> str:
        """The line's numbers, for who cannot see it."""
        if self.role == "ink":
            return f"{self.label}: {self._text(self.means[0])}."
        cells = zip(self.sparsities, self.means, strict=True)
        return f"{self.label}: " + ", ".join(f"{self._text(mean)} at {percent(s)}" for s, mean in cells) + "."

    def _text(self, mean: float) -> str:
        return f"{number(mean, self.metric.digits - 1)} {self.metric.unit}".rstrip()

    def values(self) -> list[str]:
        """What each marker shows, in as many digits as the page's tables."""
        return [
            f"{self.label}{f', {percent(s)}' if s else ''}: {self.metric.text(mean)} ({span(ends, self.metric.digits)})"
            for s, mean, *ends in zip(self.sparsities, self.means, self.lows, self.highs, strict=True)
        ]


@dataclass(frozen=True)
class Points:
    """Mean differences against sparsity, with their bounds where there are any."""

    label: str
    role: str
    sparsities: Sequence[float]
    means: Sequence[float]
    bounds: Sequence[tuple[float, float] | None]
    digits: int = 2

    def alt_text(self) -> str:
        """The points' numbers, for who cannot see them."""
        return f"{self.label}: {', '.join(self._cells())}."

    def values(self) -> list[str]:
        """What each point shows."""
        return [f"{self.label}: {cell}" for cell in self._cells()]

    def _cells(self) -> list[str]:
        cells = zip(self.sparsities, self.means, self.bounds, strict=True)
        return [_point_alt_text(*cell, self.digits) for cell in cells]


@dataclass(frozen=True)
class Bars:
    """Groups of bars: `values[series][group]` holds one value per seed, `expected[group]` the chance level."""

    groups: Sequence[str]
    labels: Sequence[str]
    roles: Sequence[str]
    values: Sequence[Sequence[Sequence[float]]]
    expected: Sequence[float]
    axis: str  # what the groups are

    def distances(self) -> list[float]:
        """How far every bar ends from chance."""
        cells = [zip(of_series, self.expected, strict=True) for of_series in self.values]
        return [_mean(seeds) - expected for cell in cells for seeds, expected in cell if seeds]

    def alt_text(self) -> str:
        """The bars' numbers, for who cannot see them."""
        rows = []
        for label, values in zip(self.labels, self.values, strict=True):
            cells = [
                f"{_mean(seeds):.2f} at {group} (chance {expected:.2f})"
                for group, seeds, expected in zip(self.groups, values, self.expected, strict=True)
                if seeds
            ]
            rows.append(f"{label}: {', '.join(cells)}.")
        return f"By {self.axis}. {' '.join(rows)}".replace("\n", ", ")


def panel(title: str, subtitle: str, height: float = HEIGHT, left: float = BOX[0]) -> tuple[Figure, Axes]:
    """An empty panel: title, what the vertical axis shows, and axes with a light grid.

    At another `height` (inches) all of it but the axes keeps its size; `left` is the room of the vertical labels.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    scale = HEIGHT / height
    _fit(figure, figure.text(0.012, 1 - 0.058 * scale, title, weight="bold", size=12))
    _fit(figure, figure.text(0.012, 1 - 0.121 * scale, subtitle, size=9.5, color=colour("muted")))
    low, high = BOX[1] * scale, 1 - (1 - BOX[1] - BOX[3]) * scale
    axes = figure.add_axes((left, low, BOX[0] + BOX[2] - left, high - low))
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0, labelsize=10)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _fit(figure: Figure, text: Text) -> None:
    """Make a text that is cut at the figure's right edge smaller."""
    room, width = 0.92 * figure.bbox.width, text.get_window_extent().width  # a reader's font may be wider
    if width > room:
        text.set_fontsize(float(text.get_fontsize()) * room / width)


def lengthen(figure: Figure, more: float) -> None:
    """Add `more` inches below what a figure shows; its axes and texts keep their size and what lies above them."""
    before, after = figure.get_figheight(), figure.get_figheight() + more
    figure.set_figheight(after)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, (box.y0 * before + more) / after, box.width, box.height * before / after))
    for text in figure.texts:
        text.set_y((text.get_position()[1] * before + more) / after)


def ordered_roles(name: str, count: int) -> list[str]:
    """Of so many things in order, the roles of colour, from pale to strong.

    >>> ordered_roles("level", 3), ordered_roles("level", 1)
    (['level-1', 'level-3', 'level-5'], ['level-3'])
    """
    roles = family(name)
    if count == 1:
        return [roles[len(roles) // 2]]
    return [*spread(roles, count)] if count <= len(roles) else [roles[i % len(roles)] for i in range(count)]


def spread(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most so many of the items (`most` from 2), evenly by place, the first and the last among them.

    >>> spread([0.1, 0.2, 0.3, 0.4, 0.5], 3)
    (0.1, 0.3, 0.5)
    """
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(i * (len(items) - 1) / (most - 1))] for i in range(most))


def log_density(sparsity: float) -> float:
    """Place on the sparsity axis: how often the density has been halved."""
    return -math.log2(1.0 - sparsity)


def sparsity_axis(axes: Axes, sparsities: Sequence[float]) -> None:
    """Name the sparsities that were tried, where their names have room; the highest always has its name."""
    tried = sorted({s for s in sparsities if s > 0.0}, reverse=True)
    low, high = axes.get_xlim()
    room = LABEL_ROOM * BOX[2] / axes.get_position().width * (high - low)
    kept: list[float] = []
    for sparsity in tried:
        if not kept or log_density(kept[-1]) - log_density(sparsity) >= room:
            kept.append(sparsity)
    kept.reverse()
    digits = 4 if len(kept) < 7 else 3
    axes.set_xticks([log_density(s) for s in kept], [f"{100 * s:.{digits}g}" for s in kept])
    axes.set_xlabel(SPARSITY_AXIS, size=10)


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines, each beside the others, with the range of the seeds; the dense one (role `ink`) goes right across."""
    places = sorted({log_density(s) for line in lines for s in line.sparsities if s > 0.0})
    shifts = _shifts(places, sum(line.role != "ink" for line in lines))
    if places:
        room = max(0.05 * (places[-1] - places[0]), 0.1) + max(shifts, default=0.0)
        axes.set_xlim(places[0] - room, places[-1] + room)
    beside = iter(shifts)
    for line in lines:
        if line.role == "ink":
            _draw_dense(axes, line)
        else:
            _draw_line(axes, line, next(beside))


def _shifts(places: Sequence[float], lines: int) -> list[float]:
    """How far each line stands beside its sparsity, so that equal means can be told apart: all near their sparsity."""
    if lines < 2 or not places:
        return [0.0] * lines
    gap = min((right - left for left, right in itertools.pairwise(places)), default=math.inf)
    whole = max(places[-1] - places[0], 0.2)
    step = min(APART * whole, min(MOST_APART * whole, 0.4 * gap) / (lines - 1))
    return [(i - (lines - 1) / 2) * step for i in range(lines)]


def draw_points(
    axes: Axes, series: Sequence[Points], limits: Sequence[tuple[float, str, str]], answers: Mapping[float, str]
) -> None:
    """Draw differences with bounds, the limits they are held against, and the answer at every sparsity."""
    places = [log_density(s) for s in answers]
    room = max(0.12 * (max(places) - min(places)), 0.25)
    axes.set_xlim(min(places) - room, max(places) + room)
    axes.axhline(0.0, color=colour("muted"), linewidth=1.0)
    for index, points in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * 0.035 * (max(places) - min(places) + 2 * room)
        _draw_points(axes, points, shift)
    for value, label, role in limits:
        axes.axhline(value, color=colour(role), linewidth=1.1, linestyle=(0, (2, 2)), label=label)
    for sparsity, answer in answers.items():
        place = log_density(sparsity)
        axes.text(place, 1.02, answer, transform=axes.get_xaxis_transform(), ha="center", size=9.5, weight="bold")


def draw_bars(axes: Axes, bars: Bars) -> None:
    """Draw groups of bars, each seed as a dot, the chance level as a dashed line across its group."""
    width = 0.84 / len(bars.labels)
    for index, (label, role) in enumerate(zip(bars.labels, bars.roles, strict=True)):
        places = [group + (index - (len(bars.labels) - 1) / 2) * width for group in range(len(bars.groups))]
        cells = zip(places, bars.groups, bars.values[index], bars.expected, strict=True)
        known = [(x, group, seeds, chance) for x, group, seeds, chance in cells if seeds]
        means = [_mean(seeds) for _, _, seeds, _ in known]
        drawn = axes.bar([x for x, *_ in known], means, 0.9 * width, color=colour(role), label=label)
        dots = [(x, value) for x, _, seeds, _ in known for value in seeds]
        name_marks(axes.scatter(*zip(*dots, strict=True), s=5, color=colour("ink"), linewidths=0, zorder=3), label)
        for bar, mean, (x, group, seeds, chance) in zip(drawn, means, known, strict=True):
            at = group.replace("\n", ", ")
            name_marks(bar, label, [f"{label}, {at}: {mean:.3f} (chance {chance:.3f})"])
            name_marks(axes.text(x, max(seeds) + 0.02, _share(mean), ha="center", size=9), label)
    _draw_chance(axes, bars.expected)
    axes.set_xticks(range(len(bars.groups)), bars.groups)
    axes.set_xlabel(bars.axis, size=10)
    axes.set_ylim(0.0, 1.08)
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def _draw_chance(axes: Axes, expected: Sequence[float]) -> None:
    starts, ends = [i - 0.46 for i in range(len(expected))], [i + 0.46 for i in range(len(expected))]
    axes.hlines(expected, starts, ends, color=colour("paper"), linewidth=2.8)  # or it is lost on dark bars
    axes.hlines(expected, starts, ends, color=colour("ink"), linewidth=1.4, linestyle=(0, (3, 1.5)), label=CHANCE)


def _draw_dense(axes: Axes, line: Line) -> None:
    level = axes.axhline(line.means[0], color=colour("ink"), linewidth=1.6, label=line.label)
    name_marks(level, line.label, line.values()[:1])
    if line.highs[0] > line.lows[0]:
        band = axes.axhspan(line.lows[0], line.highs[0], color=colour("ink"), alpha=0.1, linewidth=0)
        name_marks(band, line.label)


def _draw_line(axes: Axes, line: Line, shift: float) -> None:
    marker, dashes = SHAPES[line.role]
    places = [log_density(s) + shift for s in line.sparsities]
    seeds = axes.vlines(places, line.lows, line.highs, color=colour(line.role), linewidth=1.6, alpha=0.45)
    style = {"color": colour(line.role), "marker": marker, "linestyle": dashes, "label": line.label}
    (means,) = axes.plot(places, line.means, linewidth=1.8, markersize=5.5, markeredgecolor=colour("paper"), **style)
    name_marks(seeds, line.label)
    name_marks(means, line.label, line.values())


def _draw_points(axes: Axes, points: Points, shift: float) -> None:
    places = [log_density(s) + shift for s in points.sparsities]
    paint = colour(points.role)
    for place, bounds in zip(places, points.bounds, strict=True):
        if bounds is not None:
            (between,) = axes.plot([place, place], bounds, color=paint, linewidth=2.2, solid_capstyle="round")
            name_marks(between, points.label)
    marker = "o" if points.role == "ink" else "s"
    style = {"color": paint, "markersize": 6.5, "markeredgecolor": colour("paper"), "label": points.label}
    (means,) = axes.plot(places, points.means, marker, **style)
    name_marks(means, points.label, points.values())


def _point_alt_text(sparsity: float, mean: float, bounds: tuple[float, float] | None, digits: int) -> str:
    interval = f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]" if bounds else "(no bounds)"
    text = f"{signed(mean, digits)} {interval}"
    return f"{text} at {percent(sparsity)}"


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def share_range(figures: Sequence[Figure], fine: float = math.inf) -> None:
    """Give panels that stand side by side one vertical range, so that they can be compared by eye.

    Where that is many times `fine`, what is small would not be seen: differences are then logarithmic beyond 2 `fine`.
    """
    from matplotlib.ticker import NullLocator

    ranges = [figure.axes[0].get_ylim() for figure in figures]
    low, high = min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=1.0)
    for figure in figures:
        (axes,) = figure.axes
        if high - low > MANY * fine:
            axes.set_yscale("symlog", linthresh=2 * fine)
            ticks = [sign * step * fine for step in COARSE for sign in (-1, 1) if low <= sign * step * fine <= high]
            axes.set_yticks(sorted({0.0, *ticks}), [f"{tick:g}".replace("-", "−") for tick in sorted({0.0, *ticks})])
            axes.yaxis.set_minor_locator(NullLocator())
            subtitle = figure.texts[1]
            subtitle.set_text(f"{subtitle.get_text()}; log beyond ±{2 * fine:g}")
            _fit(figure, subtitle)
        axes.set_ylim(low, high)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
