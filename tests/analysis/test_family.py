"""Many verdicts of one study: Holm's correction over all their tests, or within each."""

from dataclasses import replace

import numpy as np
import pytest

from prunetune.analysis.statistics import Rule, holm
from prunetune.analysis.verdict import judge
from prunetune.report.text import family_text
from prunetune.rows import Trial
from tests.scripts.test_simulate_verdict import simulation  # noqa: F401  (a fixture)
from tests.support.verdict_trials import spread, study

STUDY, CELL = Rule(), Rule(family="cell")


def several(means: list[float], width: float = 0.3) -> list[Trial]:
    """A verdict for each of these means of ticket - dense, at one sparsity, far above reinit."""
    return [
        row
        for index, mean in enumerate(means)
        for row in study({0.75: spread(mean, width)}, {0.75: spread(5.0, width)}, 0.1 * (index + 1))
    ]


def test_one_correction_runs_over_all_rates_and_masks() -> None:
    trials = several([-0.25, -0.3, 0.1, -0.9])
    together, apart = judge(trials, STUDY), judge(trials, CELL)
    alone = [verdict.tests[0].p for verdict in apart]
    assert [verdict.tests[0].p_holm for verdict in apart] == pytest.approx(alone)
    assert [verdict.tests[0].p_holm for verdict in together] == pytest.approx(holm(alone))
    assert {verdict.corrected_for for verdict in together} == {4}
    assert {verdict.corrected_for for verdict in apart} == {1}
    # Alone p = .039 for the first; the third is out of question either way, the fourth fails either way.
    assert [verdict.winning_property for verdict in apart] == ["holds", "inconclusive", "holds", "fails"]
    assert [verdict.winning_property for verdict in together] == ["inconclusive", "inconclusive", "holds", "fails"]


def test_seeds_needed_pay_for_the_other_verdicts() -> None:
    trials = several([-0.25, -0.45, -0.45, -0.45, -0.45])
    needed = judge(trials, STUDY)[0].seeds_needed
    assert needed is not None
    alone = judge(several([-0.25]), replace(STUDY, alpha=0.05 / 5))[0].seeds_needed
    assert alone is not None
    assert 5 < needed <= alone


def test_one_verdict_is_the_same_in_both() -> None:
    trials = several([-0.25])
    assert judge(trials, STUDY) == judge(trials, CELL)


def test_what_an_early_look_rejected_stays_so_and_makes_room() -> None:
    """Two verdicts over looks at 2 and 5 seeds: the first is decided at once, the second by its p at the next."""
    rule = Rule(looks=(2, 5))
    sure = study({0.75: [5.0, 5.1]}, {0.75: [9.0, 9.1]}, 0.1)
    late = study({0.75: spread(0.2, 0.4)}, {0.75: spread(5.0, 0.3)}, 0.2)
    first, second = judge([*sure, *late], rule)
    assert (first.winning_property, len(first.looks), first.corrected_for) == ("holds", 1, 2)
    assert (len(second.looks), second.corrected_for) == (2, 2)
    assert second.tests[0].p_holm == pytest.approx(second.tests[0].p)  # the rejected one leaves a family of one
    failed = study({0.75: [-9.0, -9.1]}, {0.75: [9.0, 9.1]}, 0.1)
    first, second = judge([*failed, *late], rule)
    assert first.winning_property == "fails"
    assert second.tests[0].p_holm == pytest.approx(2 * second.tests[0].p)  # what failed is never rejected


@pytest.mark.parametrize("family", ["study", "cell"])
@pytest.mark.parametrize("looks", [(), (2, 5)])
def test_the_simulation_is_the_judges(simulation, family, looks) -> None:  # noqa: F811
    generator = np.random.default_rng(3)
    numbers = looks or (5,)
    levels = [look.alpha for look in simulation.plan_looks(0.05, numbers)]
    draws = simulation.draw(simulation.World(5, (0.4, 0.6) * 3, 0.5), 20, generator) + 0.35
    cells = draws.reshape(20, 5, 3, 2).transpose(0, 2, 1, 3)
    expected = simulation.course(cells, family, numbers, levels)
    for found, holds, fails in zip(cells, expected.holds, expected.fails, strict=True):
        trials = [
            row
            for index, cell in enumerate(found)
            for row in study(
                {0.5: cell[:, 0].tolist(), 0.75: cell[:, 1].tolist()},
                {at: [50.0 + 0.01 * seed for seed in range(5)] for at in (0.5, 0.75)},
                0.1 * (index + 1),
            )
        ]
        said = [verdict.winning_property for verdict in judge(trials, Rule(family=family, looks=looks))]
        assert [word == "holds" for word in said] == holds.tolist()
        assert [word == "fails" for word in said] == fails.tolist()
    assert 0 < expected.holds.sum() < expected.holds.size


def test_correcting_over_the_study_keeps_some_false_holds_below_alpha(simulation) -> None:  # noqa: F811
    nulls = simulation.families(0.5, 5, 4000, np.random.default_rng(0))
    some = {name: simulation.course(nulls, name, (5,), (0.05,)).holds.any(axis=1).mean() for name in ("study", "cell")}
    assert some["study"] < 0.055  # .04; the standard error is .003
    assert some["cell"] > 0.11  # .14


def test_the_headline_says_how_many_verdicts_and_at_what_error() -> None:
    verdicts = judge(several([0.1, -0.9, 0.1]), STUDY)
    assert family_text(verdicts, STUDY) == (
        "3 verdicts; some *yes* among them is false with a nominal probability of at most 5 %: Holm's correction "
        "runs over all 3 tests of the study."
    )
    assert "of at most 15 %: each is corrected for its own sparsities alone, at 5 %." in family_text(verdicts, CELL)
    assert family_text(verdicts[:1], STUDY).startswith("One verdict; ")
    assert family_text([], STUDY) == ""
