import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest

from prunetune.analysis.pairing import Evidence
from prunetune.analysis.verdict import judge
from prunetune.rows import Trial
from tests.support.refusals import refused
from tests.support.verdict_trials import missing, one, planted, said, spread, study, trial


def changed(trials: Sequence[Trial], arm: str, seed: int, **values: object) -> list[Trial]:
    return [
        dataclasses.replace(row, **values) if (row.arm, row.seed) == (arm, seed) else row  # type: ignore[arg-type]
        for row in trials
    ]


@pytest.mark.parametrize(
    "values", [{"diverged": True}, {"test_accuracy": None, "score": None}, {"test_accuracy": math.nan}]
)
def test_a_diverged_ticket_is_named_left_out_and_forbids_a_yes(values: dict[str, object]) -> None:
    trials = planted({0.75: ("yes", "yes")})
    assert one(trials).winning_property == "holds"
    verdict = one(changed(trials, "ticket", 3, **values))
    [test] = verdict.tests
    assert (test.dense.n, test.dense.seeds, test.dense.answer) == (4, (0, 1, 2, 4), "undecided")
    assert test.dense.withheld
    assert (verdict.winning_property, verdict.seeds_needed) == ("inconclusive", None)
    assert "ticket at sparsity 75 % diverged in seed 3: left out of the means" in said(verdict)
    # The others fall short all the same: leaving out a diverged one cannot be what shows it.
    assert one(changed(planted({0.75: ("no", "yes")}), "ticket", 3, **values)).winning_property == "fails"


def test_a_diverged_baseline_costs_a_pair_and_is_named() -> None:
    for arm, name in (("reinit", "reinit at sparsity 75 %"), ("dense", "dense at learning rate 0.1")):
        verdict = one(changed(planted({0.75: ("yes", "yes")}), arm, 2, diverged=True, test_accuracy=10.0))
        assert verdict.winning_property == "holds"
        assert f"{name} diverged in seed 2: left out of the means" in said(verdict)
    assert verdict.tests[0].dense.n == 4


def test_a_ticket_whose_mask_had_no_source_counts_as_diverged_and_a_failure_does_not() -> None:
    sparse = planted({0.75: ("yes", "yes")})
    trials = [row for row in sparse if row.arm == "dense" or row.seed != 1]
    gone = [missing(arm, 1, 0.75, failed=False) for arm in ("ticket", "reinit")]
    verdict = one(trials, missing=gone)
    assert verdict.winning_property == "inconclusive"
    assert "could not start, a training that it builds on having diverged, in seed 1" in said(verdict)
    failed = one(trials, missing=[missing(arm, 1, 0.75, failed=True) for arm in ("ticket", "reinit")])
    assert failed.winning_property == "holds"
    assert failed.tests[0].reinit.n == 4
    assert "ticket at sparsity 75 % has no result in seed 1" in said(failed)


def test_a_reinit_stuck_at_chance_beats_nothing_and_is_beaten_by_nothing() -> None:
    trials = changed(planted({0.75: ("yes", "yes")}), "reinit", 4, test_accuracy=10.4)
    assert one(trials).tests[0].reinit.n == 5  # without the number of classes nobody knows
    verdict = one(trials, outputs=10)
    [test] = verdict.tests
    assert (test.reinit.n, test.reinit.answer, test.dense.answer) == (4, "undecided", "yes")
    assert test.reinit.mean == pytest.approx(np.mean(spread(2.0, 0.3)[:4]))
    assert "the baseline reinit at sparsity 75 % is stuck at chance in seed 4" in said(verdict)
    assert "a baseline is stuck at chance" in verdict.outlook
    # 11.0 % is above the noise of 10,000 test images, 10 + 3 * 0.3; of 1,000 images it is not, 10 + 3 * 0.95.
    above = changed(trials, "reinit", 4, test_accuracy=11.0)
    assert one(above, outputs=10).tests[0].reinit.n == 5
    assert one(above, outputs=10, test_images=1000).tests[0].reinit.n == 4


def test_a_dense_network_stuck_at_chance_is_nothing_to_match() -> None:
    trials = changed(planted({0.75: ("yes", "yes")}), "dense", 0, test_accuracy=10.0)
    verdict = one(trials, outputs=10)
    assert (verdict.tests[0].dense.answer, verdict.winning_property) == ("undecided", "inconclusive")


def test_a_ticket_at_chance_is_a_result_and_counts() -> None:
    rows = study({0.9: [-80.0, -80.3, -80.6, -80.9]}, {0.9: spread(-60, 0.3, 4)})
    verdict = one(rows, outputs=10)
    assert (verdict.winning_property, verdict.tests[0].dense.n) == ("fails", 4)
    assert "ticket at sparsity 90 % is no better than guessing in seeds 0, 1, 2 and 3: counted" in said(verdict)


def test_repeated_rows_add_no_evidence_and_contradictions_are_refused() -> None:
    trials = planted({0.5: ("yes", "undecided"), 0.75: ("undecided", "yes")})
    assert judge([*trials, *trials]) == judge(trials)
    with refused("trials", "50", "0", "twice"):
        judge([*trials, trial("ticket", 0, 12.0, 0.5)])


def test_one_training_under_two_names_is_no_sign_that_seeds_do_not_reach_it() -> None:
    """The first round of iterative pruning is the one-shot mask's training: equal because it is the same."""
    rows = [
        trial("finetune", seed, 80.0 + seed, 0.5, 0.1, mask) for mask in ("iterative", "one_shot") for seed in (0, 1)
    ]
    pair = [("finetune", mask, 0.1, 0.5) for mask in ("iterative", "one_shot")]
    assert "same in all seeds" in str(Evidence(rows).pairs(*pair).notes)
    shared = [dataclasses.replace(row, key=f"of seed {row.seed}") for row in rows]
    assert Evidence(shared).pairs(*pair).notes == ()
    assert Evidence(shared).pairs(*pair).differences == (0.0, 0.0)
