"""No file of a study says another metric's name or unit, or which way is better where that is not so."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest

from prunetune.analysis.statistics import Rule
from prunetune.core.metric import ACCURACY, Metric
from prunetune.report.comparison.comparison_page import write_comparison
from prunetune.report.comparison.comparison_rows import cells_text, compare_studies, read_studies
from prunetune.report.results_files import read_results
from prunetune.report.tradeoff.tradeoff_page import write_tradeoff
from prunetune.report.tradeoff.tradeoff_rows import Tradeoff, tradeoff_summary
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Results
from prunetune.spec.load import load_spec
from tests.report.test_tradeoff import row, timing
from tests.support.planted import planted, stored
from tests.support.planted_views import viewed
from tests.support.refusals import refused
from tests.support.scored import ERROR, PERPLEXITY, measured, of_metric

FORBIDDEN = (
    r"accura\w*",
    r"\bpoints\b",
    r"\b1[1-9]\d(\.\d+)?( |&nbsp;|\N{NO-BREAK SPACE}|\\,)*\\?%",  # every score is from 110 to 199
    r"test images|held-out images",
)
NAMES = r"accuracy_barrier|test_accuracy|validation_accuracy"  # fields of files, whatever the task


def assert_says_nothing_of_accuracy(text: str) -> None:
    shown = re.sub(NAMES, "", text)
    for pattern in FORBIDDEN:
        found = re.search(pattern, shown, re.IGNORECASE)
        assert found is None, shown[max(0, found.start() - 200) : found.end() + 80]


def perplexities(results: Results) -> Results:
    return of_metric(results, PERPLEXITY, lambda accuracy: 200.0 - accuracy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section that there is, its table for LaTeX too, and what a terminal shows."""
    out = tmp_path_factory.mktemp("perplexity")
    results = perplexities(measured(viewed(masks=("iterative", "admm"), seeds=3)))
    longer = [
        dataclasses.replace(row, key=f"longer{row.key}", arm="dense_longer", epochs=12, score=(row.score or 0) - 0.1)
        for row in results.trials
        if row.arm == "dense"
    ]
    stored(dataclasses.replace(results, trials=(*results.trials, *longer)), out)
    (out / "terminal.txt").write_text(render_again(out, latex=True).text)
    return out


def test_no_file_of_a_report_speaks_of_accuracy(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".tex", ".txt", ".svg", ".csv")]
    assert {path.suffix for path in files} == {".html", ".tex", ".txt", ".svg", ".csv"}
    for path in files:
        assert_says_nothing_of_accuracy(path.read_text())
        assert "accuracy" not in path.name


def test_the_sweep_finds_what_is_forbidden(tmp_path: Path) -> None:
    page = write_report(planted(seeds=2), tmp_path).page.read_text()
    for pattern in FORBIDDEN[:2]:
        assert re.search(pattern, page)
    for text in ("120.5 %", "134&nbsp;%", r"151.00\,\%"):
        assert re.search(FORBIDDEN[2], text)


def test_words_say_which_way_is_better(folder: Path) -> None:
    page, terminal = (folder / "report.html").read_text(), (folder / "terminal.txt").read_text()
    assert "Perplexity against sparsity" in page
    assert "Test perplexity (lower is better), mean over 3 seeds:" in terminal
    assert "matches: surely less than 0.5 above, if at all; outdoes: surely more than that below" in terminal
    assert "(lower is better)" in (folder / "table.tex").read_text()
    for text in (page, terminal):
        assert "Of perplexity, lower is better: a negative difference is the first" in text
    assert re.search(r"\d\.\d\d below (ticket|finetune|rewind|reinit) \(", page)


def test_the_json_says_the_metric_and_every_trial_its_score(folder: Path) -> None:
    found = json.loads((folder / "results.json").read_text())
    said = [found["study"][name] for name in ("metric", "unit", "difference_unit", "higher_is_better")]
    assert said == ["perplexity", "", "", False]
    assert all(row["test_accuracy"] is None and row["score"] > 110 for row in found["trials"])
    assert all(row["accuracy"] is None and row["score"] > 110 for row in found["recommendation"])
    score = {
        (row["arm"], row["mask"], row["learning_rate"], row["sparsity"], row["seed"]): row["score"]
        for row in found["trials"]
    }
    for one in found["comparisons"]:
        if one["second"] == "reinit":
            place = one["mask"], one["learning_rate"], one["sparsity"]
            gaps = [score["ticket", *place, seed] - score["reinit", *place, seed] for seed in range(3)]
            assert one["mean"] == pytest.approx(sum(gaps) / 3)


def test_the_csv_has_the_scores(folder: Path) -> None:
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["test_accuracy"] for row in rows} == {""}
    assert all(float(row["score"]) > 110 for row in rows)


def test_the_best_of_a_column_in_latex_has_the_lowest_mean(folder: Path) -> None:
    line = next(line for line in (folder / "table.tex").read_text().splitlines() if line.startswith("finetune"))
    assert line.count(r"\textbf") == 4  # the best arm at all sparsities


def test_a_unit_stands_after_scores_and_differences_and_digits_follow_the_margin(tmp_path: Path) -> None:
    results = of_metric(planted(seeds=3), ERROR, lambda accuracy: 2.0 - accuracy / 100)
    text = write_report(results, tmp_path).text
    assert "Test RMSE, kWh (lower is better), mean over 3 seeds:" in text
    assert "surely less than 0.02 kWh above, if at all" in text
    assert re.search(r"learning rate 0.1   ?1\.\d{3} kWh", text)
    assert_says_nothing_of_accuracy((tmp_path / "report.html").read_text())


def test_old_files_are_read_with_the_accuracies_as_scores(tmp_path: Path) -> None:
    results = planted(seeds=2)
    write_report(results, tmp_path)
    path = tmp_path / "results.json"
    found = json.loads(path.read_text())
    for row_ in found["trials"]:
        del row_["score"], row_["validation_score"]
    for name in ("metric", "unit", "difference_unit", "higher_is_better"):
        del found["study"][name]
    after = {file.name: file.read_bytes() for file in tmp_path.glob("*.*")}
    path.write_text(json.dumps(found))
    again = read_results(path)
    assert all(row.score == row.test_accuracy is not None for row in again.trials)
    assert Rule.of(again.study).metric is ACCURACY
    render_again(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.*")} == after


@pytest.mark.parametrize(
    ("name", "value"), [("metric", 3), ("unit", None), ("difference_unit", []), ("higher_is_better", "no")]
)
def test_a_metric_that_is_none_is_one_line(name: str, value: object) -> None:
    with refused(f"study.{name}", "must be"):
        Metric.of(PERPLEXITY.described() | {name: value})


def test_the_study_of_a_file_runs_again(tmp_path: Path) -> None:
    spec = load_spec("quick")
    said = spec.resolved() | spec.metric.described()
    assert load_spec(said).resolved() == spec.resolved()
    with refused("metric"):
        load_spec({"model": "small_conv", "data": "fashion-mini", "metric": "perplexity"})


def test_a_comparison_speaks_of_the_metric_and_takes_no_two(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        results = perplexities(planted(seeds=3))
        trials = [dataclasses.replace(row, key=f"{number}{row.key}") for row in results.trials]
        stored(dataclasses.replace(results, trials=tuple(trials)), tmp_path / f"study{number}")
    studies = read_studies(sorted(tmp_path.glob("study*")))
    found = write_comparison(compare_studies(studies, resamples=50), tmp_path / "out")
    for path in [*(tmp_path / "out").glob("*.html"), *(tmp_path / "out" / "figures").glob("*.svg")]:
        assert_says_nothing_of_accuracy(path.read_text())
    assert_says_nothing_of_accuracy(found.text)
    assert "of perplexity, lower is better: differences are turned" in found.text
    said = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (said["metric"], said["higher_is_better"]) == ("perplexity", False)
    assert "metric" not in said["rule"]
    cells = cells_text(studies, ("ticket iterative", "dense"), False, False)
    assert cells.startswith("ticket iterative − dense, perplexity (lower is better)\n")

    stored(planted(seeds=3), tmp_path / "other")
    with refused("RUN", "different metrics", "'study0' by perplexity", "'other' by accuracy"):
        compare_studies(read_studies([tmp_path / "study0", tmp_path / "other"]))


def test_a_trade_off_speaks_of_the_metric(tmp_path: Path) -> None:
    times = timing(1, 1.0, 1.0, 1.0), timing(64, 1.0, 1.0, 1.0)
    rows = row(0.0, (120.0, 121.0), 900, *times), row(0.9, (125.0, 127.0), 200, *times)
    study = {"model": "m", **PERPLEXITY.described()}
    found = write_tradeoff(
        Tradeoff("n", "m", "d", "one_shot", "unstructured", 0.1, 3, rows, (), study, {"cpu": "c"}), tmp_path
    )
    for path in [found.page, *(tmp_path / "figures").glob("*.svg")]:
        assert_says_nothing_of_accuracy(path.read_text())
    assert_says_nothing_of_accuracy(found.text)
    assert "Perplexity (lower is better) against the dense network's 120.50, after 3 more epochs" in found.text
    assert "+5.50 at 90 %" in found.text
    one_seed = [dataclasses.replace(each, scores=each.scores[:1]) for each in rows]
    single = Tradeoff("n", "m", "d", "one_shot", "unstructured", 0.1, 3, tuple(one_seed), (), study, {"cpu": "c"})
    assert "one seed, so differences below 0.5 mean little" in tradeoff_summary(single)[0]
