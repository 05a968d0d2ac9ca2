"""The answer as a terminal shows it: a sentence per rate and mask, the figures behind it, and the advice."""

from collections.abc import Sequence
from statistics import fmean

from prunetune.analysis.comparison import Comparison, errors_changed
from prunetune.analysis.pairing import Answer, percent, seed_range, signed
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.retention import retention_words
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict
from prunetune.report.figures import arm_order
from prunetune.report.words import choice_words, exceeds_words, family_words, lead, lead_words, looks_words
from prunetune.study.results import Layer, RecipeSummary, Trial

_SIGNS: dict[Answer, str] = {"yes": "yes", "no": "no", "undecided": "?"}


def summary(
    trials: Sequence[Trial],
    verdicts: Sequence[Verdict],
    recommendations: Sequence[Recommendation],
    rule: Rule,
    layers: Sequence[Layer] = (),
    recipes: Sequence[RecipeSummary] = (),
) -> str:
    """Accuracies, verdicts, what to train the sparse network from; the page has the full wording and its limits.

    Of `layers`, those that lost all their weights are named; κ of `recipes` stands beside R_p.
    """
    blocks = [
        *_accuracies(trials, rule),
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


def _accuracies(trials: Sequence[Trial], rule: Rule) -> list[str]:
    """Mean accuracy by rate, mask and sparsity in rows, by arm in columns."""
    arms = arm_order(trial.arm for trial in trials if trial.mask)
    cells = sorted({(trial.learning_rate, trial.mask, trial.sparsity) for trial in trials if trial.mask})
    rows = [
        [f"{rate:g}", str(mask), percent(sparsity), _dense_mean(trials, (rate, mask, sparsity), rule)]
        + [_mean(trials, arm, (rate, mask, sparsity)) for arm in arms]
        for rate, mask, sparsity in cells
    ]
    if not rows:
        return []
    diverged = ", * without those that diverged" if any(trial.diverged for trial in trials) else ""
    seeds = seed_range(trials) if rule.looks else len({trial.seed for trial in trials})
    title = f"Test accuracy, %, mean over {seeds} seeds{diverged}:"
    return ["\n".join([title, *_columns([["rate", "mask", "sparsity", "dense", *arms], *rows])])]


def _dense_mean(trials: Sequence[Trial], cell: tuple[float, str | None, float], rule: Rule) -> str:
    """Where seeds were added to some masks only, over the seeds of this one."""
    seeds = {t.seed for t in trials if not rule.looks or (t.learning_rate, t.mask, t.sparsity) == cell}
    return _mean([t for t in trials if t.seed in seeds], "dense", (cell[0], None, 0.0))


def _mean(trials: Sequence[Trial], arm: str, cell: tuple[float, str | None, float]) -> str:
    found = [t for t in trials if t.arm == arm and (t.learning_rate, t.mask, t.sparsity) == cell]
    sound = [t.test_accuracy for t in found if not t.diverged and t.test_accuracy is not None]
    return (f"{fmean(sound):.2f}" if sound else "-") + "*" * (len(sound) < len(found))


def _verdict(verdict: Verdict, rule: Rule) -> str:
    header = ["sparsity", "ticket − dense", "matches?", "ticket − reinit", "beats?", "both, corrected?"]
    body = [
        [
            percent(test.sparsity),
            *_half(test.dense, "exceeds" if test.exceeds else ""),
            *_half(test.reinit),
            _SIGNS[test.answer],
        ]
        for test in verdict.tests
        if "ticket" not in verdict.unasked
    ]
    sentences = " ".join(
        filter(None, [lead(verdict), exceeds_words(verdict, rule), verdict.outlook, looks_words(verdict, rule)])
    )
    return "\n".join([sentences, *(_columns([header, *body]) if body else [])])


def _legend(verdicts: Sequence[Verdict], rule: Rule) -> list[str]:
    """How many verdicts there are, and what the questions of their tables ask."""
    if not any(verdict.tests for verdict in verdicts):
        return []
    asks = (
        f"matches: surely less than {rule.margin:g} points below, if at all; exceeds: surely more than that above; "
        f"beats: {lead_words(rule)}."
    )
    return ["\n".join(filter(None, [family_words(verdicts, rule).replace("*", ""), asks]))]


def _pretraining(verdicts: Sequence[Verdict], recipes: Sequence[RecipeSummary]) -> list[str]:
    """The answer at each rate, and under it a line for each check that it follows from, and κ."""
    rates = {verdict.learning_rate: verdict for verdict in verdicts}
    kappas = {row.learning_rate: f"{retention_words(row)[0].upper()}{retention_words(row)[1:]}." for row in recipes}
    lines = []
    for rate, verdict in sorted(rates.items()):
        checks = [*(verdict.dense.lines if verdict.dense else ()), *([kappas[rate]] if rate in kappas else [])]
        lines += [f"  {rate:g}  {verdict.pretraining}", *(f"    {check}" for check in checks)]
    return ["\n".join(["Pre-training, by learning rate:", *lines])] if lines else []


def _advice(recommendations: Sequence[Recommendation], rule: Rule) -> str:
    if not recommendations:
        return "No arm finished all its seeds above chance, so none is recommended."
    rows = [
        [
            percent(row.sparsity),
            row.arm,
            f"{row.mask} mask",
            f"learning rate {row.learning_rate:g}",
            f"{row.accuracy:.2f} %",
            _ahead(row),
        ]
        for row in recommendations
    ]
    level = percent(1 - rule.alpha)
    over = " over the seeds that all rates and masks have" * bool(rule.looks)
    title = f"Train the sparse network from (with its lead, {level} interval{over}):"
    return "\n".join(filter(None, [title, *_columns(rows), choice_words(recommendations)]))


def _ahead(row: Recommendation) -> str:
    if row.runner_up is None or row.difference is None:
        return ""
    interval = "" if row.low is None or row.high is None else f" [{signed(row.low)}, {signed(row.high)}]"
    return f"{signed(row.difference)}{interval} over {row.runner_up}{', a tie' if row.tie else ''}"


def _half(half: Comparison, answer: str = "") -> tuple[str, str]:
    """The mean difference with its bounds, and the answer that follows, or the given word for it."""
    if half.mean is None:
        return "no pairs", _SIGNS[half.answer]
    bounds = "" if half.low is None or half.high is None else f" [{signed(half.low)}, {signed(half.high)}]"
    errors = "" if half.error_change is None else f", {errors_changed(half.error_change)}"
    return f"{signed(half.mean)}{bounds}{errors}", answer or _SIGNS[half.answer]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
