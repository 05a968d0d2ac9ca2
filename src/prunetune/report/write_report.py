"""All files of a report, from a study's results or from the `results.json` of an earlier one. Nothing here trains."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from prunetune.analysis.pairing import Chance, guessing
from prunetune.analysis.paper.check_claims import paper_rows
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict
from prunetune.errors import ConfigError
from prunetune.report.answer import Answers, answers, headline
from prunetune.report.figures.accuracy import answer_figure, drawings
from prunetune.report.figures.connectivity import connectivity_figures
from prunetune.report.figures.layers import agreement_figures, layer_figures
from prunetune.report.figures.style import standalone
from prunetune.report.figures.training import residual_drawings, trajectory_figures
from prunetune.report.latex import latex_table
from prunetune.report.ownership import is_our_figure, is_ours, require_ours
from prunetune.report.page import notebook_html, page_text
from prunetune.report.results_files import (
    CORRELATIONS,
    RESULTS,
    TRIALS,
    canonical,
    csv_text,
    json_text,
    read_results,
    results_text,
    shown_again,
    write_text,
)
from prunetune.report.terminal import summary
from prunetune.rows import Correlation, Results, Trial

PAGE, FIGURES, LATEX = "report.html", "figures", "table.tex"
REPORT_FILES = (RESULTS, TRIALS, CORRELATIONS, PAGE)


@dataclass(frozen=True)
class Report:
    """The answer, and the page that shows it with all that it rests on."""

    verdicts: tuple[Verdict, ...]
    recommendation: tuple[Recommendation, ...]
    text: str  # the answer in plain words
    page: Path
    answers: Answers  # with what is as good as the best, and the seeds that what is open would take


def write_report(results: Results, out: Path) -> Report:
    """Judge the results and write results.json, trials.csv, correlations.csv, figures/*.svg and report.html to `out`.

    Equal results give equal bytes. Raises ConfigError where `out` cannot be written.
    """
    results = canonical(results)
    found = answers(results)
    rule, verdicts = found.rule, found.verdicts
    paper = paper_rows(results, verdicts, rule)
    drawn = (
        *(answer_figure(results, best.learning_rate, best.mask, rule) for best in found.choices[:1]),
        *drawings(results, verdicts, rule),
        *residual_drawings(results.residuals),
        *connectivity_figures(results.connectivity, [trial.arm for trial in results.trials]),
        *trajectory_figures(results.along_training),
        *layer_figures(results.overlap_by_layer, results.layers),
        *agreement_figures(results.mask_overlap),
    )
    svgs = {d.name: standalone(d.figure, d.name, d.title, d.description) for d in drawn if not d.sentence}

    write_text(out / RESULTS, results_text(results, found, paper))
    write_text(out / TRIALS, csv_text(results.trials, Trial))
    write_text(out / CORRELATIONS, csv_text(results.correlations, Correlation))
    write_figures(svgs, out / FIGURES)
    page = out / PAGE
    drawn_texts = [(d, svgs.get(d.name, "")) for d in drawn]
    write_text(page, page_text(results, found, drawn_texts, paper))
    chance = Chance.of(**guessing(results.environment, rule.metric), metric=rule.metric)
    text = summary(results.trials, verdicts, found.recommendation, rule, results.layers, results.recipes, chance)
    return Report(verdicts, found.recommendation, f"{headline(found)}\n\n{text}", page, found)


def notebook_report(results: Results, page: Path) -> str:
    """The answer as an HTML element for a notebook: verdict cards, recommendation and accuracy figures."""
    results = canonical(results)
    found = answers(results)
    mark = hashlib.sha256(json_text(results).encode()).hexdigest()[:8]  # two audits in a notebook share no ids
    figures = drawings(results, found.verdicts, found.rule)
    drawn = [d._replace(name=f"audit-{mark}-{d.name}") for d in figures if d.group == "accuracy"]
    texts = [(d, standalone(d.figure, d.name, d.title, d.description)) for d in drawn]
    return notebook_html(results, found, texts, page)


def render_again(out: Path, latex: bool = False) -> Report:
    """Write every file of a report again from its `results.json` alone; the rule that stands there judges.

    With `latex`, table.tex too. ConfigError where a file is somebody else's.
    """
    results = read_results(out / RESULTS)
    require_ours(out, (TRIALS, CORRELATIONS, PAGE, *([LATEX] if latex else [])))
    report = shown_again(out / RESULTS, lambda: write_report(results, out))
    if latex:
        rule = Rule.of(results.study)
        write_text(out / LATEX, shown_again(out / RESULTS, lambda: latex_table(results, rule)))
    return report


def write_figures(svgs: dict[str, str], folder: Path) -> None:
    """Write SVG files, and remove those of an earlier report; ConfigError where that cannot be done.

    Figures of others are neither removed nor replaced: where one has the name of ours, ours is in the page alone.
    """
    for name, text in svgs.items():
        path = folder / f"{name}.svg"
        if not path.exists() or is_ours(path):
            write_text(path, text)
    try:  # a figure of an earlier report that this one has no data for would be taken for this one's
        for old in folder.glob("*.svg"):
            if old.stem not in svgs and is_our_figure(old):
                old.unlink()
    except OSError as error:
        raise ConfigError(f"out: cannot write {folder}: {error.strerror}") from error
