"""The tables of a report as texts in rows: what is in them, in which words and with how many digits. No HTML here."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from prunetune.analysis.pairing import Evidence, Place, percent, seeds_named
from prunetune.analysis.paper.check_claims import PaperRow
from prunetune.analysis.statistics import Rule
from prunetune.core.metric import ACCURACY, Metric
from prunetune.errors import counted
from prunetune.report.figures.accuracy import PAIRS, arm_order
from prunetune.report.table_format import (
    NONE,
    Column,
    Table,
    deviation,
    flat,
    mean,
    number,
    numeric,
    signed,
    span,
)
from prunetune.rows import Correlation, Invariant, Layer, Missing, Spent, Trial

RATE, MASKS, SPARSITY, ARM = numeric("Rate"), Column("Masks"), numeric("Sparsity"), Column("Arm")


def means_table(evidence: Evidence, trials: Sequence[Trial]) -> Table:
    """Mean score of every arm over seeds, with what was left out, and what is no better than guessing."""
    metric = evidence.metric
    columns = (
        RATE,
        MASKS,
        SPARSITY,
        ARM,
        numeric("n"),
        numeric(f"Mean {metric.unit}".rstrip()),
        numeric("Spread"),
        numeric("Lowest to highest"),
        numeric("Density"),
        Column("Notes"),
    )
    unit = f",{metric.in_unit}" if metric.in_unit else ""
    caption = f"Test {metric.name} of the final epoch; spread is the standard deviation over seeds{unit}."
    density: dict[Place, list[float]] = {}
    for trial in trials:
        density.setdefault((trial.arm, trial.mask, trial.learning_rate, trial.sparsity), []).append(trial.density)
    order = arm_order(place[0] for place in evidence.places)
    places = sorted(
        evidence.places, key=lambda at: (at[2], at[1] or "", at[3], order.index(at[0]) if at[1] else -1, at[0])
    )
    return Table(caption, columns, tuple(_mean_row(place, evidence, density.get(place, [])) for place in places))


def trials_table(trials: Sequence[Trial], metric: Metric = ACCURACY) -> Table:
    """Every training."""
    columns = (
        Column("Key", "code"),
        ARM,
        MASKS,
        RATE,
        SPARSITY,
        numeric("Density"),
        numeric("Seed"),
        numeric(metric.column),
        numeric("Loss"),
        numeric("Epochs"),
        numeric("Steps"),
        numeric("Seconds"),
        Column("Cached"),
        Column("Start", "code"),
        Column("Mask", "code"),
        Column("Order", "code"),
    )
    caption = "Every training; digests by their first eight digits (trials.csv has all)."
    return Table(caption, columns, tuple(_trial_row(trial, metric) for trial in trials))


def correlation_table(rows: Sequence[Correlation]) -> Table:
    """R_p of every pair as a mean over seeds, with its chance level."""
    columns = (
        Column("Pair"),
        RATE,
        MASKS,
        SPARSITY,
        numeric("p"),
        numeric("n"),
        numeric("R_p"),
        numeric("By chance"),
        numeric("Excess"),
        numeric("Lowest to highest"),
    )
    pairs = list(PAIRS)
    places: dict[tuple[Any, ...], list[Correlation]] = {}
    for row in rows:
        places.setdefault((row.pair, row.learning_rate, row.mask or "", row.sparsity, row.p), []).append(row)
    order = sorted(places, key=lambda at: (pairs.index(at[0]) if at[0] in pairs else -1, *at))
    return Table("Means over seeds.", columns, tuple(_correlation_row(places[at]) for at in order))


def budget_table(rows: Sequence[Spent]) -> Table:
    """What every arm costs in epochs."""
    columns = (
        RATE,
        MASKS,
        SPARSITY,
        ARM,
        numeric("Pre-training"),
        numeric("Mask finding"),
        numeric("Training"),
        Column("Note"),
    )
    caption = "Epochs, summed over seeds. Pre-training and mask finding are shared: each is done once for all arms."
    return Table(caption, columns, tuple(_spent_row(row) for row in rows))


def invariants_table(rows: Sequence[Invariant]) -> Table:
    """What was checked while training, how often, and what broke it; not what there was nothing to check of."""
    columns = (
        Column("Rule"),
        Column("Meaning"),
        Column("Checked", "number"),
        Column("Outcome", "answer"),
        Column("Breaches"),
    )
    asked = [row for row in rows if row.checked or row.breaches]
    idle = len(rows) - len(asked)
    left_out = f" {counted(idle, 'rule')} had nothing to check in this study." if idle else ""
    cells = (
        (
            row.name,
            row.meaning,
            str(row.checked),
            "breached" if row.breaches else "kept",
            "; ".join(row.breaches) or NONE,
        )
        for row in asked
    )
    return Table(f"Checked at run time: a breach is an error and not a warning.{left_out}", columns, tuple(cells))


def layers_table(rows: Sequence[Layer]) -> Table:
    """Every parameter: shape, whether it may be pruned and why, and the share kept under each mask."""
    masks = list(dict.fromkeys(name for row in rows for name in row.kept))
    columns = (
        Column("Parameter"),
        numeric("Shape"),
        numeric("Weights"),
        Column("Pruned"),
        Column("Why"),
        *(Column(name, "number") for name in masks),
    )
    caption = "Parameters in the model's order; the last columns give the mean share of weights kept."
    return Table(caption, columns, tuple(_layer_row(row, masks) for row in rows))


def missing_table(trials: Sequence[Trial], missing: Sequence[Missing]) -> Table:
    """Diverged and missing trainings by name: never averaged in silently."""
    columns = (ARM, MASKS, RATE, SPARSITY, numeric("Seed"), Column("What happened"))
    diverged = [(*_name(row), "diverged: the loss was not finite") for row in trials if row.diverged]
    gone = [(*_name(row), row.why) for row in missing]
    return Table("Trainings that no mean counts.", columns, (*diverged, *gone))


def facts_table(facts: dict[str, Any], caption: str) -> Table:
    """Names and values, nested names joined by dots."""
    return Table(caption, (Column("Name"), Column("Value")), tuple(flat(facts)))


def _mean_row(place: Place, evidence: Evidence, density: list[float]) -> tuple[str, ...]:
    arm, mask, rate, sparsity = place
    values, digits = list(evidence.scores(place).values()), evidence.metric.digits
    return (
        f"{rate:g}",
        mask or NONE,
        percent(sparsity),
        arm,
        str(len(values)),
        number(mean(values), digits),
        number(deviation(values), digits),
        span(values, digits),
        number(mean(density), 4),
        "; ".join([*evidence.notes(place), *_stuck(evidence.at_chance(place))]) or NONE,
    )


def _stuck(seeds: Sequence[int]) -> list[str]:
    return [f"no better than guessing in {seeds_named(seeds)}: counted as it is"] if seeds else []


def _trial_row(trial: Trial, metric: Metric) -> tuple[str, ...]:
    return (
        trial.key[:8],
        trial.arm,
        trial.mask or NONE,
        f"{trial.learning_rate:g}",
        percent(trial.sparsity),
        number(trial.density, 4),
        str(trial.seed),
        "diverged" if trial.diverged else number(trial.score, metric.digits),
        number(trial.test_loss, 4),
        str(trial.epochs),
        str(trial.steps),
        number(trial.seconds, 1),
        "yes" if trial.cached else "no",
        trial.start_digest[:8],
        (trial.mask_digest or NONE)[:8],
        trial.data_order_digest[:8],
    )


def _correlation_row(rows: Sequence[Correlation]) -> tuple[str, ...]:
    values = [row.value for row in rows if math.isfinite(row.value)]
    first, found, expected = rows[0], mean(values), mean([row.expected for row in rows])
    return (
        first.pair,
        f"{first.learning_rate:g}",
        first.mask or NONE,
        percent(first.sparsity),
        f"{first.p:g}",
        str(len(values)),
        number(found, 3),
        number(expected, 3),
        signed(None if found is None or expected is None else found - expected, 3),
        span(values, 3),
    )


def _spent_row(row: Spent) -> tuple[str, ...]:
    epochs = (f"{count:,}" for count in (row.pretraining_epochs, row.mask_epochs, row.training_epochs))
    return f"{row.learning_rate:g}", row.mask or NONE, percent(row.sparsity), row.arm, *epochs, row.note or NONE


def _layer_row(row: Layer, masks: Sequence[str]) -> tuple[str, ...]:
    shape = " × ".join(str(size) for size in row.shape) or "scalar"
    kept = (percent(row.kept[name]) if name in row.kept else NONE for name in masks)
    return row.name, shape, f"{math.prod(row.shape):,}", "yes" if row.prunable else "no", row.reason, *kept


def _name(row: Trial | Missing) -> tuple[str, ...]:
    return row.arm, row.mask or NONE, f"{row.learning_rate:g}", percent(row.sparsity), str(row.seed)


_ANSWERS = {"holds": "yes", "fails": "no", "inconclusive": "undecided"}  # of the winning property, as a page has them


def paper_table(rows: Sequence[PaperRow], rule: Rule, differs: Collection[str] = ()) -> Table:
    """The rows as the page shows them, without the phrases that the page has said of all of them (`differs`)."""
    columns = (
        Column("In the paper"),
        Column("Claim or number"),
        Column("Answer", "answer"),
        Column("Published"),
        numeric("Here"),
        numeric("Bounds"),
        numeric("n"),
        Column("Scale"),
        Column("Which figure, and why"),
    )
    caption = (
        f"Means over seeds with one-sided {percent(1 - rule.alpha)} bounds. Of an ordering and the winning property: "
        "the difference in points that decides; of a claim about R_p: its excess over chance where that decides."
    )
    return Table(caption, columns, tuple(_cells(row, differs) for row in rows))


def _cells(row: PaperRow, differs: Collection[str]) -> tuple[str, ...]:
    why = "; ".join(_ANSWERS.get(phrase, phrase) for phrase in row.why.split("; ") if phrase not in differs)
    shares = row.kind in ("overlap", "correlation")
    digits = 4 if shares else 2
    write = number if row.kind in ("accuracy", "correlation") else signed
    known = row.low is not None and row.high is not None
    return (
        row.place,
        row.claim,
        row.answer,
        _ANSWERS.get(row.published, row.published) if isinstance(row.published, str) else number(row.published, digits),
        write(row.here, digits),
        f"{write(row.low, digits)} to {write(row.high, digits)}" if known else "–",
        str(row.n),
        "the paper's" if row.paper_scale else "another",
        why or NONE,
    )
