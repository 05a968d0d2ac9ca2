"""The page of a report: one HTML file that opens offline, loads nothing, and needs no script; and its short form."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from prunetune.analysis.pairing import Chance, Evidence, guessing, percent, seed_range, seeds_named
from prunetune.analysis.paper.check_claims import PaperRow, scale_of
from prunetune.analysis.paper.scale import off_paper, retention_text
from prunetune.analysis.pretraining import explanation
from prunetune.analysis.statistics import Rule, plan_looks
from prunetune.analysis.verdict import Verdict
from prunetune.core.metric import METRIC_KEYS
from prunetune.errors import counted
from prunetune.report import tables, verdict_tables
from prunetune.report.answer import (
    SHOWN,
    Answers,
    first_lines,
    headline,
    standings_table,
    weights_text,
    winning_text,
)
from prunetune.report.figures.accuracy import Drawing, Group
from prunetune.report.figures.connectivity import connectivity_table
from prunetune.report.figures.layers import agreement_table
from prunetune.report.figures.style import css_variables, inline
from prunetune.report.figures.training import trajectory_table
from prunetune.report.quantity_tables import quantity_tables
from prunetune.report.table_format import Column, sort_value
from prunetune.report.tables import paper_table
from prunetune.report.text import (
    choice_text,
    confidence,
    definition_text,
    exceeds_text,
    family_text,
    lead,
    lead_text,
    looks_text,
    recommendation_text,
    sufficiency,
    whys,
)
from prunetune.rows import Results

_ANSWER_COLOURS = (  # of yes, no and open in the light and the dark theme
    "--yes: #0a5c43; --yes-back: #d6f0e4; --no: #97300f; --no-back: #fbe2d8; --open: #6a5000; --open-back: #f7eac3;",
    "--yes: #86e0bd; --yes-back: #123a2e; --no: #ffb195; --no-back: #4a2115; --open: #f0d27a; --open-back: #40340f;",
)


MOST_NAMED = 8  # means that count trainings which never learned
_SCRIPT = files("prunetune.report").joinpath("page.js").read_text(encoding="utf-8")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (  # the one script, named by its hash: whatever a name in a study brings along is not run
    f"default-src 'none'; script-src 'sha256-{_SCRIPT_HASH}'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


def render(template: str, sheet_name: str = "page.css", **values: Any) -> str:
    """The page that `template` makes of `values`; `style` is its style sheet in two themes, that of all pages.

    `script` is what a page may add where scripts run, and `policy` the one that allows this script and no other.
    """
    environment = Environment(
        loader=PackageLoader("prunetune", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["percent"] = percent
    environment.filters["counted"] = counted
    environment.filters["attributes"] = _attributes
    environment.filters["typeset"] = typeset
    themes = {"light": css_variables(0), "dark": css_variables(1)}
    answers = {"light_answers": _ANSWER_COLOURS[0], "dark_answers": _ANSWER_COLOURS[1]}
    sheet = environment.get_template(sheet_name).render(**themes, **answers)
    fixed = {"style": Markup(sheet), "script": Markup(_SCRIPT), "policy": Markup(_POLICY)}
    return environment.get_template(template).render(**fixed, **values)


def _attributes(cell: str, column: Column, stacked: bool) -> Markup:
    """What a cell is sorted by, and where rows may stack the title that it then needs."""
    value = sort_value(cell) if column.kind == "number" else None
    sorted_by = Markup(' data-value="{}"').format(value) if value else Markup()
    return sorted_by + Markup(' data-title="{}"').format(column.title) if stacked else sorted_by


_SIGNS = {"holds": "✓", "fails": "✕", "inconclusive": "?"}


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
    results: Results, found: Answers, drawn: Sequence[tuple[Drawing, str]], paper: Sequence[PaperRow] = ()
) -> str:
    """The whole page. `drawn` are the drawings with their standalone SVG text, `paper` what the paper says beside."""
    rule, verdicts = found.rule, found.verdicts
    quantities = quantity_tables(results.quantities, [layer.name for layer in results.layers], rule.metric)
    return render(
        "page.html",
        **_answer(found),
        results=results,
        first_lines=[(term, typeset(text)) for term, text in first_lines(found, results)],
        winning=winning_text(verdicts, found.choices[0].mask if found.choices else None),
        invariants=_invariants_text(results),
        weights=typeset(weights_text(verdicts)),
        family=emphasised(family_text(verdicts, rule)),
        facts=_facts(results, rule),
        lead_over_reinit=lead_text(rule),
        chance=Chance.of(**guessing(results.environment, rule.metric), metric=rule.metric),
        guessing=_guessing_text(_evidence(results, rule)),
        confidence=confidence(rule),
        looks=plan_looks(rule.alpha, rule.looks) if rule.looks else (),
        definition=definition_text(rule),
        meanings=_meanings(verdicts),
        retentions=[(f"{row.learning_rate:g}", retention_text(row), off_paper(row)) for row in results.recipes],
        tables=_tables(results, found) | {"paper": paper_table(paper, rule, scale_of(results).differs)} | quantities,
        quantities=tuple(quantities),
        scale=scale_of(results),
        figures=inlined(drawn),
        sentences=sentences(drawn),
        spec=spec_text(results.study),
        command=results.environment.get("command"),
    )


def notebook_html(results: Results, found: Answers, drawn: Sequence[tuple[Drawing, str]], page: Path) -> str:
    """The headline, the verdicts, the recommendation and the `drawn` figures as one element for a notebook.

    It loads nothing, is in either theme, and its style holds for itself alone. It names the `page` that shows the rest.
    """
    return render(
        "notebook.html",
        "notebook.css",
        **_answer(found),
        name=results.study.get("name", "a study"),
        figures=inlined(drawn),
        page=str(page),
    )


def _answer(found: Answers) -> dict[str, Any]:
    """What a template needs to show the headline, the verdict cards and the recommendation."""
    rule = found.rule
    return {
        "rule": rule,
        "headline": headline(found),
        "cards": _cards(found.verdicts),
        "signs": _SIGNS,
        "shown": SHOWN,
        "lead": lead,
        "whys": whys,
        "looks_text": looks_text,
        "sufficiency": sufficiency,
        "exceeds_text": exceeds_text,
        "recommended": recommendation_text(found.recommendation, rule).splitlines(),
        "choice": choice_text(found.recommendation),
        "metric": rule.metric,
        "scores": "accuracy" if rule.metric.is_accuracy else "scores",
    }


def spec_text(study: Mapping[str, Any]) -> str:
    """The resolved spec as YAML that runs again: without what the study says of its metric."""
    spec = {name: value for name, value in study.items() if name not in METRIC_KEYS}
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, default_flow_style=None, width=96)


def typeset(text: str) -> Markup:
    """The text with its indices set lower, kappa as κ and no break before a percent sign, everything else escaped."""
    if text.isalnum():  # as most cells of a long table are
        return escape(text)
    parts = _SYMBOL.split(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text))
    return Markup("").join([Markup(_SYMBOLS.get(part.lower(), "")) or _indexed(part) for part in parts if part])


_SYMBOLS = {"e^-kappa": "e<sup>−κ</sup>", "kappa": "κ"}
_SYMBOL = re.compile(  # what a split keeps: a name with its index, or κ; not kappa in another name, such as a study's
    r"((?<!\w)(?:R_(?:p|\.?\d+(?:\.\d+)?)|θ_?[0Ttk]|(?:theta|ticket|reinit|rewind|finetune)_[0Ttk])(?![a-z])"
    r"|e\^-kappa|(?<![\w-])[Kk]appa(?= ))"
)


def _indexed(text: str) -> Markup:
    """`R_p`, `θ0` and the like with its index lower; other text as it is."""
    if not _SYMBOL.fullmatch(text):
        return escape(text)
    name, _, index = text.partition("_") if "_" in text else (text[0], "", text[1:])
    return Markup("{}<sub>{}</sub>").format("θ" if name == "theta" else name, index)


def emphasised(text: str) -> Markup:
    """The text with what stands between two asterisks in bold, everything else escaped."""
    parts = text.split("*")
    return Markup("").join(Markup("<b>{}</b>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _cards(verdicts: Sequence[Verdict]) -> list[Card]:
    rates = sorted({verdict.learning_rate for verdict in verdicts})
    return [Card(f"{rate:g}", tuple(v for v in verdicts if v.learning_rate == rate)) for rate in rates]


def _facts(results: Results, rule: Rule) -> list[str]:
    """Model, data and size of the study, as far as it says them."""
    study: dict[str, Any] = results.study
    recipe = study.get("recipe") or {}
    facts = [f"{study[name]}" for name in ("model", "data") if name in study]
    facts += [counted(recipe["epochs"], "epoch")] if "epochs" in recipe else []
    return [*facts, _seeds(results, rule)]


def _seeds(results: Results, rule: Rule) -> str:
    if not rule.looks:
        return counted(len({trial.seed for trial in results.trials}), "seed")
    return f"{seed_range(results.trials)} seeds"


def _invariants_text(results: Results) -> str:
    """How many rules were checked, how often, and how often they were broken."""
    checked = [rule for rule in results.invariants if rule.checked]
    times, breaches = sum(rule.checked for rule in checked), sum(len(rule.breaches) for rule in checked)
    return (
        f"{counted(len(checked), 'rule')} checked {counted(times, 'time')}; {counted(breaches, 'breach', 'breaches')}."
    )


def _meanings(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """What R_p of the dense runs says, for every learning rate."""
    by_rate = {verdict.learning_rate: verdict.dense for verdict in verdicts if verdict.dense}
    found = ((f"{rate:g}", explanation(dense)) for rate, dense in sorted(by_rate.items()))
    return [(rate, words) for rate, words in found if words]


def inlined(drawn: Sequence[tuple[Drawing, str]]) -> dict[Group, list[tuple[str, Markup]]]:
    """Drawings as elements of a page, by the section that they belong to, each with its name."""
    found: dict[Group, list[tuple[str, Markup]]] = {}
    for drawing, svg in drawn:
        if not drawing.sentence:
            found.setdefault(drawing.group, []).append((drawing.name, Markup(inline(svg))))
    return found


def sentences(drawn: Sequence[tuple[Drawing, str]]) -> dict[Group, list[str]]:
    """What is said in place of drawings that show nothing but chance, by the section that they belong to."""
    found: dict[Group, list[str]] = {}
    for drawing, _ in drawn:
        if drawing.sentence:
            found.setdefault(drawing.group, []).append(drawing.sentence)
    return found


def _evidence(results: Results, rule: Rule) -> Evidence:
    chance = Chance.of(**guessing(results.environment, rule.metric), metric=rule.metric)
    return Evidence(results.trials, results.missing, chance, ragged=bool(rule.looks), metric=rule.metric)


def _guessing_text(evidence: Evidence) -> str:
    """Which means count seeds that never learned: a mean of 70 % may be four of 85 % and one of 10 %."""
    found = []
    for place in sorted(evidence.places, key=lambda place: (place[1] or "", *place[2:], place[0])):
        arm, mask, rate, sparsity = place
        if seeds := evidence.at_chance(place):
            where = f" at {percent(sparsity)}, {mask} masks" if mask else ""
            found.append(f"{arm}{where}, learning rate {rate:g}, in {seeds_named(seeds)}")
    more = [f"and {len(found) - MOST_NAMED} more (see the means)"] if len(found) > MOST_NAMED else []
    return "; ".join([*found[:MOST_NAMED], *more])


def _tables(results: Results, found: Answers) -> dict[str, tables.Table]:
    rule, verdicts = found.rule, found.verdicts
    evidence = _evidence(results, rule)
    facts = {name: value for name, value in results.environment.items() if name != "command"}
    return {
        "recommendation": verdict_tables.recommendation_table(found.recommendation, rule),
        "standings": standings_table(found.standings, rule),
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
