"""The pictures of a trade-off: score against sparsity, size and time, and the densities of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunetune.core.metric import Metric
from prunetune.errors import given
from prunetune.report.figures.accuracy import Drawing, legend
from prunetune.report.figures.layers import LEFT, MOST_ROWS, ROW, shortened
from prunetune.report.figures.plot_primitives import (
    BOX,
    HEIGHT,
    Line,
    draw_lines,
    log_density,
    panel,
    sparsity_axis,
    spread,
)
from prunetune.report.figures.point_labels import MARK, PointLabel, label_points
from prunetune.report.figures.style import colour, drawing_style
from prunetune.report.tradeoff.best_network import best_network
from prunetune.report.tradeoff.tradeoff_rows import ModelRow, ParameterDensity, Tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RING = 7.0  # points, from the centre of the best network's mark to the ring around it
SHOWN_LAYERS = 6  # panels of densities: of uniform masks they are all alike


def tradeoff_drawings(found: Tradeoff) -> tuple[Drawing, ...]:
    """Every figure that there are rows for."""
    if found.dense is None or not found.pruned:
        return ()
    batches = [timing.batch for timing in found.dense.timings]
    layers = [layers_figure(row) for row in spread(found.pruned, SHOWN_LAYERS)]
    return (curve_figure(found), size_figure(found), *(time_figure(found, i) for i in range(len(batches))), *layers)


def curve_figure(found: Tradeoff) -> Drawing:
    """Score against sparsity, with the dense network's line; thin bars span the seeds."""
    dense = given(found.dense, "there is no figure without a dense network")
    metric = found.metric
    lines = [_line("dense", "ink", [dense], metric), _line("pruned & fine-tuned", "finetune", found.pruned, metric)]
    title = f"{metric.title} against sparsity, {found.mask} masks"
    seeds = len(dense.scores)
    with drawing_style():
        figure, axes = panel(
            title, f"test {metric.axis}" + (": mean of seeds, bar from lowest to highest" * (seeds > 1))
        )
        draw_lines(axes, lines)
        limit = dense.score - metric.oriented(found.margin)
        axes.axhline(
            limit,
            color=colour("muted"),
            linewidth=1.1,
            linestyle=(0, (2, 2)),
            label=f"{metric.amount(found.margin)} {metric.worse}",
        )
        if best := best_network(found):
            _ring(axes, log_density(best.sparsity), best.score, "best within the margin")
        sparsity_axis(axes, lines[1].sparsities)
        legend(figure, axes)
    words = [line.alt_text() for line in lines] + ([f"Best: {best.label}."] if best else [])
    return Drawing("tradeoff", "accuracy", title, " ".join(words), figure)


def size_figure(found: Tradeoff) -> Drawing:
    """Score against the compressed size of the weights' file."""
    return _cost_figure(
        "cost-size", "size of the weights' file, compressed, kB", found, [_size(row) for row in found.rows]
    )


def time_figure(found: Tradeoff, index: int) -> Drawing:
    """Score against the time of a call at one batch size; bars from the lower to the upper quartile."""
    timings = [row.timings[index] for row in found.rows]
    times = [(1000 * t.low, 1000 * t.median, 1000 * t.high) for t in timings]
    batch = timings[0].batch
    return _cost_figure(f"cost-time-{batch}", f"time of a call at batch {batch}, ms", found, times)


def layers_figure(row: ModelRow) -> Drawing:
    """What is left of every weight of a network: pruned ones in colour, the others, whole, in grey."""
    layers = spread([layer for layer in row.layers if not layer.reason or layer.total > 1], MOST_ROWS)
    title = f"Densities at {row.label} sparsity"
    with drawing_style():
        height = ROW * len(layers) + (1 - BOX[3]) * HEIGHT
        figure, axes = panel(title, f"share of each parameter that is not zero{_cut(row, layers)}", height, LEFT)
        _draw_layers(axes, layers)
        legend(figure, axes)
    words = " ".join(f"{layer.name}: {layer.density:.3f}." for layer in layers)
    return Drawing(f"layers-{100 * row.sparsity:.12g}", "layers", title, words, figure)


def _line(label: str, role: str, rows: Sequence[ModelRow], metric: Metric) -> Line:
    lows, highs = [min(row.scores) for row in rows], [max(row.scores) for row in rows]
    return Line(label, role, [row.sparsity for row in rows], [row.score for row in rows], lows, highs, metric)


def _size(row: ModelRow) -> tuple[float, float, float]:
    size = row.compressed_bytes / 1000
    return size, size, size


def _cost_figure(name: str, axis: str, found: Tradeoff, costs: Sequence[tuple[float, float, float]]) -> Drawing:
    """Score against a cost, one point for each network with its lowest, usual and highest cost; left is cheaper."""
    rows, metric, best = found.rows, found.metric, best_network(found)
    title = f"{metric.title} against {axis.partition(',')[0]}"
    with drawing_style():
        figure, axes = panel(title, f"test {metric.axis}; further left is cheaper")
        labels: list[PointLabel] = []
        for row, cost in zip(rows, costs, strict=True):
            labels.append(_draw_network(axes, row, *cost, best=row is best))
            if row is best:
                _ring(axes, cost[1], row.score)
        _room(axes, costs, [row.score for row in rows], metric.margin)
        axes.set_xlabel(axis, size=10)
        label_points(axes, labels, size=9.5)
    words = (f"{row.label}: {metric.text(row.score)} at {cost[1]:.4g}." for row, cost in zip(rows, costs, strict=True))
    return Drawing(name, "cost", title, f"By {axis}. {' '.join(words)}", figure)


def _ring(axes: Axes, x: float, y: float, label: str = "_") -> None:
    """Around the mark of the best network."""
    mark = {
        "markersize": 2 * RING,
        "markerfacecolor": "none",
        "color": colour("ink"),
        "linestyle": "",
        "clip_on": False,
    }
    axes.plot([x], [y], "o", label=label, **mark)


def _draw_network(axes: Axes, row: ModelRow, low: float, middle: float, high: float, best: bool) -> PointLabel:
    """Draw a network; what its mark is to be named by."""
    paint, marker = (colour("finetune"), "D") if row.sparsity else (colour("ink"), "o")
    axes.plot([low, high], [row.score] * 2, color=paint, linewidth=2.2, solid_capstyle="round")
    axes.plot([middle], [row.score], marker, color=paint, markersize=6.5)
    label, mark = (f"{row.label}, best", RING) if best else (row.label, MARK)
    return PointLabel(label, (middle, row.score), ((low, row.score), (high, row.score)), paint, mark)


def _room(axes: Axes, costs: Sequence[tuple[float, float, float]], scores: Sequence[float], least: float) -> None:
    """From no cost at all, so that distances are true, to the dearest, were a quartile however far; room for labels."""
    axes.set_xlim(0, 1.12 * min(max(high for *_, high in costs), 1.5 * max(middle for _, middle, _ in costs)))
    reach = max(max(scores) - min(scores), least)
    axes.set_ylim(min(scores) - 0.25 * reach, max(scores) + 0.25 * reach)


def _draw_layers(axes: Axes, layers: Sequence[ParameterDensity]) -> None:
    axes.grid(visible=False)
    for role, label, wanted in (("finetune", "pruned", True), ("muted", "not pruned", False)):
        places = [(y, layer.density) for y, layer in enumerate(layers) if (not layer.reason) is wanted]
        if places:
            ys, shares = zip(*places, strict=True)
            axes.barh(ys, shares, 0.7, color=colour(role), label=label)
    axes.set_xlim(0, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_yticks(range(len(layers)), [shortened(layer.name) for layer in layers], size=8.5)


def _cut(row: ModelRow, shown: Sequence[ParameterDensity]) -> str:
    return f"; {len(shown)} of {len(row.layers)}" if len(shown) < len(row.layers) else ""
