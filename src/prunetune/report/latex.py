"""The accuracies of a study as a LaTeX table for a paper (package booktabs): arms in rows, sparsities in columns."""

from collections.abc import Iterator, Mapping, Sequence

from prunetune.analysis.pairing import Evidence
from prunetune.analysis.statistics import Rule, Sample, plain
from prunetune.core.files import slug
from prunetune.report.figures.accuracy import arm_order
from prunetune.report.ownership import LATEX_MARK
from prunetune.report.table_format import mean, number
from prunetune.rows import DENSE, Results

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
NONE = "--"


def latex_table(results: Results, rule: Rule) -> str:
    """One `table` with a block of rows for every learning rate and mask algorithm.

    A cell is the mean test score over seeds, with half the width of its two-sided t interval at level 1 - `rule.alpha`.
    Bold is the best mean of a block's column, and every mean within its interval. Diverged
    trainings are left out, as in the page's means.
    """
    evidence = Evidence(results.trials, results.missing, ragged=bool(rule.looks), metric=rule.metric)
    sparsities = sorted({place[3] for place in evidence.places if place[1] is not None})
    blocks = sorted({(rate, mask) for _, mask, rate, _ in evidence.places if mask is not None})
    name = str(results.study.get("name", "study"))
    lines = [
        LATEX_MARK,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(name, evidence, rule)}}}",
        rf"\label{{tab:{slug(name)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(sparsities)}r}}",
        r"\toprule",
        _row(["Sparsity", *(f"{100 * sparsity:.4g}\\,\\%" for sparsity in sparsities), "$n$"]),
    ]
    for rate, mask in blocks:
        lines += _block(evidence, rate, mask, sparsities, rule)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text of a user's as LaTeX sets it: no character of it is a command.

    >>> escaped("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    return " ".join("".join(SPECIAL.get(character, character) for character in text).split())


def _caption(name: str, evidence: Evidence, rule: Rule) -> str:
    level = f"{100 * (1 - rule.alpha):g}\\,\\%"
    seeds = _span([n for place in evidence.places if (n := len(evidence.scores(place)))])
    metric = rule.metric
    unit = "percent" if metric.unit == "%" else escaped(metric.unit)
    what = f"{escaped(metric.name)}{f' in {unit}' if unit else ''}"
    better = "" if metric.higher_is_better else " (lower is better)"
    return (
        f"Test {what} of {escaped(name)}{better}: mean over $n$ seeds ({seeds}) $\\pm$ half its {level} interval. "
        "Bold: the best of a column within its learning rate and masks, and what lies within its interval."
    )


def _block(evidence: Evidence, rate: float, mask: str, sparsities: Sequence[float], rule: Rule) -> Iterator[str]:
    """The rows of one learning rate and mask algorithm, the dense network first."""
    yield r"\midrule"
    yield rf"\multicolumn{{{len(sparsities) + 2}}}{{l}}{{Learning rate {rate:g}, {escaped(mask)} masks}} \\"
    dense = list(evidence.scores((DENSE, None, rate, 0.0)).values())
    yield _row([DENSE, rf"\multicolumn{{{len(sparsities)}}}{{c}}{{{_cell(dense, rule)}}}", _span([len(dense)])])
    columns: dict[float, dict[str, list[float]]] = {sparsity: {} for sparsity in sparsities}
    for place in evidence.places:
        if place[1:3] == (mask, rate) and (found := evidence.scores(place)):
            columns[place[3]][place[0]] = list(found.values())
    bold = {sparsity: _best(arms, rule) for sparsity, arms in columns.items()}
    for arm in arm_order(arm for arms in columns.values() for arm in arms):
        cells = [_cell(arms.get(arm, ()), rule, arm in bold[sparsity]) for sparsity, arms in columns.items()]
        yield _row([escaped(arm), *cells, _span([len(arms[arm]) for arms in columns.values() if arm in arms])])


def _best(values: Mapping[str, Sequence[float]], rule: Rule) -> set[str]:
    """The arm of the best mean, and those whose mean lies within its interval."""
    samples = {arm: Sample.of([rule.metric.oriented(score) for score in found]) for arm, found in values.items()}
    if not samples:
        return set()
    best = max(samples.values(), key=lambda sample: sample.mean)
    estimate = plain(best)
    low = best.mean if estimate is None else estimate.low(rule.alpha / 2)
    return {arm for arm, sample in samples.items() if sample.mean >= low}


def _cell(values: Sequence[float], rule: Rule, bold: bool = False) -> str:
    if not values:
        return NONE
    sample = Sample.of(values)
    estimate = plain(sample)
    digits = rule.metric.digits
    shown = number(mean(values), digits).replace(
        "−", "$-$"
    )  # rounded as on the page: the two tables of a study agree to the last digit
    shown = rf"\textbf{{{shown}}}" if bold else shown
    return shown if estimate is None else rf"{shown} $\pm$ {estimate.high(rule.alpha / 2) - sample.mean:.{digits}f}"


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{least}" if least == most else f"{least}--{most}"


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"
