"""Several studies as one comparison: read their results, judge the explanation, and its JSON, CSV and words.

Without a judgement: the paired differences of any two cells, and the mean of every cell, as a terminal shows them.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
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
from prunetune.analysis.regimes import LEADS, Answers, Regime, Study, regimes_of
from prunetune.analysis.relations import RESAMPLES
from prunetune.analysis.statistics import USUAL_RULE, Rule
from prunetune.analysis.thesis import Thesis, judge_thesis
from prunetune.errors import ConfigError
from prunetune.report.results_files import RESULTS, json_text, read_results, shown_again
from prunetune.report.table_format import bounds, p_value, signed
from prunetune.report.write_report import answers

COMPARISON, REGIMES = "comparison.json", "regimes.csv"
BASELINES = ("reinit", "ticket")
SCHEMA_VERSION = 1
ANSWERS = {
    "holds": "the paper's explanation holds",
    "fails": "the paper's explanation fails",
    "not decided": "the paper's explanation is not decided here",
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
    studies: Sequence[Study], mask: str | None = None, sparsity: float | None = None, resamples: int = RESAMPLES
) -> Found:
    """Judge the explanation over all regimes; ConfigError where there is none, or none of the mask and sparsity."""
    rule, said = _common_rule(studies)
    regimes, notes = regimes_of(studies, rule)
    if not regimes:
        raise ConfigError(f"RUN: no regime to compare: {'; '.join(notes)}")
    _require(regimes, mask, sparsity)
    thesis = judge_thesis(regimes, rule, mask, sparsity, resamples)
    return Found(
        studies=tuple(studies),
        rule=rule,
        regimes=regimes,
        thesis=thesis,
        scores=arm_scores(regimes, rule.alpha, resamples),
        improvements=improvements(regimes, BASELINES, rule.alpha, resamples),
        notes=(*said, *notes),
    )


def comparison_json(found: Found) -> str:
    """The content of `comparison.json`."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "studies": [{"name": study.name, "task": study.task} for study in found.studies],
        "rule": found.rule,
        "thesis": found.thesis,
        "scores": found.scores,
        "improvements": found.improvements,
        "regimes": [_regime_row(row) for row in found.regimes],
        "notes": found.notes,
    }
    return json_text(content) + "\n"


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
    lines = [f"{len(found.regimes)} regimes of {runs} dense runs in {len(found.studies)} studies."]
    if main is not None and main.rho is not None:
        lines.append(f"{relation_text(found)}")
    lines.append(f"Verdict: {ANSWERS[thesis.explanation]}.")
    lines += [f"  {reason}." for reason in thesis.reasons]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def relation_text(found: Found) -> str:
    """Spearman's ρ of the verdict, its interval and what it is of, in a sentence."""
    thesis, main = found.thesis, found.thesis.main
    if main is None or main.rho is None:
        return "Too few dense runs for a rank correlation of R_p and the ticket's lead."
    level = 100 * (1 - found.rule.alpha)
    at = f"{thesis.mask} masks at {100 * (thesis.sparsity or 0):.4g} % sparsity"
    return (
        f"Spearman's ρ of R_p's excess and ticket − reinit, {at}: {signed(main.rho)} "
        f"({level:g} % interval {bounds(main.low, main.high)}; {main.runs} dense runs; "
        f"permutation p {p_value(main.p_rise)})."
    )


def _study(path: Path, name: str) -> Study:
    results = read_results(path)
    return shown_again(path, lambda: _judged(results, name))


def _judged(results: Any, name: str) -> Study:
    rule, verdicts, _ = answers(results)
    held: Answers = {(v.learning_rate, v.mask, test.sparsity): test.answer for v in verdicts for test in v.tests}
    chance = Chance.of(**guessing(results.environment))
    evidence = Evidence(results.trials, results.missing, chance, bool(rule.looks))
    return Study(name, results, rule, evidence, held)


def _names(paths: Sequence[Path]) -> list[str]:
    """The folder of each (a file of another name: that beside it), with as many folders above as tell them apart."""
    own = [list(path.parent.parts) if path.name == RESULTS else [*path.parent.parts, path.stem] for path in paths]
    depth = 1
    while len({tuple(parts[-depth:]) for parts in own}) < len(own):
        depth += 1
    return ["/".join(parts[-depth:]) for parts in own]


def _common_rule(studies: Sequence[Study]) -> tuple[Rule, list[str]]:
    rules = {(s.rule.margin, s.rule.gap, s.rule.alpha, s.rule.nontrivial_sparsity) for s in studies}
    if len(rules) == 1:
        return Rule(*rules.pop()), []
    return USUAL_RULE, ["the studies' verdict settings differ; the defaults are used"]


def _require(regimes: Sequence[Regime], mask: str | None, sparsity: float | None) -> None:
    masks = sorted({row.mask for row in regimes})
    if mask is not None and mask not in masks:
        raise ConfigError(f"--mask: '{mask}' is not there; there are: {', '.join(masks)}")
    if sparsity is not None and not any(abs(row.sparsity - sparsity) <= 0.005 for row in regimes):
        known = sorted({f"{row.sparsity:.4g}" for row in regimes})
        raise ConfigError(f"--sparsity: {sparsity:g} is not there; there are: {', '.join(known)}")


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
    }


def _mean(values: Any) -> float | None:
    return sum(values.values()) / len(values) if values else None


def cells_text(studies: Sequence[Study], two: tuple[str, str] | None, common: bool, held_out: bool) -> str:
    """The table that is asked for; ConfigError for requests that do not go together."""
    if two and common:
        raise ConfigError("--pair: does not go with --between; give one of them")
    if two:
        return differences_text(pair(studies, *two, held_out))
    if not common:
        return means_text(means(studies, held_out))
    if len(studies) != 2:
        raise ConfigError(f"--between: compares two studies, not {len(studies)}")
    return differences_text(between(studies[0], studies[1], held_out))


def differences_text(rows: Sequence[CellDifference]) -> str:
    """A line for every rate and sparsity: points of accuracy, 95 % intervals."""
    lines = [f"{rows[0].first} − {rows[0].second}", "rate   sparsity"]
    for row in rows:
        low, high = (signed(bound) for bound in (row.low, row.high))
        of = f"{row.of:<28} " if row.of else ""
        lines.append(f"{row.learning_rate:<6g} {row.sparsity:<8g} {of}{signed(row.mean)} [{low}, {high}]  n = {row.n}")
    return "\n".join(lines)


def means_text(rows: Sequence[CellMean]) -> str:
    """A line for every cell: mean, lowest and highest."""
    several = len({row.study for row in rows}) > 1
    lines = [
        f"{row.learning_rate:<6g} {row.sparsity:<8g} {f'{row.study}: {row.cell}' if several else row.cell:<28} "
        f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f}, n = {row.n})"
        for row in rows
    ]
    return "\n".join(["rate   sparsity", *lines])
