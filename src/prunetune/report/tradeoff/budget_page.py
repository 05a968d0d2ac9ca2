"""All files of a search within a budget, and what a terminal shows of it; from its rows, or from `budget.json`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from prunetune.core.amounts import scaled, size
from prunetune.report.figures.accuracy import Drawing, legend
from prunetune.report.figures.plot_primitives import SHAPES, panel
from prunetune.report.figures.point_labels import Ends, PointLabel, label_points
from prunetune.report.figures.style import colour, drawing_style, standalone
from prunetune.report.ownership import require_ours
from prunetune.report.page import inlined, render, spec_text
from prunetune.report.results_files import shown_again, write_text
from prunetune.report.table_format import NONE, Column, Table, aligned, numeric
from prunetune.report.tables import facts_table
from prunetune.report.tradeoff.budget_rows import (
    BUDGET,
    WITHIN,
    BudgetSearch,
    Candidate,
    budget_headline,
    budget_json,
    budget_summary,
    budget_text,
    canonical,
    cost,
    drop_text,
    read_budget_search,
)
from prunetune.report.tradeoff.tradeoff_figures import layers_figure
from prunetune.report.tradeoff.tradeoff_page import SPARSE_TIMES, files_table, layers_table, milliseconds, times_table
from prunetune.report.tradeoff.tradeoff_rows import ModelRow, ratio
from prunetune.report.write_report import FIGURES, PAGE, write_figures

ROLES = ("finetune", "ticket", "reinit", "rewind", "other-1", "other-2", "other-3", "other-4", "other-5", "other-6")
AXES = {  # what a network costs, by the target's quantity
    "speedup": "time of a call at batch 1, ms",
    "latency": "time of a call at batch 1, ms",
    "macs": "share of the dense network's multiply-accumulates",
    "size": "file of the weights with zeros as bits, kB",
    "params": "share of the dense network's parameters",
}
TITLES = {
    "speedup": "the time of a call",
    "latency": "the time of a call",
    "macs": "multiply-accumulates",
    "size": "the size of the file",
    "params": "parameters",
}
LIMITED = ("latency", "macs", "size", "params")  # quantities whose limit is a place on the axis
UNITS = {"speedup": 1e3, "latency": 1e3, "size": 1e-3}  # of an axis


@dataclass(frozen=True)
class BudgetReport:
    """The search, what it came to in plain words, and the page that shows it."""

    found: BudgetSearch
    text: str
    page: Path

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """The dense network, and the one that is returned, if there is one."""
        best = self.found.best
        return tuple(row for row in (self.found.dense, best.network if best else None) if row is not None)

    @property
    def best_files(self) -> tuple[str, ...]:
        """The returned network's files, from the page's folder."""
        return tuple(file.path for row in self.rows if row.sparsity for file in row.files)

    @property
    def headline(self) -> str:
        """What the returned network costs and wins, in a few words; or that there is none."""
        return budget_headline(self.found)

    @property
    def table(self) -> Table:
        """Every candidate, a row each."""
        return candidates_table(self.found)


def write_budget(found: BudgetSearch, out: Path) -> BudgetReport:
    """Write budget.json, figures/*.svg and report.html to `out`; ConfigError where it cannot be written."""
    found = canonical(found)
    drawn = _drawings(found)
    svgs = {d.name: standalone(d.figure, d.name, d.title, d.description) for d in drawn}
    write_text(out / BUDGET, budget_json(found))
    write_figures(svgs, out / FIGURES)
    page = render(
        "budget.html",
        found=found,
        headline=budget_headline(found),
        facts=_facts(found),
        sentences=budget_summary(found),
        tables=_tables(found),
        figures=inlined([(d, svgs[d.name]) for d in drawn]),
        spec=spec_text(found.study),
        command=found.environment.get("command"),
    )
    write_text(out / PAGE, page)
    return BudgetReport(found, budget_words(found), out / PAGE)


def render_budget_again(out: Path) -> BudgetReport:
    """Write page and figures again from `budget.json` alone."""
    found = read_budget_search(out / BUDGET)
    require_ours(out, [PAGE])
    return shown_again(out / BUDGET, lambda: write_budget(found, out))


def budget_words(found: BudgetSearch) -> str:
    """The table of candidates, the sentences, what did not compete, and what there is not."""
    blocks = [aligned(candidates_table(found))] if found.candidates else []
    blocks.append("\n".join(budget_summary(found)))
    blocks.append("\n".join(f"left out: {line}" for line in found.left_out))
    blocks.append("\n".join(f"missing: {line}" for line in found.missing))
    return "\n\n".join(filter(None, blocks))


def candidates_table(found: BudgetSearch) -> Table:
    """The frontier: the dense network, and every candidate in the order in which they were tried."""
    columns = (
        Column("Network"),
        numeric(f"Held-out drop{found.metric.in_unit}"),
        numeric("At most"),
        Column("Within"),
        Column("Target"),
        numeric("Non-zero"),
        numeric("MACs"),
        numeric("Bitmask file"),
        numeric("Batch 1, ms"),
        numeric("Times as fast"),
    )
    caption = (
        f"Above 0 is worse than the dense network of the same seed, on {found.held_out} held-out examples; "
        f"mean over seeds and its upper bound at level {found.candidates[0].level:.3g}, both in the metric's unit. "
        "Non-zero weights, MACs of one example, the file with zeros as bits, the median time of a call and the "
        "interval of its ratio to the dense network's, on this machine."
        + (SPARSE_TIMES if any(one.network and one.network.sparse_layers for one in found.candidates) else "")
        if found.candidates
        else "Nothing was tried."
    )
    dense = [_dense_cells(found, found.dense)] if found.dense else []
    return Table(caption, columns, (*dense, *(_cells(found, one) for one in found.candidates)))


def _dense_cells(found: BudgetSearch, dense: ModelRow) -> tuple[str, ...]:
    costs = (f"{dense.nonzeros:,}", scaled(dense.macs), size(found.dense_file_bytes or 0))
    return ("dense", "", "", "", "", *costs, milliseconds(dense.timings[0].median), "")


def _cells(found: BudgetSearch, one: Candidate) -> tuple[str, ...]:
    label = f"{one.label} (returned)" if one is found.best else one.label
    answers = (drop_text(found, one.drop), drop_text(found, one.high), one.answer, _reached(found, one))
    if one.network is None:
        return (label, *answers, NONE, NONE, NONE, NONE, NONE)
    row = one.network
    times = milliseconds(row.timings[0].median), ratio(row.timings[0])
    return (label, *answers, f"{row.nonzeros:,}", scaled(row.macs), size(one.file_bytes or 0), *times)


def _reached(found: BudgetSearch, one: Candidate) -> str:
    return NONE if found.target is None else "reached" if one.reaches else "not reached"


def _facts(found: BudgetSearch) -> list[str]:
    rate = f"learning rate {found.learning_rate:g}"
    return [found.model, found.data, rate, f"{found.epochs} epochs", f"{found.seeds} seeds", budget_text(found)]


def _tables(found: BudgetSearch) -> dict[str, Table]:
    best = [found.best.network] if found.best and found.best.network else []
    rows = ([found.dense] if found.dense else []) + best
    facts = {name: value for name, value in found.environment.items() if name != "command"}
    reasons = Table("What did not compete, and why.", (Column("Left out"),), tuple((line,) for line in found.left_out))
    return {
        "candidates": candidates_table(found),
        "left_out": reasons,
        "times": times_table(rows),
        "layers": layers_table(best),
        "files": files_table(rows, found.metric),
        "environment": facts_table(facts, "The machine and the versions that this was trained and measured with."),
    }


def _drawings(found: BudgetSearch) -> tuple[Drawing, ...]:
    best = found.best.network if found.best else None
    shown = [one for one in found.candidates if one.network is not None and one.drop is not None]
    frontier = (frontier_figure(found, shown),) if shown and found.dense else ()
    return (*frontier, *([layers_figure(best)] if best else []))


def frontier_figure(found: BudgetSearch, shown: Sequence[Candidate]) -> Drawing:
    """Held-out drop against what a network costs; bars reach up to the bound, filled marks are within the drop."""
    quantity, metric = found.quantity or "params", found.metric
    unit = UNITS.get(quantity, 1.0)
    title = f"Drop against {TITLES[quantity]}"
    with drawing_style():
        figure, axes = panel(title, f"how much worse on held-out examples{metric.in_unit}; left is cheaper")
        labels: list[PointLabel] = []
        for mask, role in zip(dict.fromkeys(one.mask for one in shown), ROLES * len(shown), strict=False):
            labels += _draw_chain(axes, mask, role, [(unit * cost(found, o), o) for o in shown if o.mask == mask])
        axes.axhline(found.max_drop, color=colour("ink"), linewidth=1.1, linestyle=(0, (2, 2)), label="the most")
        if found.quantity in LIMITED and found.limit is not None:
            axes.axvline(
                unit * found.limit, color=colour("muted"), linewidth=1.1, linestyle=(0, (2, 2)), label="target"
            )
        axes.set_xlim(left=0)
        _keep_in_sight(axes, shown, found.max_drop)
        axes.set_xlabel(AXES[quantity], size=10)
        label_points(axes, labels, size=8.5, lines=_limits(axes, found, unit))
        legend(figure, axes)
    words = " ".join(
        f"{one.label}: {drop_text(found, one.drop)}, at most {drop_text(found, one.high)}, at "
        f"{unit * cost(found, one):.4g}: {one.answer}."
        for one in shown
    )
    return Drawing("frontier", "cost", title, f"By {AXES[quantity]}. {words}", figure)


def _draw_chain(axes: Axes, mask: str, role: str, points: Sequence[tuple[float, Candidate]]) -> Iterator[PointLabel]:
    """Draw a chain; the sparsities that its marks are to be named by."""
    paint, marker = colour(role), SHAPES[role][0]
    for index, (place, one) in enumerate(points):
        drop = one.drop or 0.0
        if one.high is not None:
            axes.plot([place, place], [drop, one.high], color=paint, linewidth=2.0, solid_capstyle="butt")
        fill = paint if one.answer == WITHIN else colour("paper")
        label = mask if index == 0 else "_"
        axes.plot([place], [drop], marker, color=paint, markerfacecolor=fill, markersize=6.5, label=label)
        ends = ((place, drop), (place, drop if one.high is None else one.high))
        yield PointLabel(f"{100 * one.sparsity:.3g} %", (place, drop), ends, paint)


def _limits(axes: Axes, found: BudgetSearch, unit: float) -> list[Ends]:
    """The lines of the drop and of the target, from edge to edge."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    across = ((left, found.max_drop), (right, found.max_drop))
    if found.quantity not in LIMITED or found.limit is None:
        return [across]
    return [across, ((unit * found.limit, low), (unit * found.limit, high))]


def _keep_in_sight(axes: Axes, shown: Sequence[Candidate], most: float) -> None:
    """Room for all drops and the limit; a bound that reaches far beyond them is cut off at the edge."""
    drops = [one.drop or 0.0 for one in shown]
    low, high = min(0.0, *drops), max(most, *drops)
    room = 0.25 * (high - low or 1.0)
    axes.set_ylim(low - room, high + 2 * room)
