"""A whole study of another task than classification: its rows are what is stored, and its page speaks of its metric."""

import json

import pytest
import torch

from prunetune.analysis import regimes
from prunetune.api import plan_study
from prunetune.data import load_examples
from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan
from prunetune.report.comparison.comparison_figures import axis_label
from prunetune.report.write_report import Report, write_report
from prunetune.results.collect import collect
from prunetune.rows import Results
from prunetune.store.store import Store
from tests.report.test_metric_words import assert_says_nothing_of_accuracy
from tests.support.task_makers import tiny


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Results, Report]:
    """A tiny language model with two seeds, held-out sequences, and a line between two dense runs, on its page."""
    folder = tmp_path_factory.mktemp("language")
    store = Store(folder / "store")
    more = {"seeds": 2, "connectivity": ["dense"], "measure": ["barriers"], "data_args": {"validation": 0.2}}
    made = plan_study(tiny("causal_lm", "language_model", "counting", **more), store=store.root).plan
    for step in made.steps:
        execute(step, store)
    results = collect(made, store, (), {})
    return made, store, results, write_report(results, folder / "out")


def test_rows_have_the_stored_scores_and_no_accuracies(study: tuple[Plan, Store, Results, Report]) -> None:
    _, store, results, _ = study
    assert len(results.trials) == 6
    for row in results.trials:
        kept = store.metrics(row.key)
        assert (row.score, row.validation_score) == (kept["score"], kept["validation_score"])
        assert row.score is not None
        assert row.score > 1.0  # a perplexity
        assert row.validation_score is not None
        assert (row.test_accuracy, row.validation_accuracy) == (None, None)


def test_lines_have_scores_whose_barrier_is_a_rise(study: tuple[Plan, Store, Results, Report]) -> None:
    *_, results, _ = study
    for row in results.connectivity:
        straight = [(1 - a) * row.score[0] + a * row.score[-1] for a in row.alpha]
        rise = max(score - level for score, level in zip(row.score, straight, strict=True))
        assert row.test_accuracy == ()
        assert row.score_barrier == pytest.approx(rise, abs=1e-9)
    barriers = [row.values for row in results.quantities if row.kind == "barriers"]
    assert barriers
    assert all(values["accuracy_barrier"] is None and values["score_barrier"] is not None for values in barriers)


def test_a_barrier_in_score_is_what_regimes_can_be_ordered_by(study: tuple[Plan, Store, Results, Report]) -> None:
    made, _, results, _ = study
    found = regimes._quantities(results, 0.01, "one_shot", 0.5)
    wanted = {
        row.seed: row.values["score_barrier"]
        for row in results.quantities
        if (row.kind, row.of) == ("barriers", "theta_T/ticket_T")
    }
    assert len(wanted) == 2
    assert found["barriers.score_barrier"] == wanted
    assert "barriers.accuracy_barrier" not in found
    label = axis_label("barriers.score_barrier", made.spec.metric)
    assert label == "perplexity barrier from θ_T to the ticket's final"


def test_guessing_is_that_of_the_tokens_frequencies(study: tuple[Plan, Store, Results, Report]) -> None:
    made, _, results, report = study
    test = load_examples(made.data).test
    tokens = test.gather(torch.arange(len(test))).targets[:, 1:].flatten().tolist()
    counted = [token for token in tokens if token != -100]
    shares = [counted.count(token) / len(counted) for token in set(counted)]
    perplexity = torch.tensor([share**-share for share in shares], dtype=torch.float64).prod().item()
    assert results.environment["chance"] == pytest.approx(perplexity)
    assert f"what looks at no input scores {perplexity:.2f}" in report.page.read_text()


def test_every_file_speaks_of_perplexity(study: tuple[Plan, Store, Results, Report]) -> None:
    *_, report = study
    said = json.loads((report.page.parent / "results.json").read_text())["study"]
    assert (said["metric"], said["unit"], said["higher_is_better"]) == ("perplexity", "", False)
    assert_says_nothing_of_accuracy(report.text)
    for path in [report.page, *(report.page.parent / "figures").glob("*.svg")]:
        assert_says_nothing_of_accuracy(path.read_text())
