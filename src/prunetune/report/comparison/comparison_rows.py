"""Several studies as one comparison: read their results, judge the explanation, and its JSON, CSV and words.

Without a judgement: the paired differences of any two cells, and the mean of every cell, as a terminal shows them.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from prunetune.analysis.across_studies import (
    ArmScore,
    CellDifference,
    CellMean,
    Improvement,
    arm_scores,
    between,
    improvements,
    means,
    pair,
)
from prunetune.analysis.pairing import Chance, Evidence, guessing
from prunetune.analysis.predictors import Prediction, measured, predictions
from prunetune.analysis.regimes import LEAD, LEADS, QUANTITIES, Answers, Regime, Study, pick, regimes_of
from prunetune.analysis.relations import PREDICTORS, RESAMPLES, has
from prunetune.analysis.statistics import USUAL_RULE, Rule
from prunetune.analysis.thesis import Thesis, judge_thesis
from prunetune.core.metric import ACCURACY, LOWER, Metric
from prunetune.errors import ConfigError, counted, unknown
from prunetune.report.answer import answers
from prunetune.report.results_files import RESULTS, json_text, read_results, shown_again
from prunetune.report.table_format import bounds, number, p_value, signed

COMPARISON, REGIMES = "comparison.json", "regimes.csv"
BASELINES = ("reinit", "ticket")
SCHEMA_VERSION = 1
ANSWERS = {
    "holds": "the paper's explanation holds",
    "fails": "the paper's explanation fails",
    "not decided": "whether the paper's explanation holds is undecided here",
}


@dataclass(frozen=True)
class Found:
    """What several studies come to, read together."""

    studies: tuple[Study, ...]
    rule: Rule
    regimes: tuple[Regime, ...]
    thesis: Thesis
    scores: tuple[ArmScore, ...]
    improvements: tuple[Improvement, ...]
    notes: tuple[str, ...]
    predictions: tuple[Prediction, ...] = ()  # where a quantity besides R_p and κ is measured, or an axis asked for
    x: str | None = None  # of PREDICTORS: the axis of a figure besides R_p's and κ's

    @property
    def fixed(self) -> list[Regime]:
        """The regimes of the mask and sparsity that are fixed in advance, one for every dense run."""
        thesis = self.thesis
        return [] if thesis.mask is None else pick(self.regimes, thesis.mask, thesis.sparsity or 0.0)

    @property
    def fixed_text(self) -> str:
        """Which they are, in words."""
        return f"{self.thesis.mask} masks at {100 * (self.thesis.sparsity or 0):.4g} % sparsity"


def read_studies(runs: Sequence[Path]) -> tuple[Study, ...]:
    """The studies of result files, of folders that hold one, or of groups' folders; ConfigError for anything else."""
    if not runs:
        raise ConfigError("RUN: is missing; give at least one results.json or a folder that `prunetune audit` wrote")
    paths = list(dict.fromkeys(path.resolve() for run in runs for path in _result_files(run)))
    return tuple(_study(path, name) for path, name in zip(paths, _names(paths), strict=True))


def _result_files(run: Path) -> list[Path]:
    """The file of a study's folder, or those of all studies in a group's; a file is itself."""
    if not run.is_dir():
        return [run]
    own = run / RESULTS
    return [own] if own.exists() else sorted(run.glob(f"*/{RESULTS}")) or [own]


def compare_studies(
    studies: Sequence[Study],
    mask: str | None = None,
    sparsity: float | None = None,
    resamples: int = RESAMPLES,
    x: str | None = None,
) -> Found:
    """Judge the explanation over all regimes, and which of PREDICTORS goes with ticket − reinit.

    ConfigError where there is no regime, none of the mask and sparsity, or none of these that has `x`.
    """
    if x is not None and x not in PREDICTORS:
        raise unknown("--x", x, PREDICTORS)
    rule, said = _common_rule(studies)
    regimes, notes = regimes_of(studies, rule)
    if not regimes:
        raise ConfigError(f"RUN: no regime to compare: {'; '.join(notes)}")
    _require(regimes, mask, sparsity)
    thesis = judge_thesis(regimes, rule, mask, sparsity, resamples)
    found = Found(
        studies=tuple(studies),
        rule=rule,
        regimes=regimes,
        thesis=thesis,
        scores=arm_scores(regimes, rule.alpha, resamples),
        improvements=improvements(regimes, BASELINES, rule.alpha, resamples),
        notes=(*said, *notes),
        x=x,
    )
    if x is None and not measured(found.fixed):
        return found
    lacking = () if x is None else _lacking(found, x)
    return replace(found, predictions=predictions(found.fixed, rule, resamples), notes=(*found.notes, *lacking))


def comparison_json(found: Found) -> str:
    """The content of `comparison.json`."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "studies": [{"name": study.name, "task": study.task} for study in found.studies],
        **found.rule.metric.described(),
        "rule": _rule_row(found.rule),
        "thesis": found.thesis,
        "scores": found.scores,
        "improvements": found.improvements,
        "regimes": [_regime_row(row) for row in found.regimes],
        "notes": found.notes,
        **({"predictors": found.predictions} if found.predictions else {}),
        **({"x": found.x} if found.x else {}),
    }
    return json_text(content) + "\n"


def _rule_row(rule: Rule) -> dict[str, Any]:
    return {field.name: getattr(rule, field.name) for field in fields(rule) if field.name != "metric"}


def regimes_csv(found: Found) -> str:
    """One line for every regime: what it is, and the mean of every lead over seeds."""
    names = ["study", "task", "learning_rate", "mask", "sparsity", "epochs", "kappa", "p", "excess", "dense"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "shortfall", "dense_matches", "winning_property", "n", *LEADS])
    for row in found.regimes:
        fixed = [getattr(row, name) for name in names[:8]]
        dense = _mean(row.dense)
        leads = [row.mean(lead) for lead in LEADS]
        seeds = len(row.leads["ticket − reinit"].seeds)
        values = [*fixed, row.mean_excess, dense, row.shortfall, row.dense_matches, row.winning, seeds, *leads]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def comparison_text(found: Found) -> str:
    """What a terminal shows: the relation, the verdict, and why."""
    thesis, main = found.thesis, found.thesis.main
    runs = len({row.setting for row in found.regimes})
    studies = counted(len(found.studies), "study", "studies")
    lines = [f"{counted(len(found.regimes), 'regime')} of {counted(runs, 'dense run')} in {studies}."]
    if main is not None and main.rho is not None:
        lines.append(f"{relation_text(found)}")
    lines.append(f"Verdict: {ANSWERS[thesis.explanation]}.")
    lines += [f"  {reason}." for reason in thesis.reasons]
    if found.predictions:
        lines += ["", *_predictions_lines(found), ""]
    turned = [f"note: {line}" for line in [turned_text(found.rule.metric)] if line]
    return "\n".join([*lines, *turned, *(f"note: {note}" for note in found.notes)])


def turned_text(metric: Metric) -> str:
    """How a comparison's differences are to be read, where lower scores are better; else nothing."""
    if metric.higher_is_better:
        return ""
    return f"of {metric.name}, {LOWER}: differences are turned, so that a positive one is the first's lead"


def relation_text(found: Found) -> str:
    """Spearman's ρ of the verdict, its interval and what it is of, in a sentence."""
    main = found.thesis.main
    if main is None or main.rho is None:
        return "Too few dense runs for a rank correlation of R_p and the ticket's lead."
    level = 100 * (1 - found.rule.alpha)
    return (
        f"Spearman's ρ of R_p's excess and ticket − reinit, {found.fixed_text}: {signed(main.rho)} "
        f"({level:g} % interval {bounds(main.low, main.high)}; {counted(main.runs, 'dense run')}; "
        f"permutation p {p_value(main.p_rise)})."
    )


def predictions_text(found: Found) -> str:
    """Which predictors are shown to go with the ticket's lead, in a sentence."""
    shown = [f"{row.answer} with {row.predictor}" for row in found.predictions if row.answer != "not shown"]
    if shown:
        return f"Shown, for {found.fixed_text}: {LEAD} {', '.join(shown)}."
    return f"For {found.fixed_text}, no predictor is shown to go with {LEAD}."


def _predictions_lines(found: Found) -> list[str]:
    """The predictors as a table of a terminal, the chosen axis marked."""
    level = 100 * (1 - found.rule.alpha)
    head = f"Spearman's ρ with {LEAD}, {found.fixed_text}; {level:g} % intervals; p permuted, by Holm over these:"
    width = max(len(row.predictor) for row in found.predictions)
    rows = [
        f"{'*' if row.predictor == found.x else ' '} {row.predictor:<{width}}  {signed(row.rho):>5} "
        f"[{bounds(row.low, row.high)}]  {counted(row.runs, 'dense run')}  p {p_value(row.p_holm)}  {row.answer}"
        for row in found.predictions
    ]
    return [head, *rows, predictions_text(found)]


def _study(path: Path, name: str) -> Study:
    results = read_results(path)
    return shown_again(path, lambda: _judged(results, name))


def _judged(results: Any, name: str) -> Study:
    found = answers(results)
    rule, verdicts = found.rule, found.verdicts
    held: Answers = {(v.learning_rate, v.mask, test.sparsity): test.answer for v in verdicts for test in v.tests}
    chance = Chance.of(**guessing(results.environment, rule.metric), metric=rule.metric)
    evidence = Evidence(results.trials, results.missing, chance, bool(rule.looks), rule.metric)
    return Study(name, results, rule, evidence, held)


def _names(paths: Sequence[Path]) -> list[str]:
    """The folder of each (a file of another name: that beside it), with as many folders above as tell them apart."""
    own = [list(path.parent.parts) if path.name == RESULTS else [*path.parent.parts, path.stem] for path in paths]
    depth = 1
    while len({tuple(parts[-depth:]) for parts in own}) < len(own):
        depth += 1
    return ["/".join(parts[-depth:]) for parts in own]


def _common_rule(studies: Sequence[Study]) -> tuple[Rule, list[str]]:
    metric = _common_metric(studies)
    rules = {(s.rule.margin, s.rule.gap, s.rule.alpha, s.rule.nontrivial_sparsity) for s in studies}
    if len(rules) == 1:
        return replace(Rule(*rules.pop()), metric=metric), []
    usual = replace(USUAL_RULE, margin=metric.margin, gap=metric.gap, metric=metric)
    return usual, ["the studies' verdict settings differ; the defaults are used"]


def _common_metric(studies: Sequence[Study]) -> Metric:
    """What all of them are scored by; ConfigError where scores of several metrics would be set against each other."""
    by_kind = {tuple(study.rule.metric.described().values()): study for study in studies}
    first, *others = by_kind.values()
    if others:
        names = " and ".join(f"'{study.name}' by {study.rule.metric.axis}" for study in (first, others[0]))
        raise ConfigError(f"RUN: studies of different metrics: {names}; give studies of one metric")
    return first.rule.metric


def _require(regimes: Sequence[Regime], mask: str | None, sparsity: float | None) -> None:
    masks = sorted({row.mask for row in regimes})
    if mask is not None and mask not in masks:
        raise ConfigError(f"--mask: '{mask}' is not there; there are: {', '.join(masks)}")
    if sparsity is not None and not any(abs(row.sparsity - sparsity) <= 0.005 for row in regimes):
        known = sorted({f"{row.sparsity:.4g}" for row in regimes})
        raise ConfigError(f"--sparsity: {sparsity:g} is not there; there are: {', '.join(known)}")


def _lacking(found: Found, x: str) -> tuple[str, ...]:
    """A note on the studies that do not have the chosen axis; ConfigError where none has it where it is read."""
    without = list(dict.fromkeys(row.study for row in found.fixed if not has(row, x)))
    way = f"`measure: [{x.split('.')[0]}]` in the spec measures it" if x in QUANTITIES else "no weight decay is known"
    if any(has(row, x) for row in found.fixed):
        return (f"{x} is not known of {', '.join(without)}: {way}",) if without else ()
    if any(has(row, x) for row in found.regimes):
        raise ConfigError(f"--x: no regime of {found.fixed_text} has {x}; give another --mask or --sparsity")
    again = "; then `prunetune audit` it again, which trains nothing that is stored" if x in QUANTITIES else ""
    raise ConfigError(f"--x: {x} is not known of any of these studies: {way}{again}")


def _regime_row(row: Regime) -> dict[str, Any]:
    leads = {
        name: {"seeds": pairs.seeds, "differences": pairs.differences, "mean": row.mean(name), "notes": pairs.notes}
        for name, pairs in row.leads.items()
    }
    names = ("study", "task", "learning_rate", "mask", "sparsity", "epochs", "kappa", "p", "excess", "dense")
    return {name: getattr(row, name) for name in names} | {
        "shortfall": row.shortfall,
        "dense_matches": row.dense_matches,
        "winning_property": row.winning,
        "arms": row.arms,
        "leads": leads,
        **({"quantities": row.quantities} if row.quantities else {}),
    }


def _mean(values: Any) -> float | None:
    return sum(values.values()) / len(values) if values else None


def cells_text(studies: Sequence[Study], two: tuple[str, str] | None, common: bool, held_out: bool) -> str:
    """The table that is asked for; ConfigError for requests that do not go together."""
    metric = _common_metric(studies)
    if two and common:
        raise ConfigError("--pair: does not go with --between; give one of them")
    if two:
        return differences_text(pair(studies, *two, held_out), metric)
    if not common:
        return means_text(means(studies, held_out), metric)
    if len(studies) != 2:
        raise ConfigError(f"--between: compares two studies, not {len(studies)}")
    return differences_text(between(studies[0], studies[1], held_out), metric)


def differences_text(rows: Sequence[CellDifference], metric: Metric = ACCURACY) -> str:
    """A line for every rate and sparsity: differences of the scores as they are, 95 % intervals."""
    of_metric = "" if metric.is_accuracy else f", {metric.axis}"
    lines = [f"{rows[0].first} − {rows[0].second}{of_metric}", "rate   sparsity"]
    for row in rows:
        mean, low, high = (signed(value, metric.digits) for value in (row.mean, row.low, row.high))
        of = f"{row.of:<28} " if row.of else ""
        lines.append(f"{row.learning_rate:<6g} {row.sparsity:<8g} {of}{mean} [{low}, {high}]  n = {row.n}")
    return "\n".join(lines)


def means_text(rows: Sequence[CellMean], metric: Metric = ACCURACY) -> str:
    """A line for every cell: mean, lowest and highest."""
    several = len({row.study for row in rows}) > 1
    lines = [
        f"{row.learning_rate:<6g} {row.sparsity:<8g} {f'{row.study}: {row.cell}' if several else row.cell:<28} "
        f"{number(row.mean, metric.digits)} ({number(row.low, metric.digits)} to {number(row.high, metric.digits)}, "
        f"n = {row.n})"
        for row in rows
    ]
    of_metric = "" if metric.is_accuracy else f"  {metric.axis}"
    return "\n".join([f"rate   sparsity{of_metric}", *lines])
