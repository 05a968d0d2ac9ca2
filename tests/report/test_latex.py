"""The LaTeX table of a study: its text to the letter, what it escapes, and that it replaces no file of others."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunetune.analysis.statistics import USUAL_RULE
from prunetune.cli.main import app
from prunetune.errors import ConfigError
from prunetune.report.latex import escaped, latex_table
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Results
from tests.support.planted import HOSTILE, planted, scarred
from tests.support.refusals import refused


@pytest.fixture
def results() -> Results:
    """Two sparsities of one rate with planned accuracies: of dense, ticket and reinit over three seeds."""
    whole = planted(arms=("ticket", "reinit"), rates=(0.1,), seeds=3)
    accuracy = {
        ("dense", 0.0): (85.0, 86.0, 87.0),
        ("ticket", 0.5): (84.0, 85.0, 86.0),
        ("reinit", 0.5): (83.0, 84.0, 83.0),
        ("ticket", 0.75): (80.0, 80.5, 81.0),
        ("reinit", 0.75): (70.0, 71.0, 72.0),
    }
    trials = [
        dataclasses.replace(row, test_accuracy=accuracy[row.arm, row.sparsity][row.seed])
        for row in whole.trials
        if (row.arm, row.sparsity) in accuracy
    ]
    return dataclasses.replace(whole, trials=tuple(trials), study=whole.study | {"name": "50 % of a_b"})


def test_the_table_to_the_letter(results: Results) -> None:
    assert (
        latex_table(results, USUAL_RULE)
        == r"""% prunetune report --latex
\begin{table}
\centering
\caption{Test accuracy in percent of 50 \% of a\_b: mean over $n$ seeds (3) $\pm$ half its 95\,\% interval. """
        + (
            r"""Bold: the best of a column within its learning rate and masks, and what lies within its interval.}
\label{tab:50-of-a_b}
\begin{tabular}{lccr}
\toprule
Sparsity & 50\,\% & 75\,\% & $n$ \\
\midrule
\multicolumn{4}{l}{Learning rate 0.1, iterative masks} \\
dense & \multicolumn{2}{c}{86.00 $\pm$ 2.48} & 3 \\
ticket & \textbf{85.00} $\pm$ 2.48 & \textbf{80.50} $\pm$ 1.24 & 3 \\
reinit & \textbf{83.33} $\pm$ 1.43 & 71.00 $\pm$ 2.48 & 3 \\
\bottomrule
\end{tabular}
\end{table}
"""
        )
    )


def test_a_mean_halfway_between_two_digits_is_rounded_as_on_the_page(results: Results, tmp_path: Path) -> None:
    halves = {0: 70.81, 1: 69.96}  # 70.385, which rounding to 12 digits first would make 70.39
    two = [dataclasses.replace(row, test_accuracy=halves[row.seed]) for row in results.trials if row.seed in halves]
    halved = dataclasses.replace(results, trials=tuple(two))
    assert "ticket & \\textbf{70.38} $" in latex_table(halved, USUAL_RULE)
    report = write_report(halved, tmp_path)
    assert "70.38" in report.text
    assert "70.39" not in report.text
    assert "70.38" in report.page.read_text()


def test_one_seed_has_no_interval_and_a_lacking_cell_a_dash(results: Results) -> None:
    one = [row for row in results.trials if row.seed == 0 and (row.arm, row.sparsity) != ("reinit", 0.75)]
    table = latex_table(dataclasses.replace(results, trials=tuple(one)), USUAL_RULE)
    assert r"ticket & \textbf{84.00} & \textbf{80.00} & 1 \\" in table
    assert r"reinit & 83.00 & -- & 1 \\" in table


def test_diverged_trainings_are_left_out_and_n_says_so() -> None:
    table = latex_table(scarred(planted()), USUAL_RULE)
    assert "(4--5)" in table
    rows = [line for line in table.splitlines() if line.startswith("reinit")]
    assert [row.rpartition("&")[2] for row in rows] == [r" 4--5 \\", r" 5 \\"]


@pytest.mark.parametrize("name", ["a{b", "a}}b", "\\end{table}", "x^2_i & 50 % #1 ~ $y$", HOSTILE, "two\nlines"])
def test_no_name_breaks_the_table(results: Results, name: str, tmp_path: Path) -> None:
    table = latex_table(dataclasses.replace(results, study=results.study | {"name": name}), USUAL_RULE)
    plain = table.replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert table.count(r"\begin{table}") == table.count(r"\end{table}") == 1
    if latex := shutil.which("pdflatex"):
        text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + table + r"\end{document}"
        (tmp_path / "paper.tex").write_text(text)
        subprocess.run([latex, "-interaction=batchmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True)


def test_a_backslash_is_escaped_once() -> None:
    assert escaped("\\{") == r"\textbackslash{}\{"


def test_report_writes_it_where_it_is_asked_for(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    table = tmp_path / "table.tex"
    assert not table.exists()
    table.write_text("% prunetune report --latex\nof an earlier report")
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--latex"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"LaTeX table: {table}"
    assert table.read_text() == latex_table(results, USUAL_RULE)


def test_a_table_of_somebody_elses_is_kept(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    (tmp_path / "table.tex").write_text("mine")
    with refused("out", "table.tex"):
        render_again(tmp_path, latex=True)
    assert (tmp_path / "table.tex").read_text() == "mine"


def test_a_folder_of_prune_has_no_such_table(tmp_path: Path) -> None:
    (tmp_path / "tradeoff.json").write_text("{}")
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--latex"], standalone_mode=False)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--latex: ")
