"""All files of a comparison of several studies: comparison.json, regimes.csv, figures, and the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunetune.analysis.paper.scale import kappa_text
from prunetune.analysis.thesis import Explanation, Thesis
from prunetune.core.metric import LOWER, Metric
from prunetune.errors import counted
from prunetune.report.comparison.comparison_figures import axis_label, comparison_drawings
from prunetune.report.comparison.comparison_rows import (
    ANSWERS,
    COMPARISON,
    REGIMES,
    Found,
    comparison_json,
    comparison_text,
    predictions_text,
    regimes_csv,
    relation_text,
    turned_text,
)
from prunetune.report.figures.style import standalone
from prunetune.report.ownership import require_ours
from prunetune.report.page import inlined, render
from prunetune.report.results_files import write_text
from prunetune.report.table_format import NONE, Column, Table, bounds, mean, number, numeric, p_value, signed
from prunetune.report.write_report import FIGURES, write_figures

PAGE = "comparison.html"
_VERDICTS: dict[Explanation, str] = {"holds": "holds", "fails": "fails", "not decided": "inconclusive"}


@dataclass(frozen=True)
class ComparisonReport:
    """What was found, in plain words, and the page that shows it."""

    found: Found
    text: str
    page: Path


def write_comparison(found: Found, out: Path) -> ComparisonReport:
    """Write all files to `out`; equal studies give equal bytes.

    ConfigError where it cannot be written, or holds a file of one of these names that is not of an earlier comparison.
    """
    require_ours(out, (COMPARISON, REGIMES, PAGE))
    drawn = comparison_drawings(found)
    svgs = {d.name: standalone(d.figure, d.name, d.title, d.description) for d in drawn}
    write_text(out / COMPARISON, comparison_json(found))
    write_text(out / REGIMES, regimes_csv(found))
    write_figures(svgs, out / FIGURES)
    page = render(
        "comparison.html",
        found=found,
        thesis=found.thesis,
        answer=ANSWERS[found.thesis.explanation],
        verdict=_VERDICTS[found.thesis.explanation],
        badge=found.thesis.explanation.replace("not decided", "undecided"),
        relation=relation_text(found),
        predictors=predictions_text(found) if found.predictions else "",
        facts=_facts(found),
        turned=turned_text(found.rule.metric),
        tables=_tables(found),
        figures=inlined([(d, svgs[d.name]) for d in drawn]),
    )
    write_text(out / PAGE, page)
    return ComparisonReport(found, comparison_text(found), out / PAGE)


def _facts(found: Found) -> list[str]:
    runs = len({row.setting for row in found.regimes})
    counts = (
        (len(found.studies), "study", "studies"),
        (runs, "dense run", "dense runs"),
        (len(found.regimes), "regime", "regimes"),
    )
    tasks = sorted({row.task for row in found.regimes})
    return [*(counted(count, one, many) for count, one, many in counts), *tasks[:3]]


def _tables(found: Found) -> dict[str, Table]:
    return {
        "relations": _relations_table(found.thesis, found.rule.metric),
        "predictors": _predictors_table(found),
        "slopes": _slopes_table(found.thesis, found.rule.metric),
        "chance": _chance_table(found.thesis, found.rule.metric),
        "together": _together_table(found.thesis, found.rule.metric),
        "scores": _scores_table(found),
        "improvements": _improvements_table(found),
        "regimes": _regimes_table(found),
    }


def _relations_table(thesis: Thesis, metric: Metric) -> Table:
    columns = (
        Column("Of"), Column("With"), Column("Regimes"), numeric("Regimes"), numeric("Dense runs"), numeric("ρ"),
        numeric("Interval"), numeric("p, rises"), numeric("p, falls"), numeric("Partial ρ"), numeric("Interval"),
    )  # fmt: skip
    at = f"{thesis.mask}, {100 * (thesis.sparsity or 0):.4g} %"
    rows = tuple(
        (
            _name(row.predictor), row.lead, at if row.regimes == "fixed" else "all", f"{row.n}", f"{row.runs}",
            signed(row.rho), bounds(row.low, row.high), p_value(row.p_rise), p_value(row.p_fall),
            signed(row.partial), bounds(row.partial_low, row.partial_high),
        )
        for row in thesis.relations
    )  # fmt: skip
    caption = (
        "Spearman's ρ over regimes. Intervals resample dense runs and seeds within them; p permutes over dense runs; "
        f"the partial ρ is given sparsity and dense {metric.name}. The verdict reads the first row."
    )
    return Table(caption, columns, rows)


def _predictors_table(found: Found) -> Table:
    columns = (
        Column("Predictor"), Column("Which is"), numeric("Dense runs"), numeric("ρ"), numeric("Interval"),
        numeric("p"), numeric("Holm"), numeric("Partial ρ"), numeric("Interval"), Column("ticket − reinit"),
    )  # fmt: skip
    rows = tuple(
        (
            _name(row.predictor), axis_label(row.predictor, found.rule.metric), f"{row.runs}", signed(row.rho),
            bounds(row.low, row.high), p_value(row.p), p_value(row.p_holm), signed(row.partial),
            bounds(row.partial_low, row.partial_high), row.answer,
        )
        for row in found.predictions
    )  # fmt: skip
    caption = (
        f"Spearman's ρ of each predictor and ticket − reinit, {found.fixed_text}, over the dense runs that have it. "
        "Intervals resample dense runs and seeds within them; p, two-sided, permutes over dense runs, corrected by "
        f"Holm over the rows; the partial ρ is given dense {found.rule.metric.name}. The verdict reads none of these "
        "but R_p's."
    )
    return Table(caption, columns, rows)


def _slopes_table(thesis: Thesis, metric: Metric) -> Table:
    columns = (
        Column("Among regimes of one"), Column("Of"), numeric("Regimes"), numeric("Strata"), numeric("Slope"),
        numeric("Interval"), numeric("p, rises"), numeric("p, falls"),
    )  # fmt: skip
    rows = tuple(
        (
            row.within, row.lead, f"{row.n}", f"{row.strata}", signed(row.slope, metric.digits),
            bounds(row.low, row.high, metric.digits),
            p_value(row.p_rise), p_value(row.p_fall),
        )
        for row in thesis.slopes
    )  # fmt: skip
    caption = (
        f"{_leads(metric)} for every 0.1 of R_p, at the fixed mask and sparsity, beside dense {metric.name}. Intervals "
        "resample seeds; p permutes regimes within strata. The verdict reads the first row."
    )
    return Table(caption, columns, rows)


def _chance_table(thesis: Thesis, metric: Metric) -> Table:
    columns = (
        Column("Regime"), numeric("Seeds"), numeric("ticket − reinit"), numeric("Bounds"), numeric("p, within the gap"),
        numeric("Holm"), numeric("p, above the gap"), numeric("Holm"), numeric("Dense short of the best"),
        Column("As good as the best"), Column("Answer"),
    )  # fmt: skip
    rows = tuple(
        (
            row.regime, f"{row.n}", signed(row.mean, metric.digits), bounds(row.low, row.high, metric.digits),
            p_value(row.p_equal), p_value(row.p_equal_holm), p_value(row.p_above), p_value(row.p_above_holm),
            number(row.shortfall, metric.digits),
            "yes" if row.dense_matches else "not shown", row.answer,
        )
        for row in thesis.at_chance
    )  # fmt: skip
    caption = (
        f"{_leads(metric)}, one-sided bounds, paired t. A lead above the gap is a counterexample where the dense "
        "network is as good as the best of those compared."
    )
    return Table(caption, columns, rows)


def _together_table(thesis: Thesis, metric: Metric) -> Table:
    columns = (
        Column("Regimes about chance of"), numeric("Regimes"), numeric("Seeds"), numeric("ticket − reinit"),
        numeric("Bounds"), numeric("p, within the gap"),
    )  # fmt: skip
    rows = tuple(
        (
            row.of, f"{row.regimes}", f"{row.n}", signed(row.mean, metric.digits),
            bounds(row.low, row.high, metric.digits), p_value(row.p_equal),
        )
        for row in thesis.together
    )  # fmt: skip
    return Table(
        "The mean lead where R_p is about chance; for the explanation to hold, all must be within the gap of zero.",
        columns,
        rows,
    )


def _scores_table(found: Found) -> Table:
    columns = (Column("Arm"), numeric("Regimes"), numeric("Interquartile mean"), numeric("Interval"))
    digits = found.rule.metric.digits
    rows = tuple(
        (row.arm, f"{row.regimes}", signed(row.iqm, digits), bounds(row.low, row.high, digits))
        for row in found.scores
        if row.regimes
    )
    metric = found.rule.metric
    less = "less " if metric.higher_is_better else f"({LOWER}) by how much better than "
    unit = f",{metric.in_unit}," if metric.in_unit else ","
    caption = (
        f"{metric.title} {less}the dense run's of the same seed{unit} over regimes and seeds; intervals resample seeds "
        "within regimes."
    )
    return Table(caption, columns, rows)


def _improvements_table(found: Found) -> Table:
    columns = (Column("Arm"), Column("Over"), numeric("Regimes"), numeric("Probability"), numeric("Interval"))
    rows = tuple(
        (row.first, row.second, f"{row.regimes}", number(row.probability), _span(row.low, row.high))
        for row in found.improvements
    )
    return Table(
        "How often a training of one arm beats one of another in the same regime, whatever their seeds.", columns, rows
    )


def _regimes_table(found: Found) -> Table:
    leads: Sequence[str] = list(found.regimes[0].leads)
    metric = found.rule.metric
    columns = (
        Column("Study"), numeric("Rate"), Column("Masks"), numeric("Sparsity %"), numeric("Epochs"), numeric("κ"),
        numeric("R_p excess"), numeric(f"Dense {metric.unit}".rstrip()), *(numeric(lead) for lead in leads),
        Column("Winning property", "answer"),
    )  # fmt: skip
    rows = tuple(
        (
            row.study, f"{row.learning_rate:g}", row.mask, f"{100 * row.sparsity:.4g}", f"{row.epochs}",
            NONE if row.kappa is None else kappa_text(row.kappa), signed(row.mean_excess, 3),
            number(mean(list(row.dense.values())), metric.digits),
            *(signed(row.mean(lead), metric.digits) for lead in leads), row.winning or "not asked",
        )
        for row in found.regimes
    )  # fmt: skip
    unit = metric.in_unit if metric.higher_is_better else f"{metric.in_unit}, turned so that more is better"
    return Table(f"Every regime: means over seeds; differences{unit}, paired by seed.", columns, rows)


def _leads(metric: Metric) -> str:
    """What a lead is counted in, as the beginning of a caption."""
    if metric.is_accuracy:
        return "Points of accuracy"
    return f"Leads in {metric.name}{f', {metric.difference_unit}' if metric.difference_unit else ''}"


def _name(predictor: str) -> str:
    return "κ" if predictor == "kappa" else predictor


def _span(low: float | None, high: float | None) -> str:
    return f"{number(low)} to {number(high)}"
