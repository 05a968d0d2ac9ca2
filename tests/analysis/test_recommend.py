import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prunetune.analysis.recommend import Recommendation, Rule, recommend
from prunetune.rows import Trial
from tests.support.verdict_trials import missing, trial

Table = dict[tuple[str, str, float], Sequence[float]]  # (arm, mask, rate) -> accuracy by seed

FINETUNE = [84.0, 85.0, 84.6, 84.9, 85.2]
REWIND = [83.1, 84.4, 83.9, 83.8, 84.6]
CLOSE = [84.3, 84.6, 84.9, 84.5, 85.2]


def trials_of(table: Table, sparsity: float = 0.75) -> list[Trial]:
    return [
        trial(arm, seed, accuracy, sparsity, rate, mask)
        for (arm, mask, rate), accuracies in table.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def only(trials: Sequence[Trial], **more: object) -> Recommendation:
    [row] = recommend(trials, **more)  # type: ignore[arg-type]
    return row


def test_the_best_mean_wins_with_scipys_paired_interval_over_the_runner_up() -> None:
    table: Table = {
        ("rewind", "iterative", 0.1): REWIND,
        ("finetune", "admm", 0.1): FINETUNE,
        ("ticket", "iterative", 0.01): [80.0] * 5,
    }
    row = only(trials_of(table))
    interval = stats.ttest_rel(FINETUNE, REWIND).confidence_interval(0.95)
    assert (row.arm, row.mask, row.learning_rate, row.sparsity) == ("finetune", "admm", 0.1, 0.75)
    assert row.accuracy == pytest.approx(np.mean(FINETUNE))
    assert row.runner_up == "rewind (iterative masks, learning rate 0.1)"
    assert row.difference == pytest.approx(np.mean(FINETUNE) - np.mean(REWIND))
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert not row.tie
    wider = stats.ttest_rel(FINETUNE, REWIND).confidence_interval(0.99)
    assert only(trials_of(table), rule=Rule(alpha=0.01)).low == pytest.approx(wider.low)


def test_an_interval_that_holds_zero_is_a_tie() -> None:
    row = only(trials_of({("finetune", "iterative", 0.1): FINETUNE, ("rewind", "iterative", 0.1): CLOSE}))
    assert (row.arm, row.difference) == ("finetune", pytest.approx(0.04))
    assert row.tie


def test_the_same_training_under_two_names_is_a_tie() -> None:
    row = only(trials_of({("ticket", "iterative", 0.1): FINETUNE, ("rewind", "iterative", 0.1): FINETUNE}))
    assert (row.difference, row.low, row.high, row.tie) == (0.0, 0.0, 0.0, True)


def test_controls_and_the_dense_network_are_never_recommended() -> None:
    best = [99.0] * 5
    table: Table = {(arm, "iterative", 0.1): best for arm in ("shuffle", "sign_reinit", "random_mask")}
    table[("ticket", "iterative", 0.1)] = FINETUNE
    trials = [*trials_of(table), *(trial("dense", seed, 99.0) for seed in range(5))]
    row = only(trials, controls=("shuffle", "sign_reinit", "random_mask"))
    assert (row.arm, row.runner_up, row.difference, row.low, row.tie) == ("ticket", None, None, None, False)
    assert only(trials, controls=("ticket", "sign_reinit", "random_mask")).arm == "shuffle"


def test_a_candidate_needs_every_seed_and_the_others_are_named() -> None:
    table: Table = {("finetune", "iterative", 0.1): FINETUNE, ("rewind", "iterative", 0.1): REWIND}
    trials = trials_of({**table, ("ticket", "iterative", 0.1): [99.0] * 5, ("reinit", "iterative", 0.1): [98.0] * 4})
    trials = [row for row in trials if row.arm != "ticket" or row.seed != 2]
    trials.append(trial("ticket", 2, 99.0, 0.75, diverged=True))
    row = only(trials, missing=[missing("reinit", 4, 0.75, failed=True)])
    assert row.arm == "finetune"
    assert row.left_out == (
        "reinit (iterative masks, learning rate 0.1) has no result in seed 4",
        "ticket (iterative masks, learning rate 0.1) diverged in seed 2",
    )


def test_one_seed_cannot_tell_two_arms_apart() -> None:
    row = only(trials_of({("finetune", "iterative", 0.1): [90.0], ("rewind", "iterative", 0.1): [80.0]}))
    assert (row.difference, row.low, row.high, row.tie) == (10.0, None, None, True)


def test_nothing_is_recommended_that_did_not_learn_or_did_not_finish() -> None:
    guessing = trials_of({("ticket", "iterative", 0.1): [10.0, 10.1]})
    assert recommend(guessing, outputs=10) == ()
    assert only(guessing).arm == "ticket"  # without the number of classes nobody knows
    assert recommend([trial("ticket", 0, math.nan, 0.75)]) == ()
    assert recommend([]) == ()


def test_every_sparsity_has_its_own_and_rows_are_sorted() -> None:
    table: Table = {("finetune", "iterative", 0.1): FINETUNE, ("rewind", "iterative", 0.1): REWIND}
    other: Table = {("finetune", "iterative", 0.1): REWIND, ("rewind", "iterative", 0.1): FINETUNE}
    rows = recommend([*trials_of(other, 0.9), *trials_of(table, 0.3)])
    assert [(row.sparsity, row.arm) for row in rows] == [(0.3, "finetune"), (0.9, "rewind")]


def test_the_order_of_rows_changes_nothing() -> None:
    trials = trials_of({(arm, "iterative", rate): FINETUNE for arm in ("ticket", "rewind") for rate in (0.01, 0.1)})
    assert recommend(trials) == recommend(trials[::-1])


def test_held_out_images_choose_and_test_images_report() -> None:
    """The one that looks best on the test images is not the one chosen; its lead on them is what is reported."""
    table: Table = {("rewind", "iterative", 0.1): REWIND, ("finetune", "iterative", 0.1): FINETUNE}
    held_out = {"rewind": 90.0, "finetune": 89.0}
    chosen = only([replace(row, validation_accuracy=held_out[row.arm]) for row in trials_of(table)])
    assert chosen.arm == "rewind"
    assert chosen.accuracy == pytest.approx(np.mean(REWIND))
    assert chosen.difference == pytest.approx(np.mean(REWIND) - np.mean(FINETUNE))
    assert chosen.high is not None
    assert chosen.high < 0
    assert chosen.tie  # a candidate that the test images put behind the runner-up has no lead


def test_a_held_out_accuracy_that_some_seeds_lack_chooses_nothing() -> None:
    table: Table = {("rewind", "iterative", 0.1): REWIND, ("finetune", "iterative", 0.1): FINETUNE}
    known = {"rewind": 99.0}
    rows = [replace(row, validation_accuracy=known.get(row.arm) if row.seed else None) for row in trials_of(table)]
    assert only(rows).arm == "finetune"


def test_the_runner_up_is_another_training_and_not_the_best_under_another_name() -> None:
    table: Table = {
        ("finetune", "iterative", 0.1): FINETUNE,
        ("finetune", "one_shot", 0.1): FINETUNE,
        ("rewind", "iterative", 0.1): REWIND,
    }
    shared = [replace(row, key=f"{row.arm}-{row.seed}") for row in trials_of(table)]
    row = only(shared)
    assert (row.arm, row.mask) == ("finetune", "iterative")
    assert row.runner_up == "rewind (iterative masks, learning rate 0.1)"
    assert only(shared[:10]).runner_up is None
    assert (
        only(trials_of(table)).runner_up == "finetune (one_shot masks, learning rate 0.1)"
    )  # equal, and two trainings
