"""What an audit prints in a terminal: scores, verdicts, pre-training and the recommendation, in columns."""

from collections.abc import Sequence
from statistics import fmean

from prunetune.analysis.comparison import Comparison, errors_changed
from prunetune.analysis.pairing import Chance, percent, seed_range
from prunetune.analysis.paper.scale import retention_text
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict
from prunetune.core.metric import LOWER, Metric
from prunetune.errors import counted
from prunetune.report.figures.accuracy import arm_order
from prunetune.report.table_format import NONE, number, signed
from prunetune.report.text import (
    choice_text,
    direction_text,
    exceeds_text,
    family_text,
    lead,
    lead_text,
    looks_text,
    none_text,
    standing,
    sufficiency,
)
from prunetune.rows import Layer, Trial
from prunetune.training.recipe import RecipeSummary

STUCK = "†"  # at a mean that counts trainings no better than guessing


def summary(
    trials: Sequence[Trial],
    verdicts: Sequence[Verdict],
    recommendations: Sequence[Recommendation],
    rule: Rule,
    layers: Sequence[Layer] = (),
    recipes: Sequence[RecipeSummary] = (),
    chance: Chance | None = None,
) -> str:
    """Scores, verdicts, what to train the sparse network from; the page has the full wording and its limits.

    Of `layers`, those that lost all their weights are named; κ of `recipes` stands beside R_p. Means that count a
    training no better than `chance` are marked.
    """
    blocks = [
        *_scores(trials, rule, chance),
        *(_verdict(verdict, rule) for verdict in verdicts),
        *_legend(verdicts, rule),
        *_pretraining(verdicts, recipes),
    ]
    return "\n\n".join([*blocks, *_emptied(layers), _advice(recommendations, rule)])


def _emptied(layers: Sequence[Layer]) -> list[str]:
    lines = [
        f"no weight of '{layer.name}' is left by {mask}"
        for layer in layers
        for mask, share in layer.kept.items()
        if layer.prunable and share == 0
    ]
    return ["\n".join(lines)] if lines else []


def _scores(trials: Sequence[Trial], rule: Rule, chance: Chance | None) -> list[str]:
    """Mean score by rate, mask and sparsity in rows, by arm in columns."""
    arms = arm_order(trial.arm for trial in trials if trial.mask)
    cells = sorted({(trial.learning_rate, trial.mask, trial.sparsity) for trial in trials if trial.mask})
    rows = [
        [f"{rate:g}", str(mask), percent(sparsity), _dense_mean(trials, (rate, mask, sparsity), rule, chance)]
        + [_mean(trials, arm, (rate, mask, sparsity), rule.metric, chance) for arm in arms]
        for rate, mask, sparsity in cells
    ]
    if not rows:
        return []
    diverged = ", * without those that diverged" if any(trial.diverged for trial in trials) else ""
    seeds = f"{seed_range(trials)} seeds" if rule.looks else counted(len({trial.seed for trial in trials}), "seed")
    guessed = any(STUCK in cell for row in rows for cell in row)
    stuck = f", {STUCK} counting trainings that are no better than guessing" if guessed else ""
    title = f"Test {rule.metric.axis}, mean over {seeds}{diverged}{stuck}:"
    return ["\n".join([title, *_columns([["rate", "mask", "sparsity", "dense", *arms], *rows])])]


def _dense_mean(
    trials: Sequence[Trial], cell: tuple[float, str | None, float], rule: Rule, chance: Chance | None
) -> str:
    """Where seeds were added to some masks only, over the seeds of this one."""
    seeds = {t.seed for t in trials if not rule.looks or (t.learning_rate, t.mask, t.sparsity) == cell}
    return _mean([t for t in trials if t.seed in seeds], "dense", (cell[0], None, 0.0), rule.metric, chance)


def _mean(
    trials: Sequence[Trial], arm: str, cell: tuple[float, str | None, float], metric: Metric, chance: Chance | None
) -> str:
    found = [t for t in trials if t.arm == arm and (t.learning_rate, t.mask, t.sparsity) == cell]
    sound = [t.score for t in found if not t.diverged and t.score is not None]
    stuck = chance is not None and any(map(chance.holds, sound))
    mean = number(fmean(sound), metric.digits) if sound else NONE
    return f"{mean}{'*' * (len(sound) < len(found))}{STUCK * stuck}"


def _verdict(verdict: Verdict, rule: Rule) -> str:
    header = ["sparsity", "ticket − dense", "matches?", "ticket − reinit", "beats?", "both, corrected?"]
    body = [
        [
            percent(test.sparsity),
            *_half(test.dense, rule.metric.exceeds if test.exceeds else ""),
            *_half(test.reinit),
            test.answer,
        ]
        for test in verdict.tests
        if "ticket" not in verdict.unasked
    ]
    sentences = " ".join(
        filter(None, [lead(verdict), exceeds_text(verdict, rule), verdict.outlook, looks_text(verdict, rule)])
    )
    return "\n".join([sentences, *(_columns([header, *body]) if body else []), *_withheld(verdict)])


def _withheld(verdict: Verdict) -> list[str]:
    """Why a question is undecided, however large the difference, where trainings diverged or never learned."""
    halves = [
        (test.sparsity, asked, half)
        for test in verdict.tests
        for asked, half in (("matches?", test.dense), ("beats?", test.reinit))
        if "ticket" not in verdict.unasked
    ]
    return [
        f"  {percent(sparsity)}, {asked} undecided: {'; '.join(half.notes)}."
        for sparsity, asked, half in halves
        if half.answer == "undecided" and half.notes
    ]


def _legend(verdicts: Sequence[Verdict], rule: Rule) -> list[str]:
    """How many verdicts there are, and what the questions of their tables ask."""
    if not any(verdict.tests for verdict in verdicts):
        return []
    metric = rule.metric
    asks = (
        f"matches: surely less than {metric.amount(rule.margin)} {metric.worse}, if at all; {metric.exceeds}: surely "
        f"more than that {metric.better}; beats: {lead_text(rule)}.{direction_text(metric)}"
    )
    return ["\n".join(filter(None, [family_text(verdicts, rule).replace("*", ""), asks]))]


def _pretraining(verdicts: Sequence[Verdict], recipes: Sequence[RecipeSummary]) -> list[str]:
    """The answer at each rate, and under it a line for each check that it follows from, and κ."""
    rates = {verdict.learning_rate: verdict for verdict in verdicts}
    kappas = {row.learning_rate: f"{retention_text(row)[0].upper()}{retention_text(row)[1:]}." for row in recipes}
    lines = []
    for rate, verdict in sorted(rates.items()):
        checks = [*(verdict.dense.lines if verdict.dense else ()), *([kappas[rate]] if rate in kappas else [])]
        lines += [f"  {rate:g}  {sufficiency(verdict)}", *(f"    {check}" for check in checks)]
    return ["\n".join(["Pre-training, by learning rate:", *lines])] if lines else []


def _advice(recommendations: Sequence[Recommendation], rule: Rule) -> str:
    if not recommendations:
        return none_text(rule)
    rows = [
        [
            percent(row.sparsity),
            row.arm,
            f"{row.mask} mask",
            f"learning rate {row.learning_rate:g}",
            row.metric.text(row.score),
            _lead(row),
        ]
        for row in recommendations
    ]
    level = percent(1 - rule.alpha)
    over = " over the seeds that all rates and masks have" * bool(rule.looks)
    lead = "lead" if rule.metric.higher_is_better else f"difference, {LOWER}"
    title = f"Train the sparse network from (with its {lead}, {level} interval{over}):"
    return "\n".join(filter(None, [title, *_columns(rows), choice_text(recommendations)]))


def _lead(row: Recommendation) -> str:
    if row.runner_up is None or row.difference is None:
        return ""
    digits, over = row.metric.digits, "over" if row.metric.higher_is_better else "from"
    known = row.low is not None and row.high is not None
    interval = f" [{signed(row.low, digits)}, {signed(row.high, digits)}]" if known else ""
    return f"{signed(row.difference, digits)}{interval} {over} {row.runner_up}{standing(row)}"


def _half(half: Comparison, answer: str = "") -> tuple[str, str]:
    """The mean difference with its bounds, and the answer that follows, or the given word for it."""
    if half.mean is None:
        return "no pairs", half.answer
    digits, known = half.metric.digits, half.low is not None and half.high is not None
    bounds = f" [{signed(half.low, digits)}, {signed(half.high, digits)}]" if known else ""
    errors = "" if half.error_change is None else f", {errors_changed(half.error_change)}"
    return f"{signed(half.mean, digits)}{bounds}{errors}", answer or half.answer


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
