"""The answer as a terminal shows it: a sentence per rate and mask, the figures behind it, and the advice."""

from collections.abc import Sequence

from prunetune.report.comparison import Comparison
from prunetune.report.evidence import Answer, percent
from prunetune.report.recommend import Recommendation
from prunetune.report.statistics import Rule
from prunetune.report.verdict import Verdict
from prunetune.report.words import lead

_SIGNS: dict[Answer, str] = {"yes": "yes", "no": "no", "undecided": "?"}


def summary(verdicts: Sequence[Verdict], recommendations: Sequence[Recommendation], rule: Rule) -> str:
    """Verdicts, then what to train the sparse network from; the page has the full wording and its limits."""
    blocks = [_verdict(verdict) for verdict in verdicts]
    return "\n\n".join([*blocks, *_pretraining(verdicts), _advice(recommendations, rule)])


def _verdict(verdict: Verdict) -> str:
    header = ["sparsity", "ticket − dense", "matches?", "ticket − reinit", "beats?", "both, corrected?"]
    body = [
        [percent(test.sparsity), *_half(test.dense), *_half(test.reinit), _SIGNS[test.answer]] for test in verdict.tests
    ]
    sentences = " ".join(filter(None, [lead(verdict), verdict.outlook]))
    return "\n".join([sentences, *(_columns([header, *body]) if body else [])])


def _pretraining(verdicts: Sequence[Verdict]) -> list[str]:
    rates = {verdict.learning_rate: verdict for verdict in verdicts}
    rows = [
        [f"{rate:g}", verdict.pretraining, verdict.dense.finding if verdict.dense else ""]
        for rate, verdict in sorted(rates.items())
    ]
    return ["\n".join(["Pre-training, by learning rate:", *_columns(rows)])] if rows else []


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
    return "\n".join([f"Train the sparse network from (with its lead, {level} interval):", *_columns(rows)])


def _ahead(row: Recommendation) -> str:
    if row.runner_up is None or row.difference is None:
        return ""
    interval = "" if row.low is None or row.high is None else f" [{row.low:+.2f}, {row.high:+.2f}]"
    return f"{row.difference:+.2f}{interval} over {row.runner_up}{', a tie' if row.tie else ''}"


def _half(half: Comparison) -> tuple[str, str]:
    """The mean difference with its bounds, and the answer that follows."""
    if half.mean is None:
        return "no pairs", _SIGNS[half.answer]
    bounds = "" if half.low is None or half.high is None else f" [{half.low:+.2f}, {half.high:+.2f}]"
    return f"{half.mean:+.2f}{bounds}", _SIGNS[half.answer]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
