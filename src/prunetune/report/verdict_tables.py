"""The tables of what is judged: comparisons, pre-training, and what to train from. No HTML here."""

from collections.abc import Iterable, Sequence

from prunetune.analysis.pairing import Evidence, mean_of, percent
from prunetune.analysis.pretraining import Check
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Comparison, SparsityTest, Verdict
from prunetune.core.metric import LOWER
from prunetune.report.table_format import (
    NONE,
    Column,
    Table,
    bounds,
    number,
    numeric,
    p_value,
    signed,
)
from prunetune.report.tables import MASKS, RATE, SPARSITY
from prunetune.report.text import direction_text, sufficiency


def recommendation_table(rows: Sequence[Recommendation], rule: Rule) -> Table:
    """What to train from at each sparsity, with the lead over the runner-up."""
    columns = (
        SPARSITY,
        Column("Train from"),
        MASKS,
        RATE,
        numeric(rule.metric.column),
        Column("Chosen"),
        numeric("Lead" if rule.metric.higher_is_better else "Difference"),
        numeric("Interval"),
        Column("Tie", "answer"),
        Column("Runner-up"),
    )
    lead = "lead" if rule.metric.higher_is_better else f"difference from the runner-up ({LOWER})"
    caption = (
        f"The best arm at each sparsity; its {lead}{rule.metric.in_unit} over paired seeds, {_level(rule)} two-sided "
        "interval."
    )
    return Table(caption, columns, tuple(_recommended(row) for row in rows))


def comparison_table(verdicts: Sequence[Verdict], rule: Rule) -> Table:
    """Both halves of every test with their bounds, as they decide and from each sparsity's own spread."""
    columns = (
        RATE,
        MASKS,
        SPARSITY,
        Column("Difference"),
        numeric("n"),
        numeric("Mean"),
        numeric("Bounds"),
        *([numeric("Errors")] if rule.metric.is_accuracy else []),
        numeric("Own bounds"),
        numeric("p"),
        Column("Answer", "answer"),
        numeric("Holm p"),
        Column("Property", "answer"),
    )
    errors = (
        "Errors is the relative change in error, where the second's accuracy is 95 % or more. "
        if rule.metric.is_accuracy
        else ""
    )
    caption = (
        f"Mean differences{rule.metric.in_unit} over seeds, each with its one-sided {_look_level(rule)} lower and "
        "upper bound. The bounds with the shrunk spread decide; those with each sparsity's own spread stand beside "
        f"them. {errors}Holm's p is of both halves together.{direction_text(rule.metric)}"
    )
    return Table(caption, columns, tuple(row for v in verdicts for t in v.tests for row in _compared(v, t)))


def dense_table(verdicts: Sequence[Verdict], evidence: Evidence, rule: Rule) -> Table:
    """The dense networks against those of the best rate: was pre-training sufficient?"""
    metric = rule.metric
    columns = (
        RATE,
        numeric("n"),
        numeric(f"Dense {metric.name} {metric.unit}".rstrip()),
        numeric("Minus best rate's"),
        numeric("Bounds"),
        Column("Pre-training", "answer"),
    )
    caption = (
        f"Dense {metric.name} at each rate; difference{metric.in_unit} with its one-sided {_look_level(rule)} bounds."
        f"{direction_text(metric)}"
    )
    by_rate = {verdict.learning_rate: verdict for verdict in verdicts}
    return Table(caption, columns, tuple(_dense_row(by_rate[rate], evidence) for rate in sorted(by_rate)))


def pretraining_table(verdicts: Sequence[Verdict], rule: Rule) -> Table:
    """The three checks of pre-training at each rate, with the figures that decide them."""
    columns = (
        RATE,
        Column("Check"),
        numeric("n"),
        numeric("Mean"),
        numeric("Bounds"),
        numeric("Limit"),
        Column("Answer", "answer"),
    )
    unit = f",{rule.metric.in_unit}" if rule.metric.in_unit else ""
    caption = (
        f"Means over seeds with one-sided {_look_level(rule)} bounds. Not worse: dense {rule.metric.name} less that of "
        f"the best rate{unit}. Converged: that of a longer dense training less that of the dense one{unit}. Forgotten: "
        f"R_p of the dense network's start and end, less chance, a share.{direction_text(rule.metric)}"
    )
    by_rate = {verdict.learning_rate: verdict.dense for verdict in verdicts if verdict.dense}
    return Table(
        caption,
        columns,
        tuple(_check_row(rate, c, rule) for rate, found in sorted(by_rate.items()) for c in found.checks),
    )


def _recommended(row: Recommendation) -> tuple[str, ...]:
    return (
        percent(row.sparsity),
        row.arm,
        row.mask,
        f"{row.learning_rate:g}",
        number(row.score, row.metric.digits),
        _chosen(row),
        signed(row.difference, row.metric.digits),
        bounds(row.low, row.high, row.metric.digits),
        "behind" if row.behind else "tie" if row.tie else "no",
        row.runner_up or NONE,
    )


def _chosen(row: Recommendation) -> str:
    """Of how many, and by which data."""
    if row.candidates == 1:
        return NONE
    which = "held-out" if row.chosen_on == "validation" else "these test"
    return f"best of {row.candidates} on {which} examples"


def _compared(verdict: Verdict, test: SparsityTest) -> Iterable[tuple[str, ...]]:
    digits, accurate = test.dense.metric.digits, test.dense.metric.is_accuracy
    for half, together in ((test.dense, (NONE, "")), (test.reinit, (p_value(test.p_holm), test.answer))):
        yield (
            f"{verdict.learning_rate:g}",
            verdict.mask,
            percent(test.sparsity),
            f"{half.first} − {half.second}",
            str(half.n),
            signed(half.mean, digits),
            bounds(half.low, half.high, digits),
            *([_errors(half)] if accurate else []),
            bounds(half.low_own, half.high_own, digits),
            p_value(half.p),
            half.metric.exceeds if half is test.dense and test.exceeds else half.answer,
            *together,
        )


def _errors(half: Comparison) -> str:
    return NONE if half.error_change is None else f"{signed(100 * half.error_change, 0)} %"


def _dense_row(verdict: Verdict, evidence: Evidence) -> tuple[str, ...]:
    values, digits = evidence.scores(("dense", None, verdict.learning_rate, 0.0)), evidence.metric.digits
    compared: Comparison | None = verdict.dense.comparison if verdict.dense else None
    difference = (NONE, NONE)
    if compared:
        difference = signed(compared.mean, digits), bounds(compared.low, compared.high, digits)
    score = number(mean_of(values), digits)
    return f"{verdict.learning_rate:g}", str(len(values)), score, *difference, sufficiency(verdict)


def _check_row(rate: float, check: Check, rule: Rule) -> tuple[str, ...]:
    digits = 3 if check.name == "forgotten" else rule.metric.digits
    return (
        f"{rate:g}",
        check.name,
        str(check.n),
        signed(check.mean, digits),
        bounds(check.low, check.high, digits),
        signed(check.limit, digits),
        check.answer,
    )


def _level(rule: Rule) -> str:
    return percent(1 - rule.alpha)


def _look_level(rule: Rule) -> str:
    """The level of bounds that a verdict rests on: where seeds may be added, each look has its own."""
    return "(at its look's level)" if rule.looks else _level(rule)
