"""Non-inferiority of every arm to every other: against scipy's t tests, by hand, and on planted studies."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from prunetune.analysis.equivalence import BestStarts, Standing, equivalence
from prunetune.analysis.statistics import Rule
from prunetune.rows import Spent, Trial
from tests.support.planted import planted

RULE = Rule()
SEEDS = 5
SPREAD = (-0.2, -0.1, 0.0, 0.1, 0.2)


def trial(
    arm: str, seed: int, score: float, sparsity: float = 0.8, mask: str = "iterative", rate: float = 0.1
) -> Trial:
    return Trial(
        f"{arm}{seed}{sparsity}{mask}{rate}", arm, mask, rate, sparsity, 1 - sparsity, seed, 1, 1, score, 0.1,
        False, False, 1.0, "", "", "",
    )  # fmt: skip


def study(means: dict[str, float], noise: float = 1.0, **place: float) -> list[Trial]:
    """Five seeds of every arm; noise differs from arm to arm, so that differences vary."""
    return [
        trial(arm, seed, mean + noise * SPREAD[(seed + 2 * i) % SEEDS], **place)  # type: ignore[arg-type]
        for i, (arm, mean) in enumerate(means.items())
        for seed in range(SEEDS)
    ]


def judged(trials: list[Trial], **settings: object) -> tuple[dict[str, Standing], BestStarts]:
    standings, choices = equivalence(trials, RULE, **settings)  # type: ignore[arg-type]
    [choice] = choices
    return {row.arm: row for row in standings}, choice


def test_p_values_are_the_largest_of_scipys_and_corrected_by_holm() -> None:
    rows = study({"ticket": 80.0, "rewind": 80.2, "finetune": 80.3, "reinit": 78.0})
    standings, choice = judged(rows)
    scores = {arm: np.array([row.score for row in rows if row.arm == arm]) for arm in standings}
    expected = {
        arm: max(
            ttest_1samp(own - other, -0.5, alternative="greater").pvalue  # pyright: ignore[reportAttributeAccessIssue]
            for name, other in scores.items()
            if name != arm
        )
        for arm, own in scores.items()
    }
    assert {arm: row.p for arm, row in standings.items()} == pytest.approx(expected)
    ordered = sorted(expected, key=lambda arm: expected[arm])
    running = 0.0
    for place, arm in enumerate(ordered):
        running = max(running, min(1.0, (4 - place) * expected[arm]))
        assert choice.p_holm[arm] == pytest.approx(running)
    low, high = ttest_1samp(scores["ticket"] - scores["finetune"], 0.0).confidence_interval(0.95)
    assert (standings["ticket"].low, standings["ticket"].high) == pytest.approx((low, high))
    assert standings["finetune"].best == "finetune"
    assert standings["finetune"].low is None


def test_what_is_close_is_as_good_and_what_is_far_is_not() -> None:
    standings, choice = judged(study({"ticket": 80.0, "finetune": 80.1, "reinit": 78.0}))
    assert choice.as_good == ("finetune", "ticket")
    assert choice.start == "finetune"
    assert choice.leads == pytest.approx((2.0, 2.1))
    assert {arm: row.as_good for arm, row in standings.items()} == {"ticket": "yes", "finetune": "yes", "reinit": "no"}


def test_noise_leaves_it_undecided() -> None:
    standings, choice = judged(study({"ticket": 80.0, "finetune": 80.1, "reinit": 78.0}, noise=6.0))
    assert choice.as_good == ()
    assert choice.start is None
    assert choice.leads is None
    assert standings["ticket"].as_good == "undecided"
    assert standings["ticket"].tie
    assert choice.not_told_apart == ("finetune", "ticket")
    assert choice.seeds == SEEDS
    assert choice.seeds_needed is not None
    assert choice.seeds_needed > SEEDS


def test_so_many_seeds_of_the_same_spread_do_decide_it() -> None:
    means = {"ticket": 80.0, "finetune": 80.1, "reinit": 70.0}
    few = study(means, noise=3.0)
    needed = judged(few)[1].seeds_needed
    assert needed is not None
    many = [
        trial(row.arm, row.seed + SEEDS * again, row.score or 0.0)
        for row in few
        for again in range(-(-needed // SEEDS))
    ]
    assert judged(many)[1].as_good
    assert not judged(few)[1].as_good
    assert judged(many)[1].seeds_needed is None


def test_one_seed_decides_nothing() -> None:
    standings, choice = judged([trial("ticket", 0, 80.0), trial("finetune", 0, 99.0)])
    assert choice.as_good == ()
    assert {row.as_good for row in standings.values()} == {"undecided"}


def test_an_arm_must_be_as_good_at_every_sparsity() -> None:
    rows = study({"ticket": 80.0, "finetune": 80.0}) + study({"ticket": 70.0, "finetune": 75.0}, sparsity=0.95)
    _, choices = equivalence(rows, RULE)
    assert choices[0].as_good == ("finetune",)
    assert choices[0].sparsities == (0.8, 0.95)


def test_an_arm_without_a_result_at_one_sparsity_is_no_answer_and_still_a_rival_elsewhere() -> None:
    rows = study({"ticket": 80.0, "finetune": 75.0}) + study({"finetune": 75.0, "reinit": 70.0}, sparsity=0.95)
    standings, [choice] = equivalence(rows, RULE)
    assert set(choice.p_holm) == {"finetune"}
    assert choice.as_good == ()  # at 80 % the ticket is better
    assert {(row.sparsity, row.arm) for row in standings} == {
        (0.8, "ticket"),
        (0.8, "finetune"),
        (0.95, "finetune"),
        (0.95, "reinit"),
    }


@pytest.mark.parametrize("fault", ["diverged", "chance"])
def test_an_arm_of_which_a_seed_failed_is_no_candidate(fault: str) -> None:
    rows = study({"ticket": 80.0, "finetune": 80.1})
    change = {"diverged": True} if fault == "diverged" else {"test_accuracy": 10.0, "score": 10.0}
    rows[0] = dataclasses.replace(rows[0], **change)  # type: ignore[arg-type]
    standings, choice = judged(rows, chance=10.0)
    assert set(standings) == {"finetune"}
    assert choice.as_good == ()  # nothing to compare it with


def test_controls_are_compared_and_never_chosen() -> None:
    rows = study({"ticket": 80.0, "finetune": 80.1, "scratch_long": 85.0})
    standings, choice = judged(rows, controls=("scratch_long",))
    assert standings["scratch_long"].control
    assert standings["scratch_long"].difference == pytest.approx(4.9)
    assert standings["scratch_long"].best == "finetune"
    assert choice.as_good == ("finetune", "ticket")


def test_the_cheapest_of_the_equals_by_the_ledger_comes_first() -> None:
    rows = study({"ticket": 80.0, "finetune": 80.1, "rewind": 80.0})
    spent = [
        Spent(0.1, "iterative", 0.8, arm, 5, 10, epochs)
        for arm, epochs in (("ticket", 5), ("finetune", 5), ("rewind", 4))
    ]
    _, choice = judged(rows, budget=spent)
    assert choice.as_good == ("rewind", "finetune", "ticket")


def test_lower_is_better_gives_the_mirrored_answer() -> None:
    metric = dataclasses.replace(RULE.metric, name="error", higher_is_better=False)
    rows = study({"ticket": 80.0, "finetune": 80.1, "reinit": 78.0})
    mirrored = [dataclasses.replace(row, test_accuracy=None, score=-(row.score or 0.0)) for row in rows]
    standings, [choice] = equivalence(rows, RULE)
    turned, [other] = equivalence(mirrored, dataclasses.replace(RULE, metric=metric))
    assert (other.as_good, other.p_holm, other.leads) == (choice.as_good, choice.p_holm, choice.leads)
    for row, there in zip(standings, turned, strict=True):
        assert (there.arm, there.best, there.as_good, there.p) == (row.arm, row.best, row.as_good, row.p)
        assert there.difference == pytest.approx(-row.difference)


def test_one_training_under_two_names_is_as_good_as_itself() -> None:
    rows = study({"ticket": 80.0})
    _, choice = judged([*rows, *(dataclasses.replace(row, arm="rewind") for row in rows)])
    assert choice.as_good == ("ticket", "rewind")


def test_trivial_sparsities_do_not_count() -> None:
    rows = study({"ticket": 80.0, "finetune": 70.0}, sparsity=0.2) + study({"ticket": 80.0, "finetune": 80.1})
    _, [choice] = equivalence(rows, RULE)
    assert choice.sparsities == (0.8,)
    assert choice.as_good == ("finetune", "ticket")


def test_the_rate_with_the_best_scores_comes_first() -> None:
    rows = study({"ticket": 80.0, "finetune": 80.1}) + study({"ticket": 70.0, "finetune": 70.1}, rate=0.01)
    _, choices = equivalence(rows, RULE)
    assert [choice.learning_rate for choice in choices] == [0.1, 0.01]


def test_false_answers_are_as_rare_as_alpha_promises() -> None:
    """Two arms exactly the margin behind a third: calling either as good is an error, of at most 5 % in all."""
    draws = np.random.default_rng(0).normal(size=(2000, 3, SEEDS))
    means = {"finetune": 80.5, "ticket": 80.0, "rewind": 80.0}
    wrong = 0
    for noise in draws:
        rows = [
            trial(arm, seed, mean + 0.3 * noise[i, seed])
            for i, (arm, mean) in enumerate(means.items())
            for seed in range(SEEDS)
        ]
        [choice] = equivalence(rows, RULE)[1]
        wrong += bool({"ticket", "rewind"} & set(choice.as_good))
    assert wrong <= 0.05 * 2000 + 3 * (0.05 * 0.95 * 2000) ** 0.5  # three standard errors of the simulation


def test_a_planted_study_has_a_row_for_every_arm_and_place() -> None:
    results = planted(masks=("iterative", "one_shot"))
    standings, choices = equivalence(results.trials, RULE, controls=results.controls, budget=results.budget)
    places = {
        (row.learning_rate, row.mask, row.sparsity, row.arm)
        for row in results.trials
        if row.mask and row.sparsity >= 0.5
    }
    assert {(row.learning_rate, row.mask, row.sparsity, row.arm) for row in standings} == places
    assert len(choices) == 4


def test_a_rate_without_a_candidate_at_the_highest_sparsities_does_not_lead() -> None:
    results = planted()
    guessing = [
        dataclasses.replace(trial, test_accuracy=10.0, score=10.0)
        if trial.learning_rate == 0.1 and trial.sparsity > 0.8
        else trial
        for trial in results.trials
    ]
    _, choices = equivalence(guessing, outputs=10, controls=results.controls, budget=results.budget)
    assert [(choice.learning_rate, len(choice.sparsities)) for choice in choices] == [(0.01, 4), (0.1, 2)]
