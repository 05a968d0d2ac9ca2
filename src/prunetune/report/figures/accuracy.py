"""The pictures of a study, in the paper's forms: small panels, so that a page can stack them.

Sparsity axes are spaced by the logarithm of the density, as in the lottery-ticket papers: each step to the right halves
what is kept by the same distance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from prunetune.analysis.pairing import Evidence, mean_of, percent
from prunetune.analysis.pretraining import NEAR_CHANCE
from prunetune.analysis.verdict import Comparison, Rule, Verdict
from prunetune.core.files import slug
from prunetune.core.metric import ACCURACY, LOWER, Metric
from prunetune.report.figures.line_ends import label_ends
from prunetune.report.figures.marks import name_entry
from prunetune.report.figures.plot_primitives import (
    CHANCE,
    HEIGHT,
    SPARSITY_AXIS,
    WIDTH,
    Bars,
    Line,
    Points,
    draw_bars,
    draw_lines,
    draw_points,
    lengthen,
    panel,
    share_range,
    sparsity_axis,
)
from prunetune.report.figures.style import drawing_style, family
from prunetune.rows import DENSE, DENSE_LONGER, Correlation, Results

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

ARMS = ("ticket", "reinit", "rewind", "finetune", "finetune_chain", "shuffle")
MIXED_STEPS = (0.375, 0.625)  # between the colours of mixes: .25, .5 and .75 have one each
LEGEND_TOP, LEGEND_EDGE = 0.125 * HEIGHT, 0.02  # inches from the lower edge: its top, and where it must end
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
DENSE_PAIR = "theta_0/theta_T"
SHARE_AXIS = "p, share of each layer that counts as largest"
PAIRS = {  # pair -> words and the role of its colour
    "ticket_0/finetune_T": ("ticket start and finetune end", "ticket"),
    "reinit_0/finetune_T": ("reinit start and finetune end", "reinit"),
    "finetune_T/theta_0": ("finetune end and dense start", "ticket"),
    "finetune_T/theta_T": ("finetune end and dense end", "finetune"),
}

Group = Literal[
    "answer",
    "difference",
    "accuracy",
    "masks",
    "residuals",
    "pretraining",
    "along",
    "overlap",
    "layers",
    "agreement",
    "connectivity",
    "cost",
    "regimes",
    "phase",
    "mixed",
]


class Drawing(NamedTuple):
    """A figure with the name of its file, the section it belongs to, and what it shows in words.

    A figure that shows nothing but chance has a sentence that says so, which a page has in its place.
    """

    name: str
    group: Group
    title: str
    description: str
    figure: Figure
    sentence: str = ""


def chance_sentence(title: str, what: str, distances: Iterable[float]) -> str:
    """What to say in place of a figure whose means all lie about chance, by these distances; else nothing."""
    farthest = max(map(abs, distances), default=math.inf)
    within = max(math.ceil(1000 * farthest), 1) / 1000 if farthest < NEAR_CHANCE else 0.0
    return f"{title}: {what} is about chance, every mean within {within:.3f} of it." if within else ""


def drawings(results: Results, verdicts: Sequence[Verdict], rule: Rule) -> tuple[Drawing, ...]:
    """Every figure that trials and correlations have data for."""
    evidence = Evidence(results.trials, results.missing, metric=rule.metric)
    cells = sorted({(mask, rate) for _, mask, rate, _ in evidence.places if mask is not None})  # so rates stand abreast
    abreast = sorted(verdicts, key=lambda verdict: (verdict.mask, verdict.learning_rate))
    found = [difference_figure(verdict, rule) for verdict in abreast if _has_differences(verdict)]
    share_range([drawing.figure for drawing in found], max(rule.gap, rule.margin))
    with_range = _score_range(evidence)
    roles = arm_roles(evidence.arms)
    found += [accuracy_figure(evidence, rate, mask, with_range, roles) for mask, rate in cells]
    found += pretraining_figures(results.correlations)
    found += overlap_figures(results.correlations)
    if len({mask for mask, _ in cells}) > 1:
        rates = sorted({rate for _, rate in cells})
        arms = [arm for arm in ("finetune", "ticket") if any(place[0] == arm for place in evidence.places)]
        found += [mask_figure(evidence, arm, rate, with_range) for arm in arms for rate in rates]
    return tuple(drawing for drawing in found if drawing.description)


def answer_figure(results: Results, rate: float, mask: str, rule: Rule) -> Drawing:
    """The scores against sparsity where the answer of the page is: at one rate, one kind of masks, without controls."""
    here = [row for row in results.trials if row.learning_rate == rate and row.mask in (None, mask)]
    evidence = Evidence([row for row in here if row.arm not in results.controls], metric=rule.metric)
    roles = arm_roles(row.arm for row in results.trials)
    drawing = accuracy_figure(evidence, rate, mask, _score_range(evidence), roles)
    return drawing._replace(name="answer", group="answer")


def arm_order(arms: Iterable[str]) -> list[str]:
    """The paper's arms first, in its order; then the others by name, those of one name by their settings.

    >>> arm_order(["mixed(0.25)", "reinit", "mixed(1e-05)", "ticket", "lone"])
    ['ticket', 'reinit', 'lone', 'mixed(1e-05)', 'mixed(0.25)']
    """
    found = set(arms) - {DENSE, DENSE_LONGER}
    return [arm for arm in ARMS if arm in found] + sorted(found - set(ARMS), key=_by_settings)


def accuracy_figure(
    evidence: Evidence, rate: float, mask: str, y_range: tuple[float, float], roles: Mapping[str, str]
) -> Drawing:
    """Score of every arm against sparsity at one rate and mask, with the dense line; thin bars span the seeds."""
    arms = arm_order(arm for arm, by, at, _ in evidence.places if (by, at) == (mask, rate))
    lines = [_dense_line(evidence, rate)]
    lines += [_line(evidence, arm, mask, rate, label=arm, role=roles[arm]) for arm in arms]
    title = f"Learning rate {rate:g}, {mask} masks"
    kind = "accuracy" if evidence.metric.is_accuracy else "score"
    return _line_drawing(f"{kind}-{rate:g}-{slug(mask)}", "accuracy", title, lines, y_range)


def mask_figure(evidence: Evidence, arm: str, rate: float, y_range: tuple[float, float]) -> Drawing:
    """One arm's score under every mask algorithm, at one rate."""
    roles = mask_roles(mask for _, mask, _, _ in evidence.places if mask is not None)
    masks = sorted({mask for name, mask, at, _ in evidence.places if mask is not None and (name, at) == (arm, rate)})
    lines = [_dense_line(evidence, rate)]
    lines += [_line(evidence, arm, mask, rate, label=mask, role=roles[mask]) for mask in masks]
    return _line_drawing(f"masks-{slug(arm)}-{rate:g}", "masks", f"{arm}, learning rate {rate:g}", lines, y_range)


def pretraining_figures(rows: Sequence[Correlation]) -> list[Drawing]:
    """R_p(theta_0, theta_T) of the dense runs by p, a bar for each rate, with what independent weights would give."""
    rows = [row for row in rows if row.pair == DENSE_PAIR and math.isfinite(row.value)]
    rates = sorted({row.learning_rate for row in rows})
    series = [(f"rate {rate:g}", f"rate-{i % 4 + 1}", _rate_is(rate)) for i, rate in enumerate(rates)]
    bars = _bars(rows, series, group=lambda row: (row.p,), label=lambda key: short(key[0]), axis=SHARE_AXIS)
    subtitle = "share of largest weights in common, start and end; dots: seeds"
    return (
        [_bar_drawing("pretraining", "pretraining", "R_p(θ_0, θ_T) of the dense runs", subtitle, bars)] if rows else []
    )


def overlap_figures(rows: Sequence[Correlation]) -> list[Drawing]:
    """R_p between sparse states, and between sparse and dense ones, at every rate and mask that has them."""
    places: dict[tuple[bool, str, float], list[Correlation]] = {}
    for row in rows:
        if row.pair != DENSE_PAIR and row.mask is not None and math.isfinite(row.value):
            places.setdefault((_is_dense(row), row.mask, row.learning_rate), []).append(row)
    return [_overlap_figure(places[place], *place) for place in sorted(places)]


def difference_figure(verdict: Verdict, rule: Rule) -> Drawing:
    """The picture of a verdict: the two paired differences with their bounds, against the margin and the gap."""
    sparsities = [test.sparsity for test in verdict.tests]
    series = [
        _points([test.dense for test in verdict.tests], sparsities, "ticket − dense", "ink"),
        _points([test.reinit for test in verdict.tests], sparsities, "ticket − reinit", "reinit"),
    ]
    metric = rule.metric
    limits = [
        (metric.oriented(-rule.margin), f"{_sign(-1, metric)}margin ({rule.margin:g})", "ink"),
        (metric.oriented(rule.gap), f"{_sign(1, metric)}gap ({rule.gap:g}), for the mean", "reinit"),
    ]
    level = percent(1 - verdict.alpha)
    title = f"Learning rate {verdict.learning_rate:g}, {verdict.mask} masks"
    with drawing_style():
        figure, axes = panel(title, f"{_difference_axis(metric)}, paired by seed; one-sided {level} bounds")
        draw_points(axes, series, limits, {test.sparsity: test.answer for test in verdict.tests})
        sparsity_axis(axes, sparsities)
        legend(figure, axes)
    name = f"difference-{verdict.learning_rate:g}-{slug(verdict.mask)}"
    return Drawing(name, "difference", title, " ".join(points.alt_text() for points in series), figure)


def _sign(side: int, metric: Metric) -> str:
    """Of a limit on the better (1) or the worse (−1) side of 0; a plus goes without saying where more is better."""
    if metric.higher_is_better:
        return "" if side > 0 else "−"
    return "−" if side > 0 else "+"


def _difference_axis(metric: Metric) -> str:
    unit = f"{metric.difference_unit} of " if metric.difference_unit else "difference of "
    return f"{unit}{metric.name}{'' if metric.higher_is_better else f' ({LOWER})'}"


def _has_differences(verdict: Verdict) -> bool:
    """Whether there is a ticket to compare: a study need not have one."""
    return any(half.mean is not None for test in verdict.tests for half in (test.dense, test.reinit))


def _line_drawing(name: str, group: Group, title: str, lines: list[Line], y_range: tuple[float, float]) -> Drawing:
    lines = [line for line in lines if line.means]
    with drawing_style():
        axis = lines[0].metric.axis if lines else ACCURACY.axis
        figure, axes = panel(title, f"test {axis}: mean of seeds, bar from lowest to highest")
        draw_lines(axes, lines)
        axes.set_ylim(*y_range)
        has_names = label_ends(axes, lines)
        sparsity_axis(axes, sorted({sparsity for line in lines for sparsity in line.sparsities}))
        if not has_names:
            legend(figure, axes)
    return Drawing(name, group, title, " ".join(line.alt_text() for line in lines), figure)


def _bar_drawing(name: str, group: Group, title: str, subtitle: str, bars: Bars) -> Drawing:
    with drawing_style():
        figure, axes = panel(title, subtitle)
        draw_bars(axes, bars)
        legend(figure, axes)
    return Drawing(name, group, title, bars.alt_text(), figure)


def _overlap_figure(here: Sequence[Correlation], dense: bool, mask: str, rate: float) -> Drawing:
    others = family("other")
    pairs = sorted(
        {row.pair for row in here}, key=lambda pair: (list(PAIRS).index(pair) if pair in PAIRS else 99, pair)
    )
    series = [(*PAIRS.get(pair, (pair, others[i % len(others)])), _pair_is(pair)) for i, pair in enumerate(pairs)]
    several = len({row.p for row in here}) > 1
    bars = _bars(
        here,
        series,
        group=lambda row: (row.sparsity, row.p),
        label=lambda key: f"{100 * key[0]:.4g}" + (f"\np = {short(key[1])}" if several else ""),
        axis=SPARSITY_AXIS,
    )
    kind = "dense" if dense else "sparse"
    share = "p" if several else f"{100 * here[0].p:g} %"
    subtitle = f"R_p, sparse and {kind}: share of largest {share} in common"
    name, title = f"overlap-{kind}-{rate:g}-{slug(mask)}", f"Learning rate {rate:g}, {mask} masks"
    sentence = chance_sentence(title, f"R_p, sparse and {kind},", bars.distances())
    return _bar_drawing(name, "overlap", title, subtitle, bars)._replace(sentence=sentence)


def _bars(
    rows: Sequence[Correlation],
    series: Sequence[tuple[str, str, Callable[[Correlation], bool]]],
    group: Callable[[Correlation], tuple[float, ...]],
    label: Callable[[tuple[float, ...]], str],
    axis: str,
) -> Bars:
    keys = sorted({group(row) for row in rows})
    values = [
        [[row.value for row in rows if belongs(row) and group(row) == key] for key in keys] for _, _, belongs in series
    ]
    expected = [[row.expected for row in rows if group(row) == key] for key in keys]
    return Bars(
        groups=[label(key) for key in keys],
        labels=[name for name, _, _ in series],
        roles=[role for _, role, _ in series],
        values=values,
        expected=[sum(found) / len(found) for found in expected],
        axis=axis,
    )


def _line(evidence: Evidence, arm: str, mask: str | None, rate: float, label: str, role: str) -> Line:
    sparsities = sorted(s for name, by, at, s in evidence.places if (name, by, at) == (arm, mask, rate))
    cells = [(s, values) for s in sparsities if (values := evidence.scores((arm, mask, rate, s)))]
    means = [mean for _, values in cells if (mean := mean_of(values)) is not None]
    lows, highs = [min(values.values()) for _, values in cells], [max(values.values()) for _, values in cells]
    return Line(label, role, [s for s, _ in cells], means, lows, highs, evidence.metric)


def _dense_line(evidence: Evidence, rate: float) -> Line:
    return _line(evidence, "dense", None, rate, label="dense", role="ink")


def _points(comparisons: Sequence[Comparison], sparsities: Sequence[float], label: str, role: str) -> Points:
    known = [(s, c) for s, c in zip(sparsities, comparisons, strict=True) if c.mean is not None]
    digits = comparisons[0].metric.digits
    bounds = [(c.low, c.high) if c.low is not None and c.high is not None else None for _, c in known]
    return Points(label, role, [s for s, _ in known], [c.mean for _, c in known if c.mean is not None], bounds, digits)


def _score_range(evidence: Evidence) -> tuple[float, float]:
    """One range for all panels, so that they can be compared by eye."""
    drawn = [place for place in evidence.places if place[0] != DENSE_LONGER]
    values = [value for place in drawn for value in evidence.scores(place).values()]
    low, high = (min(values), max(values)) if values else (0.0, 100.0)
    room = max(0.06 * (high - low), evidence.metric.margin)
    return low - room, high + room


def legend(figure: Figure, axes: Axes) -> None:
    """The legend below the axes, in as many rows as its entries need; rows from the third on lengthen the figure."""
    marks = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda mark: mark[1] == CHANCE)
    handles, labels = [mark for mark, _ in marks], [label for _, label in marks]
    one_row = 5.6 * len("".join(labels)) + 31 * len(labels) < 72 * WIDTH
    columns = len(labels) if one_row else math.ceil(len(labels) / 2)
    drawn = _legend(figure, handles, labels, columns)
    while columns > 1 and drawn.get_window_extent().width > figure.bbox.width:
        columns -= 1
        drawn.remove()
        drawn = _legend(figure, handles, labels, columns)
    missing = LEGEND_EDGE - drawn.get_window_extent().y0 / figure.dpi
    if missing > 0:
        drawn.remove()
        lengthen(figure, missing)
        drawn = _legend(figure, handles, labels, columns, lowered=missing)
    for sign, text in zip(drawn.legend_handles, drawn.get_texts(), strict=True):
        for part in filter(None, (sign, text)):
            name_entry(part, text.get_text())


def _legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int, lowered: float = 0.0
) -> Legend:
    """A legend in so many columns; in a figure that is `lowered` inches longer than it was, as far below the axes."""
    place = {
        "loc": "upper center",
        "bbox_to_anchor": (0.5, (LEGEND_TOP + lowered) / figure.get_figheight()),
        "borderpad": 0.1,
        "handlelength": 1.8,
        "columnspacing": 1.0,
        "handletextpad": 0.5,
    }
    return figure.legend(handles, labels, ncols=columns, frameon=False, fontsize=9.5, **place)


def arm_roles(arms: Iterable[str]) -> dict[str, str]:
    """The colour's role of each arm of a study, one over a whole page; that of a mix goes by its correlation with θ0.

    >>> arm_roles(["lone", "mixed(0.25)", "ticket", "random_mask"])
    {'ticket': 'ticket', 'mixed(0.25)': 'mixed-1', 'lone': 'other-1', 'random_mask': 'other-2'}
    """
    order = arm_order(arms)
    own = {arm: role for arm in order if (role := _own_role(arm))}
    return own | _in_turn("other", [arm for arm in order if arm not in own])


def mask_roles(masks: Iterable[str]) -> dict[str, str]:
    """The colour's role of each mask algorithm of a study, one over a whole page."""
    return _in_turn("mask", sorted(set(masks)))


def _in_turn(name: str, members: Sequence[str]) -> dict[str, str]:
    roles = family(name)
    return {member: roles[i % len(roles)] for i, member in enumerate(members)}


def _own_role(arm: str) -> str:
    name, settings, _ = _by_settings(arm)
    if name == "mixed" and settings:
        return f"mixed-{1 + sum(settings[0] > step for step in MIXED_STEPS)}"
    return arm if arm in ARMS else ""


def _by_settings(arm: str) -> tuple[str, tuple[float, ...], str]:
    """The label's name, the numbers among its settings, and the label."""
    name, _, settings = arm.partition("(")
    return name, tuple(map(float, re.findall(NUMBER, settings))), arm


def _is_dense(row: Correlation) -> bool:
    return "theta_" in row.pair


def _rate_is(rate: float) -> Callable[[Correlation], bool]:
    return lambda row: row.learning_rate == rate


def _pair_is(pair: str) -> Callable[[Correlation], bool]:
    return lambda row: row.pair == pair


def short(share: float) -> str:
    """A share without its leading zero."""
    return f"{share:g}".lstrip("0")
