"""The picture of ADMM at work: how fast the weights come to lie on a sparse network."""

import math
from collections.abc import Sequence

from matplotlib.ticker import NullFormatter

from prunetune.analysis.pairing import percent
from prunetune.report.figures import Drawing, legend
from prunetune.report.marks import panel, spread
from prunetune.report.svg import colour, drawing_style
from prunetune.study.results import Residuals
from prunetune.study.slugs import slug

LINES = 4  # in one panel at most
AXIS = "updates of the sparse target Z"


def residual_drawings(rows: Sequence[Residuals]) -> list[Drawing]:
    """A panel for every mask algorithm and rate: the residual ‖W − Z‖ / ‖W‖ by update, a line for each sparsity."""
    places = sorted({(row.mask, row.learning_rate) for row in rows})
    return [
        _panel(mask, rate, [row for row in rows if (row.mask, row.learning_rate) == (mask, rate)])
        for mask, rate in places
    ]


def _panel(mask: str, rate: float, rows: Sequence[Residuals]) -> Drawing:
    title, words = f"Learning rate {rate:g}, {mask} masks", []
    with drawing_style():
        figure, axes = panel(title, "distance to the sparse target, ‖W − Z‖ / ‖W‖; band: all seeds")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own would need its mathematics
        axes.yaxis.set_minor_formatter(NullFormatter())
        for i, sparsity in enumerate(spread(sorted({row.sparsity for row in rows}), LINES)):
            curves = [_finite(row.values) for row in rows if row.sparsity == sparsity]
            steps = range(min(map(len, curves)))
            lows, highs = ([pick(curve[at] for curve in curves) for at in steps] for pick in (min, max))
            means = [math.fsum(curve[at] for curve in curves) / len(curves) for at in steps]
            role = f"rate-{i + 1}"
            axes.fill_between(steps, lows, highs, color=colour(role), alpha=0.15, linewidth=0)
            axes.plot(
                steps, means, color=colour(role), linewidth=1.8, marker="o", markersize=4, label=percent(sparsity)
            )
            words.append(f"{percent(sparsity)}: from {means[0]:.3f} to {means[-1]:.3f}." if means else "")
        axes.set_xlabel(AXIS, size=10)
        legend(figure, axes)
    return Drawing(f"residual-{rate:g}-{slug(mask)}", "residuals", title, " ".join(filter(None, words)), figure)


def _finite(values: Sequence[float]) -> list[float]:
    """The values up to the first that is no positive number (a training that diverged; a target reached exactly)."""
    last = next((at for at, value in enumerate(values) if not 0 < value < math.inf), len(values))
    return list(values[:last])
