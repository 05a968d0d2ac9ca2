"""κ in results.json, in words, and beside the paper's."""

import json
import math

import pytest

from prunetune.analysis.paper.scale import off_paper, retention_text
from prunetune.report.answer import answers
from prunetune.report.results_files import read_results, results_text
from prunetune.report.write_report import render_again
from prunetune.training.recipe import RecipeSummary
from tests.support.planted import planted


def at(rate: float, kappa: float | None) -> RecipeSummary:
    return RecipeSummary(rate, 100, kappa, None if kappa is None else math.exp(-kappa))


@pytest.mark.parametrize(
    ("rate", "kappa", "differs"),
    [
        (0.1, 3.3, False),
        (0.1, 1.7, False),
        (0.1, 1.6, True),
        (0.1, 6.5, False),
        (0.1, 6.7, True),
        (0.1, 0.0, True),
        (0.01, 0.33, False),
        (0.01, 3.3, True),
        (0.05, 9.0, False),  # the paper has no such rate
        (0.1, None, False),
    ],
)
def test_what_the_paper_speaks_of(rate, kappa, differs):
    assert (off_paper(at(rate, kappa)) is not None) is differs


def test_the_words():
    assert retention_text(at(0.1, 3.296)).startswith("kappa 3.30: weight decay by itself leaves 4 %")
    assert "less than 1 %" in retention_text(at(0.1, 9.0))
    assert "not defined" in retention_text(at(0.1, None))


def test_an_older_file_is_read_with_kappa_computed(tmp_path):
    """6 epochs at weight decay 1e-4: Σ of the factors is by hand, step by step in tests/training."""
    found = planted()
    text = json.loads(results_text(found, answers(found)))
    del text["recipes"]
    (tmp_path / "results.json").write_text(json.dumps(text))
    read = read_results(tmp_path / "results.json").recipes
    assert [row.learning_rate for row in read] == sorted({trial.learning_rate for trial in found.trials})
    for row in read:
        each = row.steps // 6
        whole, tenth = round(3.2 * each), round(4.8 * each) - round(3.2 * each)
        total = whole + 0.1 * tenth + 0.01 * (row.steps - whole - tenth)
        assert row.kappa == pytest.approx(row.learning_rate * 1e-4 * total / 0.1)
        assert row.retention == pytest.approx(math.exp(-(row.kappa or 0)))


def test_what_a_file_says_is_kept(tmp_path):
    text = json.loads(results_text(planted(), answers(planted())))
    text["recipes"] = [{"learning_rate": 0.1, "steps": 7, "kappa": None, "retention": None}]
    (tmp_path / "results.json").write_text(json.dumps(text))
    assert read_results(tmp_path / "results.json").recipes == (RecipeSummary(0.1, 7, None, None),)


@pytest.mark.parametrize(
    ("kappa", "said"),
    [
        (0.0079, "kappa 0.0079: weight decay by itself leaves 99 %"),
        (0.0049, "kappa 0.0049: weight decay by itself leaves more than 99 %"),
        (0.0494, "kappa 0.049: weight decay by itself leaves 95 %"),
        (0.0, "kappa 0.00: weight decay by itself leaves 100 %"),
        (0.33, "kappa 0.33: weight decay by itself leaves 72 %"),
    ],
)
def test_a_small_kappa_is_not_rounded_to_another(kappa, said):
    assert retention_text(at(0.01, kappa)).startswith(said)
    assert (off_paper(at(0.01, kappa)) is None) is (kappa == 0.33)


def test_the_page_does_not_say_that_kappa_alone_decides_r_p(tmp_path):
    text = json.loads(results_text(planted(), answers(planted())))
    del text["recipes"]  # as in an older file: κ is then computed
    (tmp_path / "results.json").write_text(json.dumps(text))
    page = render_again(tmp_path).page.read_text()
    assert "weight decay leaves the initial weights in the trained ones" in page
    assert "Gradients change weights too" in page
    assert "moved them little" not in page  # R_p is of ranks: weights that all shrink alike leave it at 1
