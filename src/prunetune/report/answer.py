"""The answers of a study and the one sentence that they come to: what to train the sparse network from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prunetune.analysis.equivalence import BestStarts, Standing, equivalence
from prunetune.analysis.pairing import guessing, percent
from prunetune.analysis.pretraining import usual_overlap
from prunetune.analysis.recommend import Recommendation, recommend
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict, judge
from prunetune.errors import counted
from prunetune.report.figures.accuracy import arm_order
from prunetune.report.table_format import NONE, Column, Table, number, numeric, signed
from prunetune.report.text import STARTS, dense_converged
from prunetune.rows import Results

SHOWN = {"holds": "yes", "fails": "no", "inconclusive": "undecided", "not asked": "not asked"}  # of a verdict


@dataclass(frozen=True)
class Answers:
    """What a study's results come to, by the rule that stands in the study."""

    rule: Rule
    verdicts: tuple[Verdict, ...]
    recommendation: tuple[Recommendation, ...]
    standings: tuple[Standing, ...]
    choices: tuple[BestStarts, ...]  # the learning rate and mask algorithm with the best scores first


def answers(results: Results) -> Answers:
    """Judge the results: verdicts, the best arm at each sparsity, and what is as good as the best over all of them."""
    rule = Rule.of(results.study)
    known: Any = {"missing": results.missing, **guessing(results.environment, rule.metric)}
    verdicts = judge(results.trials, rule, correlations=results.correlations, **known)
    recommendation = recommend(results.trials, rule, controls=results.controls, **known)
    standings, choices = equivalence(results.trials, rule, controls=results.controls, budget=results.budget, **known)
    return Answers(rule, verdicts, recommendation, standings, choices)


def headline(found: Answers) -> str:
    """The answer in a sentence, at the learning rate and with the masks that have the best scores."""
    if not found.choices:
        return "No answer: no sparse training has a result in every seed that is better than guessing."
    choice, margin = found.choices[0], found.rule.metric.amount(found.rule.margin)
    where = f"At learning rate {choice.learning_rate:g}{_by(choice, found.choices)}"
    if len(choice.as_good) > 1:
        return f"{where}, {listed(choice.as_good)} are equivalent within {margin}: train from {choice.start}."
    if choice.start:
        return f"{where}, train from {choice.start}: nothing else is shown to be within {margin} of the best."
    if len(choice.p_holm) < 2:
        if not choice.p_holm:
            return f"{where}, no start has a result better than guessing at every sparsity."
        return f"{where}, {listed(choice.p_holm)} is the only one that can be judged."
    if len(choice.not_told_apart) > 1:
        these = listed(choice.not_told_apart)
        seeds = counted(choice.seeds, "seed")
        return f"{where}, {seeds} do not tell {these} apart."
    best = "; ".join(f"{arm} at {_at(choice, arm)}" for arm in arm_order(set(choice.best.values())))
    return f"{where}, it is undecided what is within {margin} of the best start. Best means: {best}."


def first_lines(found: Answers, results: Results) -> list[tuple[str, str]]:
    """What stands under the headline on the first screen: a term and a short sentence each."""
    mask = found.choices[0].mask if found.choices else None
    lines = [
        ("Start", _start_text(found)),
        ("Winning ticket", winning_text(found.verdicts, mask)),
        ("Weights", weights_text(found.verdicts)),
        ("Cost", _cost_text(results)),
    ]
    return [(term, text) for term, text in lines if text]


def _start_text(found: Answers) -> str:
    """What the start is, and by how much it and its equals lead reinit."""
    if not found.choices:
        return ""
    choice, metric = found.choices[0], found.rule.metric
    start = choice.start
    if start is None:
        more = f"--seeds {choice.seeds_needed} would probably decide it." if choice.seeds_needed else ""
        return f"Undecided. {more}".strip()
    what = f"{start}: {STARTS[start]}" if start in STARTS else start
    if choice.leads is None:
        return f"{what}."
    low, high = (f"{lead:.{metric.digits}f}" for lead in choice.leads)
    they = "It beats" if len(choice.as_good) == 1 else "These beat"
    return f"{what}. {they} reinit, by {low} to {high} {metric.difference_unit}".rstrip() + "."


def winning_text(verdicts: Sequence[Verdict], mask: str | None = None) -> str:
    """The winning property by learning rate, with one kind of masks or all; what is no yardstick is said last."""
    here = [verdict for verdict in verdicts if mask in (None, verdict.mask)]
    said: dict[str, list[str]] = {}
    for verdict in sorted(here, key=lambda one: (one.pretraining == "insufficient", one.learning_rate)):
        said.setdefault(_winning(verdict), []).append(f"{verdict.learning_rate:g}")
    text = "; ".join(words.format(listed(dict.fromkeys(rates))) for words, rates in said.items())
    return f"{_capital(text)}." if text else ""


def _winning(verdict: Verdict) -> str:
    """The answer, with a place for its learning rates."""
    if verdict.pretraining == "insufficient":
        return "at {} the dense network is insufficient"
    winners = [percent(test.sparsity) for test in verdict.tests if test.answer == "yes"]
    where = f" ({listed(winners)} sparsity)" if winners and verdict.winning_property == "holds" else ""
    return f"{SHOWN[verdict.shown]} at {{}}{where}{_warning(verdict) if verdict.exceeds_dense else ''}"


def _warning(verdict: Verdict) -> str:
    """That the ticket is better than the dense network by surely more than the margin."""
    exceeds = verdict.tests[0].dense.metric.exceeds
    if dense_converged(verdict):
        return f", where the ticket {exceeds} the dense network, though that is converged"
    return f", where the ticket {exceeds} a dense network that is not converged"


def weights_text(verdicts: Sequence[Verdict]) -> str:
    """R_p of the dense runs above chance, by learning rate; empty where it was not measured."""
    dense = {verdict.learning_rate: verdict.dense for verdict in verdicts if verdict.dense}
    found = {rate: overlap for rate, one in sorted(dense.items()) if (overlap := usual_overlap(one.overlaps))}
    if not found:
        return ""
    p = next(iter(found.values())).p
    parts = [f"{signed(overlap.value - overlap.expected, 3)} at {rate:g}" for rate, overlap in found.items()]
    return f"R_{p:g}(θ_0, θ_T) less chance: {', '.join(parts)}."


def _cost_text(results: Results) -> str:
    trainings = {trial.key: trial for trial in results.trials}.values()
    epochs = sum(trial.epochs for trial in trainings)
    minutes = sum(trial.seconds for trial in trainings) / 60
    if not trainings:
        return ""
    return f"{counted(len(trainings), 'training')}, {counted(epochs, 'epoch')}, {minutes:.1f} minutes."


def standings_table(rows: Sequence[Standing], rule: Rule) -> Table:
    """At each rate, mask algorithm and sparsity: the best arm, and how the others stand to it."""
    margin = rule.metric.amount(rule.margin)
    columns = (
        numeric("Rate"),
        Column("Masks"),
        numeric("Sparsity"),
        Column("Best mean"),
        numeric(rule.metric.column),
        Column("Not told from it"),
        Column(f"Within {margin}"),
        Column(f"Over {margin} behind"),
    )
    caption = (
        f"The best mean is a candidate's; * marks controls, which are none. Not told from it: the two-sided "
        f"{percent(1 - rule.alpha)} interval of the paired difference holds 0. Within {margin}: surely less than that "
        f"worse than every candidate, the best among them, at α {rule.alpha:g} for each arm and sparsity. Over "
        f"{margin} behind: surely more than that worse than the best."
    )
    places: dict[tuple[float, str, float], list[Standing]] = {}
    for row in rows:
        places.setdefault((row.learning_rate, row.mask, row.sparsity), []).append(row)
    return Table(caption, columns, tuple(_standing_cells(here, rule) for here in places.values()))


def _standing_cells(here: Sequence[Standing], rule: Rule) -> tuple[str, ...]:
    by_arm = {row.arm: row for row in here}
    ordered = [by_arm[arm] for arm in arm_order(by_arm)]
    best = by_arm[here[0].best]
    return (
        f"{best.learning_rate:g}",
        best.mask,
        percent(best.sparsity),
        best.arm,
        number(best.score, rule.metric.digits),
        _names(row for row in ordered if row.tie and row is not best),
        _names(row for row in ordered if row.as_good == "yes"),
        _names(row for row in ordered if row.as_good == "no"),
    )


def _names(rows: Iterable[Standing]) -> str:
    return ", ".join(f"{row.arm}{'*' * row.control}" for row in rows) or NONE


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = [*words] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def _by(choice: BestStarts, choices: Sequence[BestStarts]) -> str:
    """The masks, where there are several kinds."""
    return f" with {choice.mask} masks" if len({one.mask for one in choices}) > 1 else ""


def _at(choice: BestStarts, arm: str) -> str:
    return listed(percent(at) for at, best in choice.best.items() if best == arm)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
