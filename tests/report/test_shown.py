"""What is said is what is shown: a ticket above dense, the chance of these labels, errors near the ceiling, a best."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.analysis.pairing import Chance, guessing
from prunetune.analysis.recommend import recommend
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import judge
from prunetune.data import TensorExamples
from prunetune.report.answer import winning_text
from prunetune.report.terminal import summary
from prunetune.report.text import choice_text, exceeds_text, recommendation_text, whys
from prunetune.report.write_report import write_report
from prunetune.rows import Results, Trial
from prunetune.spec.load import load_spec
from prunetune.spec.presets import path
from prunetune.tasks import TASKS
from tests.support.planted import planted
from tests.support.verdict_trials import LEVEL, one, spread, study, trial

RULE = Rule()
LABELS = torch.tensor([0] * 950 + [1] * 50)


def said(trials: list[Trial]) -> str:
    return summary(trials, judge(trials, RULE), recommend(trials, RULE), RULE)


# --- a ticket above the dense network -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "exceeds"), [(0.7, True), (0.5, False), (0.0, False), (-1.0, False)])
def test_exceeding_is_a_lower_bound_above_the_margin(mean: float, exceeds: bool) -> None:
    # One sparsity alone: bounds .2262 from the mean, so .7262 would be the least that exceeds with margin .5.
    verdict = one(study({0.75: spread(mean + 0.03, 0.3)}, {0.75: spread(2.0, 0.3)}))
    [test] = verdict.tests
    assert test.dense.low is not None
    assert test.exceeds == (test.dense.low > 0.5) == exceeds
    assert verdict.exceeds_dense == ((0.75,) if exceeds else ())
    assert verdict.winning_property == ("fails" if mean < -0.5 else "holds")  # the rule itself is as it was


def test_a_ticket_that_exceeds_is_told_so_everywhere_with_the_warning(tmp_path: Path) -> None:
    trials = study({0.75: spread(9.1, 0.3)}, {0.75: spread(2.0, 0.3)})
    verdict = one(trials)
    assert "the ticket exceeds the dense network: +9.10" in whys(verdict)[0]
    assert "At 75 % sparsity the ticket exceeds the dense network" in exceeds_text(verdict, RULE)
    assert "the dense network is not converged" in exceeds_text(verdict, RULE)
    assert winning_text([verdict]).endswith(", where the ticket exceeds a dense network that is not converged.")
    text = said(trials)
    assert "the dense network is not converged, trained too little to be the yardstick" in text
    assert "  exceeds  " in text
    results = Results({"verdict": {}}, {}, tuple(trials), (), (), (), (), (), ())
    page = write_report(results, tmp_path).page.read_text(encoding="utf-8")
    assert page.count("not converged, trained too little to be the yardstick") == 1
    assert '<p class="warning">At 75 % sparsity' in page
    [stored] = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["verdicts"]
    assert stored["exceeds_dense"] == [0.75]


def test_a_ticket_that_matches_gets_no_warning() -> None:
    trials = study({0.75: spread(0.2, 0.3)}, {0.75: spread(2.0, 0.3)})
    assert exceeds_text(one(trials), RULE) == ""
    assert "converged" not in winning_text([one(trials)])
    assert "not converged" not in said(trials)


@pytest.mark.parametrize(("gain", "converged"), [(0.1, True), (0.5, False), (3.0, False)])
def test_a_dense_network_shown_to_have_converged_is_not_called_unconverged(gain: float, converged: bool) -> None:
    trials = study({0.75: spread(2.0, 0.3)}, {0.75: spread(2.0, 0.3)})
    trained = [LEVEL + 0.3 * seed + gain + by for seed, by in enumerate(spread(0.0, 0.1))]
    longer = [
        dataclasses.replace(row, key=f"longer{row.key}", arm="dense_longer", test_accuracy=accuracy)
        for row, accuracy in zip((row for row in trials if row.arm == "dense"), trained, strict=True)
    ]
    verdict = one([*trials, *longer])
    assert verdict.exceeds_dense == (0.75,)
    assert verdict.winning_property == "holds"
    assert (winning_text([verdict]) == "At 0.1 the dense network is insufficient.") == (gain == 3.0)
    for text in (exceeds_text(verdict, RULE), said([*trials, *longer])):
        assert ("not converged" in text) is not converged
        assert ("that has converged" in text or "that is converged" in text) is converged


def test_what_must_not_be_a_yes_does_not_exceed() -> None:
    trials = study({0.75: spread(9.0, 0.3)}, {0.75: spread(2.0, 0.3)})
    lost = next(i for i, row in enumerate(trials) if row.arm == "ticket")
    trials[lost] = dataclasses.replace(trials[lost], diverged=True)
    assert one(trials).exceeds_dense == ()


def of_majority(labels: torch.Tensor) -> float | None:
    return TASKS["classification"].guessing(TensorExamples(labels, labels))


# --- chance ---------------------------------------------------------------------------------------------------------


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert of_majority(LABELS) == 95.0
    assert of_majority(torch.arange(10)) == 10.0
    found = Chance.of(2, 1000, 95.0)
    assert found is not None
    assert (found.score, found.noise) == (95.0, pytest.approx(300 * (0.95 * 0.05 / 1000) ** 0.5))
    assert Chance.of(4, 1000) == Chance.of(chance=25.0, test_images=1000)
    assert Chance.of() is None


def test_two_baselines_that_always_say_the_majority_give_no_winning_ticket() -> None:
    """95 of 100 labels are of one class: dense and reinit at 95 % have learned nothing."""
    trials = study({0.75: spread(3.0, 0.1)}, {0.75: spread(3.0, 0.1)}, dense=[95.0] * 5)
    known: dict[str, Any] = {"outputs": 2, "test_images": 1000}
    assert one(trials, **known).winning_property == "holds"  # which a chance of 1 / classes gives
    verdict = one(trials, **known, chance=of_majority(LABELS))
    assert verdict.winning_property == "inconclusive"
    assert "stuck at chance" in verdict.outlook


def test_a_majority_is_never_recommended() -> None:
    rows = [trial("finetune", seed, 95.0, 0.75) for seed in range(5)]
    assert len(recommend(rows, outputs=2, test_images=1000)) == 1
    assert recommend(rows, outputs=2, test_images=1000, chance=95.0) == ()


def test_the_environment_tells_chance_and_older_files_fall_back() -> None:
    assert guessing({"outputs": 2, "test_images": 1000, "chance": 95.0, "cpu": "x"}) == {
        "outputs": 2, "test_images": 1000, "chance": 95.0
    }  # fmt: skip
    assert guessing({"outputs": 10, "test_images": 1000}) == {"outputs": 10, "test_images": 1000}
    for wrong in ("95", True, 0, 101, float("nan"), None):
        assert guessing({"chance": wrong}) == {}


def test_the_page_judges_by_the_chance_of_the_environment(tmp_path: Path) -> None:
    results = planted(seeds=3, rates=(0.1,))
    told = dataclasses.replace(results, environment=results.environment | {"outputs": 2, "test_images": 1000})
    assert "stuck at chance" not in write_report(told, tmp_path / "a").page.read_text(encoding="utf-8")
    skewed = dataclasses.replace(told, environment=told.environment | {"chance": 90.0})
    page = write_report(skewed, tmp_path / "b").page.read_text(encoding="utf-8")
    assert "stuck at chance" in page
    assert "scores 90.00&nbsp;%" in page


# --- near the ceiling -----------------------------------------------------------------------------------------------


def test_near_the_ceiling_the_change_in_error_stands_beside_the_points() -> None:
    trials = study({0.75: [0.4] * 4 + [0.41]}, {0.75: [0.4] * 4 + [0.41]}, dense=[99.1] * 5)
    [test] = one(trials, outputs=10).tests
    assert test.dense.error_change == pytest.approx(0.498 / 0.9 - 1)  # 99.502 against 99.1 on average
    verdict = one(trials, outputs=10)
    assert "5 seeds; errors −45 %)" in whys(verdict)[0]
    rows = summary(trials, [verdict], [], RULE).splitlines()
    assert any("errors −45 %" in row for row in rows)


@pytest.mark.parametrize(("level", "shown"), [(94.9, False), (95.0, True), (100.0, False)])
def test_it_is_shown_from_95_percent(level: float, shown: bool) -> None:
    trials = study({0.75: [-0.2, -0.3]}, {0.75: [-0.2, -0.3]}, dense=[level] * 2)
    [test] = one(trials, outputs=10).tests
    assert (test.dense.error_change is not None) == shown
    assert one(trials).tests[0].dense.error_change is None  # a score of another kind has no errors


# --- the best of several --------------------------------------------------------------------------------------------


def candidates(held_out: bool) -> list[Trial]:
    rows = [trial(arm, seed, 80.0 + seed, 0.75) for arm in ("ticket", "rewind", "finetune") for seed in range(3)]
    return [dataclasses.replace(row, validation_accuracy=70.0) for row in rows] if held_out else rows


def test_a_best_that_was_chosen_on_the_test_images_is_said_to_be(tmp_path: Path) -> None:
    [row] = recommend(candidates(held_out=False))
    assert (row.candidates, row.chosen_on, row.flattered) == (3, "test", True)
    assert "% on average (the best of 3, chosen by the same test examples)," in recommendation_text([row], RULE)
    assert choice_text([row]).startswith("Each accuracy is of the best of up to 3 candidates, chosen by the same test")
    assert choice_text([row]) in said(candidates(held_out=False))
    results = Results({"verdict": {}}, {}, tuple(candidates(held_out=False)), (), (), (), (), (), ())
    page = write_report(results, tmp_path).page.read_text(encoding="utf-8")
    assert "best of 3 on these test examples" in page
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["recommendation"][0]
    assert (stored["candidates"], stored["chosen_on"]) == (3, "test")


def test_a_best_that_was_chosen_on_held_out_images_is_not_flattered_by_them() -> None:
    [row] = recommend(candidates(held_out=True))
    assert (row.candidates, row.chosen_on, row.flattered) == (3, "validation", False)
    assert choice_text([row]) == ""
    assert "the best of" not in recommendation_text([row], RULE)


def test_one_candidate_is_no_choice() -> None:
    [row] = recommend([trial("ticket", seed, 80.0, 0.75) for seed in range(3)])
    assert not row.flattered


def test_quick_holds_images_out() -> None:
    assert path("quick").exists()
    assert load_spec().data_args == {"validation": 0.1}
