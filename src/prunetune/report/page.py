"""The page of a report: one HTML file that opens offline, loads nothing, and needs no script; and its short form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunetune.analysis.pairing import Chance, Evidence, guessing, percent, seed_range
from prunetune.analysis.paper.check_claims import PaperRow, scale_of
from prunetune.analysis.paper.scale import off_paper, retention_text
from prunetune.analysis.pretraining import explanation
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule, plan_looks
from prunetune.analysis.verdict import Verdict
from prunetune.core.metric import METRIC_KEYS
from prunetune.errors import counted
from prunetune.report import tables, verdict_tables
from prunetune.report.figures.accuracy import Drawing, Group
from prunetune.report.figures.connectivity import connectivity_table
from prunetune.report.figures.layers import agreement_table
from prunetune.report.figures.style import css_variables, inline
from prunetune.report.figures.training import trajectory_table
from prunetune.report.quantity_tables import quantity_tables
from prunetune.report.tables import paper_table
from prunetune.report.text import (
    STARTS,
    choice_text,
    confidence,
    definition_text,
    dense_converged,
    examples,
    exceeds_text,
    family_text,
    lead,
    lead_text,
    looks_text,
    recommendation_text,
    whys,
)
from prunetune.rows import Results

_ANSWER_COLOURS = (  # of yes, no and open in the light and the dark theme
    "--yes: #0a5c43; --yes-back: #d6f0e4; --no: #97300f; --no-back: #fbe2d8; --open: #6a5000; --open-back: #f7eac3;",
    "--yes: #86e0bd; --yes-back: #123a2e; --no: #ffb195; --no-back: #4a2115; --open: #f0d27a; --open-back: #40340f;",
)


def render(template: str, sheet_name: str = "page.css", **values: Any) -> str:
    """The page that `template` makes of `values`; `style` is its style sheet in two themes, that of all pages."""
    environment = Environment(
        loader=PackageLoader("prunetune", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["percent"] = percent
    environment.filters["counted"] = counted
    themes = {"light": css_variables(0), "dark": css_variables(1)}
    answers = {"light_answers": _ANSWER_COLOURS[0], "dark_answers": _ANSWER_COLOURS[1]}
    sheet = environment.get_template(sheet_name).render(**themes, **answers)
    return environment.get_template(template).render(style=Markup(sheet), **values)


_SIGNS = {"holds": "✓", "fails": "✕", "inconclusive": "?"}
_SHORT = {"holds": "yes", "fails": "no", "inconclusive": "not decided", "not asked": "not asked"}


@dataclass(frozen=True)
class Card:
    """A learning rate as it stands at the top of the page: its verdicts, one for each mask algorithm."""

    rate: str
    verdicts: tuple[Verdict, ...]

    @property
    def pretraining(self) -> tuple[str, ...]:
        """Why pre-training was sufficient or not: a line for each check."""
        dense = self.verdicts[0].dense
        return dense.lines if dense else ()


def page_text(
    results: Results,
    verdicts: Sequence[Verdict],
    recommendation: Sequence[Recommendation],
    rule: Rule,
    drawn: Sequence[tuple[Drawing, str]],
    paper: Sequence[PaperRow] = (),
) -> str:
    """The whole page. `drawn` are the drawings with their standalone SVG text, `paper` what the paper says beside."""
    quantities = quantity_tables(results.quantities, [layer.name for layer in results.layers], rule.metric)
    return render(
        "page.html",
        **_answer(verdicts, recommendation, rule),
        results=results,
        family=emphasised(family_text(verdicts, rule)),
        facts=_facts(results, rule),
        lead_over_reinit=lead_text(rule),
        chance=Chance.of(**guessing(results.environment, rule.metric), metric=rule.metric),
        confidence=confidence(rule),
        looks=plan_looks(rule.alpha, rule.looks) if rule.looks else (),
        definition=definition_text(rule),
        meanings=_meanings(verdicts),
        retentions=[(f"{row.learning_rate:g}", retention_text(row), off_paper(row)) for row in results.recipes],
        tables=_tables(results, verdicts, recommendation, rule) | {"paper": paper_table(paper, rule)} | quantities,
        quantities=tuple(quantities),
        scale=scale_of(results),
        figures=inlined(drawn),
        spec=spec_text(results.study),
        command=results.environment.get("command"),
    )


def notebook_html(
    results: Results,
    verdicts: Sequence[Verdict],
    recommendation: Sequence[Recommendation],
    rule: Rule,
    drawn: Sequence[tuple[Drawing, str]],
    page: Path,
) -> str:
    """The verdicts, the recommendation and the `drawn` figures as one element for a notebook, in either theme.

    It loads nothing, and its style holds for itself alone. It names the `page` that shows the rest.
    """
    return render(
        "notebook.html",
        "notebook.css",
        **_answer(verdicts, recommendation, rule),
        name=results.study.get("name", "a study"),
        figures=inlined(drawn),
        page=str(page),
    )


def _answer(verdicts: Sequence[Verdict], recommendation: Sequence[Recommendation], rule: Rule) -> dict[str, Any]:
    """What a template needs to show the headline, the verdict cards and the recommendation."""
    return {
        "rule": rule,
        "headline": headline(verdicts),
        "cards": _cards(verdicts),
        "signs": _SIGNS,
        "lead": lead,
        "whys": whys,
        "looks_text": looks_text,
        "exceeds_text": exceeds_text,
        "best": _best(recommendation),
        "recommended": recommendation_text(recommendation, rule).splitlines(),
        "choice": choice_text(recommendation),
        "metric": rule.metric,
        "examples": examples(rule.metric),
        "scores": "accuracy" if rule.metric.is_accuracy else "scores",
    }


def headline(verdicts: Sequence[Verdict]) -> str:
    """The answer in a few words, rate by rate, and where the dense network is no yardstick."""
    found: dict[tuple[str, str], list[str]] = {}
    for rate in sorted({verdict.learning_rate for verdict in verdicts}):
        here = [verdict for verdict in verdicts if verdict.learning_rate == rate]
        answers = {verdict.shown for verdict in here}
        word = _SHORT[answers.pop()] if len(answers) == 1 else "depends on the masks"
        above = [verdict for verdict in here if verdict.exceeds_dense]
        warning = _warning(above[0]) if above else ""
        found.setdefault((word, warning), []).append(f"{rate:g}")
    if not found:
        return "No verdict: there is no sparse training to judge"
    parts = (
        f"{word} at learning rate\N{NO-BREAK SPACE}{' and '.join(rates)}{warning}"
        for (word, warning), rates in found.items()
    )
    return f"A winning ticket? {'; '.join(parts).capitalize()}."


def _warning(verdict: Verdict) -> str:
    """That the ticket is better than the dense network by surely more than the margin."""
    exceeds = verdict.tests[0].dense.metric.exceeds
    if dense_converged(verdict):
        return f", where the ticket {exceeds} the dense network, though that is converged"
    return f", where the ticket {exceeds} a dense network that is not converged"


def spec_text(study: Mapping[str, Any]) -> str:
    """The resolved spec as YAML that runs again: without what the study says of its metric."""
    spec = {name: value for name, value in study.items() if name not in METRIC_KEYS}
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, default_flow_style=None, width=96)


def emphasised(text: str) -> Markup:
    """The text with what stands between two asterisks in bold, everything else escaped."""
    parts = text.split("*")
    return Markup("").join(Markup("<b>{}</b>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _cards(verdicts: Sequence[Verdict]) -> list[Card]:
    rates = sorted({verdict.learning_rate for verdict in verdicts})
    return [Card(f"{rate:g}", tuple(v for v in verdicts if v.learning_rate == rate)) for rate in rates]


def _best(recommendation: Sequence[Recommendation]) -> list[tuple[str, str, str]]:
    """The recommendation in brief, as start weights, what with, and where; equal ones together."""
    where: dict[tuple[str, str], list[Recommendation]] = {}
    for row in recommendation:
        start = f"{STARTS[row.arm]} ({row.arm})" if row.arm in STARTS else row.arm
        where.setdefault((start, f"{row.mask} masks, learning rate {row.learning_rate:g}"), []).append(row)
    return [(*found, _where(rows)) for found, rows in where.items()]


def _where(rows: Sequence[Recommendation]) -> str:
    """`best at 50 %; at 75 % and 87.5 % a tie with the runner-up`."""
    said = {
        "best at {} sparsity": [row for row in rows if not row.tie],
        "at {} a tie with the runner-up": [row for row in rows if row.tie and not row.behind],
        "at {} behind the runner-up on the test data": [row for row in rows if row.behind],
    }
    return "; ".join(
        words.format(_listed([percent(row.sparsity) for row in found])) for words, found in said.items() if found
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _facts(results: Results, rule: Rule) -> list[str]:
    """Model, data and size of the study, as far as it says them."""
    study: dict[str, Any] = results.study
    recipe = study.get("recipe") or {}
    facts = [f"{study[name]}" for name in ("model", "data") if name in study]
    facts += [counted(recipe["epochs"], "epoch")] if "epochs" in recipe else []
    return [*facts, _seeds(results, rule), f"{counted(len(results.trials), 'training')} in the table"]


def _seeds(results: Results, rule: Rule) -> str:
    if not rule.looks:
        return counted(len({trial.seed for trial in results.trials}), "seed")
    return f"{seed_range(results.trials)} seeds"


def _meanings(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """What R_p of the dense runs says, for every learning rate."""
    by_rate = {verdict.learning_rate: verdict.dense for verdict in verdicts if verdict.dense}
    found = ((f"{rate:g}", explanation(dense)) for rate, dense in sorted(by_rate.items()))
    return [(rate, words) for rate, words in found if words]


def inlined(drawn: Sequence[tuple[Drawing, str]]) -> dict[Group, list[tuple[str, Markup]]]:
    """Drawings as elements of a page, by the section that they belong to, each with its name."""
    found: dict[Group, list[tuple[str, Markup]]] = {}
    for drawing, svg in drawn:
        found.setdefault(drawing.group, []).append((drawing.name, Markup(inline(svg))))
    return found


def _tables(
    results: Results, verdicts: Sequence[Verdict], recommendation: Sequence[Recommendation], rule: Rule
) -> dict[str, tables.Table]:
    evidence = Evidence(results.trials, results.missing, ragged=bool(rule.looks), metric=rule.metric)
    facts = {name: value for name, value in results.environment.items() if name != "command"}
    return {
        "recommendation": verdict_tables.recommendation_table(recommendation, rule),
        "comparisons": verdict_tables.comparison_table(verdicts, rule),
        "dense": verdict_tables.dense_table(verdicts, evidence, rule),
        "pretraining": verdict_tables.pretraining_table(verdicts, rule),
        "means": tables.means_table(evidence, results.trials),
        "trials": tables.trials_table(results.trials, rule.metric),
        "correlations": tables.correlation_table(results.correlations),
        "connectivity": connectivity_table(results.connectivity, rule.metric),
        "along": trajectory_table(results.along_training),
        "agreement": agreement_table(results.mask_overlap),
        "budget": tables.budget_table(results.budget),
        "invariants": tables.invariants_table(results.invariants),
        "layers": tables.layers_table(results.layers),
        "missing": tables.missing_table(results.trials, results.missing),
        "environment": tables.facts_table(facts, "The machine and the versions that the results were made with."),
    }
