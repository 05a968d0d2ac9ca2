"""Paper and here, on planted results whose answers are known by hand.

With five seeds, spread(m, 0.3) has standard deviation 0.23717, so bounds m -+ 2.13185 * 0.10607 = m -+ 0.22612.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from prunetune.analysis.paper import published_numbers as module
from prunetune.analysis.paper.check_claims import PaperRow, paper_rows
from prunetune.analysis.paper.claim_rules import number, overlap
from prunetune.analysis.paper.published_numbers import published
from prunetune.analysis.paper.scale import KAPPA, Scale, kappas
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import judge
from prunetune.report.write_report import write_report
from prunetune.rows import Correlation, Results, Trial
from prunetune.spec.load import load_spec
from tests.support.planted import planted
from tests.support.verdict_trials import spread, trial

REACH = 0.22612
PAPER_STEPS = {"epochs": 150, "steps": 150 * 391}  # at weight decay 1e-4: κ 3.30 at rate 0.1, 0.33 at 0.01
OTHER = "not tested at this scale"
SERIES = {3: 0.385875, 6: 0.622850484375}  # rounds of 15 %


def accuracies(arm: str, mean: float, *where: Any, width: float = 0.3) -> list[Trial]:
    return [trial(arm, seed, value, *where) for seed, value in enumerate(spread(mean, width))]


def overlaps(
    pair: str, rate: float, mean: float, mask: str | None = None, at: float = 0.0, p: float = 0.2
) -> list[Any]:
    values = spread(p + mean, 0.003)
    return [Correlation(pair, rate, mask, at, seed, p, value, p) for seed, value in enumerate(values)]


FAR = {0.01: 0.4, 0.1: 0.0}  # R_.2(θ0, θT) less chance, as the paper has it


def regime(rate: float, excess: float) -> list[Correlation]:
    """R_.2(θ0, θT) so far from chance."""
    return overlaps("theta_0/theta_T", rate, excess)


def results(
    trials: Sequence[Trial],
    correlations: Sequence[Correlation] = (),
    preset: str = "paper/fig6-resnet20-cifar10",
    changes: Sequence[str] = (),
    steps: dict[str, int] = PAPER_STEPS,
) -> Results:
    """A study at the paper's settings with R_p(θ0, θT) as in the paper, unless told otherwise."""
    base = planted(seeds=1)
    study = load_spec(preset, changes).resolved()
    there = {(row.learning_rate, row.pair) for row in correlations}
    usual = [row for rate in FAR if (rate, "theta_0/theta_T") not in there for row in regime(rate, FAR[rate])]
    taken = [replace(row, **steps) for row in trials]
    return replace(base, study=study, trials=tuple(taken), correlations=(*correlations, *usual))


def rows(*given: Any, **more: Any) -> list[PaperRow]:
    made = results(*given, **more)
    rule = Rule.of(made.study)
    return list(paper_rows(made, judge(made.trials, rule), rule))


def find(found: Sequence[PaperRow], *words: str) -> PaperRow:
    (row,) = [row for row in found if all(word in f"{row.kind} {row.claim}" for word in words)]
    return row


def figures(row: PaperRow) -> list[float | None]:
    return [row.here, row.low, row.high]


def close(*values: float) -> Any:
    return pytest.approx(values, abs=1e-4)


def test_numbers_one_agrees_one_disagrees_one_is_missing():
    found = rows([*accuracies("dense", 91.8, 0.0, 0.1, None), *accuracies("dense", 88.6, 0.0, 0.01, None)])
    kept = [row for row in found if row.kind == "accuracy"]
    assert [(row.claim, row.published, row.answer, row.n, row.place) for row in kept] == [
        ("accuracy of dense at 0.01, resnet20 on cifar10", 89.62, "disagrees", 5, "dense line, Fig 2"),
        ("accuracy of dense at 0.1, resnet20 on cifar10", 91.7, "agrees", 5, "dense line, Fig 2"),
        (
            "accuracy of ticket at 0.01, iterative masks, 62 %, resnet20 on cifar10",
            90.04,
            "not tested at this scale",
            0,
            "Fig 2",
        ),
    ]
    assert figures(kept[0]) == close(88.6, 88.6 - REACH, 88.6 + REACH)
    assert figures(kept[1]) == close(91.8, 91.8 - REACH, 91.8 + REACH)
    assert figures(kept[2]) == [None, None, None]
    assert kept[2].why == "this study has no ticket with iterative masks at 0.01, at the sparsities that count"
    assert all(row.paper_scale for row in found)


def test_a_number_at_a_whole_percent_is_met_by_its_round_and_no_other():
    trials = accuracies("ticket", 90.04, SERIES[6], 0.01, "iterative") + accuracies(
        "ticket", 10.0, SERIES[3], 0.01, "iterative"
    )
    row = find(rows(trials), "accuracy of ticket")
    assert (row.answer, row.here) == ("agrees", pytest.approx(90.04))


@pytest.mark.parametrize(
    ("off", "answer"),
    [(0.0, "agrees"), (0.27, "agrees"), (0.28, "undecided"), (0.79, "undecided"), (0.80, "disagrees")],
)
def test_a_number_agrees_within_the_margin_on_both_sides(off, answer):
    """Within 0.5: off < 0.5 - 0.2261. Outside, at 0.025 a side (t 2.7764): off > 0.5 + 0.2945."""
    for mean in (91.7 + off, 91.7 - off):
        assert number(spread(mean, 0.3), 91.7, 0.5, 0.05, "").answer == answer


def test_fewer_epochs_at_the_papers_kappa_speak_to_orderings_and_to_no_number():
    trials = [*accuracies("dense", 91.7, 0.0, 0.1, None), *accuracies("dense", 89.62, 0.0, 0.01, None)]
    changes = ["epochs=15", "weight_decay=1e-3", "data_args.train_limit=1000"]
    found = rows(trials, changes=changes, steps={"epochs": 15, "steps": 15 * 391})
    row = find(found, "accuracy of dense at 0.1,")
    assert (row.answer, row.here, row.paper_scale) == ("not tested at this scale", pytest.approx(91.7), False)
    assert row.why == "data_args train_limit 1000; 15 epochs instead of 150"
    order = find(found, "ordering", "the dense network is more accurate")
    assert (order.answer, order.paper_scale) == ("agrees", False)
    assert find(rows(trials), "accuracy of dense at 0.1,").answer == "agrees"


@pytest.mark.parametrize(
    ("decay", "answer"),
    [(1e-4, "agrees"), (5.1e-5, "agrees"), (1.9e-4, "agrees"), (4.9e-5, OTHER), (2.1e-4, OTHER), (0.0, OTHER)],
)
def test_a_claim_is_compared_where_kappa_is_within_a_factor_of_two(decay, answer):
    """κ = 0.33 at 0.01 and 3.30 at 0.1 for a decay of 1e-4, in proportion to the decay."""
    trials = [*accuracies("dense", 91.7, 0.0, 0.1, None), *accuracies("dense", 89.62, 0.0, 0.01, None)]
    found = rows(trials, changes=[f"weight_decay={decay}"])
    assert find(found, "ordering", "the dense network is more accurate").answer == answer
    assert find(found, "accuracy of dense at 0.1,").answer == answer


def test_kappa_is_the_slow_sum_over_the_papers_schedule():
    trials = [*accuracies("dense", 91.7, 0.0, 0.1, None), *accuracies("dense", 89.62, 0.0, 0.01, None)]
    slow = 0.0
    for step in range(150 * 391):
        rate = 0.1 if step < 80 * 391 else 0.01 if step < 120 * 391 else 0.001
        slow += rate * 1e-4 / (1 - 0.9)
    found = kappas(results(trials))
    assert found == {0.01: pytest.approx(slow / 10), 0.1: pytest.approx(slow)}
    assert {rate: round(value or 0.0, 2) for rate, value in found.items()} == KAPPA
    assert kappas(results(trials, changes=["optimizer=adam"])) == {0.01: None, 0.1: None}
    assert kappas(results(trials, changes=["optimizer=adamw"]))[0.1] == pytest.approx(slow / 10)


def test_another_network_or_optimizer_is_not_compared_whatever_kappa_is():
    trials = [*accuracies("dense", 91.7, 0.0, 0.1, None), *accuracies("dense", 89.62, 0.0, 0.01, None)]
    for changes, why in (
        (["model=small"], "model small, which the paper does not have"),
        (["model_args={width: 2}"], "model_args width 2"),
        (["optimizer=adam"], "optimizer adam instead of sgd"),
    ):
        row = find(rows(trials, changes=changes), "ordering", "the dense network is more accurate")
        assert row.answer == OTHER
        assert why in row.why


def test_claims_at_the_desirable_rate_are_conditional_on_chance_overlap():
    """Whatever the accuracies say: with R_.2(θ0, θT) at .5 neither agrees nor disagrees, and the answer has the R_p."""
    for means in ((82.0, 81.0, 80.0), (80.0, 79.0, 82.0)):
        row = find(rows(admm(*means), regime(0.1, 0.3)), "finetune > rewind > ticket")
        assert row.answer == "condition not met"
        assert row.why.endswith("R_.2(θ0, θT) at 0.1 is 0.500 with chance at 0.200, not shown to be within 0.05 of it")
        assert row.here is not None
    assert find(rows(admm(82, 81, 80), regime(0.1, 0.04)), "finetune > rewind > ticket").answer == "agrees"
    assert find(rows(admm(82, 81, 80), regime(0.1, 0.048)), "finetune > rewind > ticket").answer == "condition not met"
    unmeasured = replace(results(admm(82, 81, 80)), correlations=())
    row = find(paper_rows(unmeasured, (), Rule()), "finetune > rewind > ticket")
    assert row.answer == "condition not met"
    assert row.why.endswith("R_.2(θ0, θT) at 0.1 is not measured")


def test_the_condition_is_none_of_what_is_said_of_that_overlap_itself():
    found = rows((), [*regime(0.1, 0.3), *regime(0.01, 0.4)])
    no_dense = accuracies("dense", 91.7, 0.0, 0.1, None)
    assert find(rows(no_dense, regime(0.1, 0.3)), "R_p(theta_0, theta_T) near").answer == "disagrees"
    assert find(found, "R_p(theta_0, theta_T) at 0.01 >").answer == "agrees"
    inside = find(
        rows(no_dense, [*regime(0.1, 0.3), *overlaps("ticket_0/finetune_T", 0.1, 0.3, "one_shot", 0.5)]),
        "ticket_0, finetune_T) near",
    )
    assert inside.answer == "condition not met"


def test_at_the_low_rate_overlap_at_chance_is_another_regime():
    trials = accuracies("dense", 89.0, 0.0, 0.01, None) + accuracies("finetune", 90.0, 0.5, 0.01, "iterative")
    assert find(rows(trials), "finetune ≥ dense at 0.01").answer == "agrees"
    row = find(rows(trials, regime(0.01, 0.02)), "finetune ≥ dense at 0.01")
    assert (row.answer, row.why.split("; ")[-1]) == (
        OTHER,
        "R_.2(θ0, θT) at 0.01 is 0.220 with chance at 0.200, and above it in the paper",
    )


def test_overlap_at_the_low_rate_above_that_at_the_high_one():
    both = [*regime(0.01, 0.1), *regime(0.1, 0.0)]
    row = find(rows((), both), "theta_0, theta_T) at 0.01 > at 0.1")
    assert (row.answer, row.published, row.here) == ("agrees", "superiority", pytest.approx(0.1))
    row = find(rows((), [*regime(0.01, 0.06), *regime(0.1, 0.4)]), "theta_0, theta_T) at 0.01 > at 0.1")
    assert row.answer == "disagrees"
    assert figures(row) == close(-0.34, -0.34, -0.34)


def admm(finetune: float, rewind: float, ticket: float) -> list[Trial]:
    """Three arms with these means; seeds move together, so that a difference is spread by ± 0.3 around its mean."""
    cells = {"finetune": (finetune, 0.6), "rewind": (rewind, 0.3), "ticket": (ticket, 0.0)}
    return [
        row
        for arm, (mean, width) in cells.items()
        for row in accuracies(arm, mean, SERIES[6], 0.1, "admm", width=width)
    ]


@pytest.mark.parametrize(
    ("means", "answer", "here", "step"),
    [
        ((80.0, 79.0, 78.7), "agrees", 0.3, "rewind − ticket at 62.29 %"),  # 0.3 - 0.2261 > 0
        ((80.0, 79.0, 78.8), "undecided", 0.2, "rewind − ticket at 62.29 %"),
        ((80.0, 80.1, 78.0), "undecided", -0.1, "finetune − rewind at 62.29 %"),
        ((80.0, 79.0, 79.29), "undecided", -0.29, "rewind − ticket at 62.29 %"),  # at 0.05 it would: -0.064
        ((80.0, 79.0, 79.3), "disagrees", -0.3, "rewind − ticket at 62.29 %"),  # at 0.025: -0.3 + 0.2945 < 0
    ],
)
def test_a_superiority_by_its_worst_step(means, answer, here, step):
    row = find(rows(admm(*means)), "finetune > rewind > ticket")
    assert (row.answer, row.why, row.published, row.place) == (answer, step, "superiority", "Fig A13")
    assert figures(row) == close(here, here - REACH, here + REACH)


@pytest.mark.parametrize(
    ("off", "answer"),
    [(0.5, "agrees"), (-0.27, "agrees"), (-0.28, "undecided"), (-0.72, "undecided"), (-0.73, "disagrees")],
)
def test_a_non_inferiority_within_the_margin(off, answer):
    """One step: -0.5 < off - 0.2261 agrees; off + 0.2261 < -0.5 disagrees."""
    trials = accuracies("dense", 89.0, 0.0, 0.01, None, width=0.0)
    trials += accuracies("finetune", 89.0 + off, 0.5, 0.01, "iterative")
    row = find(rows(trials), "finetune ≥ dense at 0.01")
    assert (row.answer, row.published) == (answer, "non-inferiority")


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("off", "answer"),
    [(0.0, "agrees"), (0.27, "agrees"), (0.28, "undecided"), (0.79, "undecided"), (0.80, "disagrees")],
)
def test_an_equivalence_within_the_gap_on_both_sides(off, answer, sign):
    """One step: off + 0.2261 < 0.5 agrees; off - 0.2945 > 0.5 disagrees (0.025 a side)."""
    trials = accuracies("reinit", 89.0, 0.5, 0.1, "admm", width=0.0)
    trials += accuracies("ticket", 89.0 + sign * off, 0.5, 0.1, "admm")
    row = find(rows(trials), "ticket ≈ reinit, ADMM")
    assert (row.answer, row.published) == (answer, "equivalence")
    assert figures(row) == close(sign * off, sign * off - REACH, sign * off + REACH)


def test_a_diverged_arm_leaves_an_equivalence_undecided():
    trials = accuracies("reinit", 89.0, 0.5, 0.1, "admm", width=0.0) + accuracies("ticket", 89.0, 0.5, 0.1, "admm")
    lost = [replace(row, diverged=True) if (row.arm, row.seed) == ("ticket", 2) else row for row in trials]
    assert find(rows(lost), "ticket ≈ reinit, ADMM").answer == "undecided"


def test_the_best_low_rate_ticket_is_held_against_the_dense_network_at_every_sparsity():
    dense = accuracies("dense", 91.7, 0.0, 0.1, None, width=0.0)
    low = [row for at in (0.15, 0.6) for row in accuracies("ticket", 90.0, at, 0.01, "iterative")]
    assert find(rows(dense + low), "best ticket at 0.01").answer == "agrees"
    row = find(rows(dense + low + accuracies("ticket", 92.5, 0.9, 0.01, "iterative")), "best ticket at 0.01")
    assert (row.answer, row.why, row.here) == (
        "disagrees",
        "dense at 0.1 − ticket at 0.01, 90 %",
        pytest.approx(-0.8),
    )


def test_an_ordering_without_one_of_its_arms_or_with_one_seed_is_not_tested():
    two = [row for row in admm(80, 79, 78) if row.arm != "rewind"]
    row = find(rows(two + accuracies("dense", 91.7, 0.0, 0.1, None)), "finetune > rewind > ticket")
    assert (row.answer, row.here) == ("not tested at this scale", None)
    assert row.why == "this study has no rewind with admm masks at 0.1, at the sparsities that count"
    single = find(rows([row for row in admm(80, 79, 78) if row.seed == 0]), "finetune > rewind > ticket")
    assert (single.answer, single.n) == ("not tested at this scale", 1)
    assert single.why == "one seed is never a verdict"


def test_a_diverged_first_arm_does_not_agree():
    trials = [
        replace(row, diverged=True) if (row.arm, row.seed) == ("finetune", 3) else row for row in admm(82, 79, 77)
    ]
    row = find(rows(trials), "finetune > rewind > ticket")
    assert row.answer == "undecided"
    assert "diverged in seed 3" in row.why


def test_the_mask_algorithms_in_order():
    cells = {"admm": (80.0, 0.6), "iterative": (79.0, 0.3), "one_shot": (81.0, 0.0)}
    trials = [
        row for mask, (mean, width) in cells.items() for row in accuracies("ticket", mean, 0.5, 0.1, mask, width=width)
    ]
    row = find(rows(trials), "ADMM > iterative > one-shot, ticket")
    assert (row.answer, row.why) == ("disagrees", "ticket (iterative) − ticket (one_shot) at 50 %")
    assert row.here == pytest.approx(-2.0)


def test_finetune_at_least_dense_up_to_a_sparsity_concerns_its_network_and_range_only():
    dense = accuracies("dense", 91.7, 0.0, 0.1, None, width=0.0)
    sparse = [(0.1, 91.7), (0.6795, 91.7), (0.7275, 80.0)]
    trials = dense + [row for at, mean in sparse for row in accuracies("finetune", mean, at, 0.1, "iterative")]
    assert find(rows(trials), "finetune ≥ dense up to 70 %").answer == "agrees"
    assert not [row for row in rows(trials) if "85 %" in row.claim]
    other = rows(trials, preset="paper/a8-mobilenetv2-cifar100")
    assert find(other, "up to 85 %, iterative").answer == "disagrees"
    small = rows(trials, changes=["epochs=15"], steps={"epochs": 15, "steps": 15 * 391})
    row = find(small, "finetune ≥ dense up to 70 %")
    assert (row.answer, row.why.split("; ")[1]) == (OTHER, "κ 0.33 at rate 0.1, the paper's 3.3")


def test_overlap_of_the_dense_pair_at_both_rates():
    pair = "theta_0/theta_T"
    values = [row for p in (0.1, 0.2) for row in overlaps(pair, 0.01, 0.30 + p, p=p)]
    values += [row for p in (0.1, 0.2) for row in overlaps(pair, 0.1, 0.02 + p, p=p)]
    found = rows((), values)
    high, low = (find(found, "theta_0, theta_T", f"chance at {rate}") for rate in ("0.01", "0.1"))
    assert (high.published, high.answer, high.why) == ("above", "agrees", "p = 0.1")
    assert figures(high) == close(0.40, 0.40 - 0.00226, 0.40 + 0.00226)
    assert (low.published, low.answer, low.why) == ("near", "disagrees", "p = 0.2")
    assert figures(low) == close(0.22, 0.22 - 0.00226, 0.22 + 0.00226)


def test_sparse_overlaps_count_between_a_quarter_and_three_quarters():
    near, far = 0.01, 0.3
    values = overlaps("ticket_0/finetune_T", 0.1, near, "one_shot", 0.5) + overlaps(
        "ticket_0/finetune_T", 0.1, far, "one_shot", 0.9
    )
    assert find(rows((), values), "ticket_0", "at 0.1").answer == "agrees"
    values += overlaps("ticket_0/finetune_T", 0.1, far, "iterative", 0.7)
    row = find(rows((), values), "ticket_0", "at 0.1")
    assert (row.answer, row.why) == ("disagrees", "iterative masks at 70 %")
    assert find(rows((), values), "ticket_0", "at 0.01").answer == "not tested at this scale"


@pytest.mark.parametrize(
    ("mean", "expected", "answer"),
    [
        (0.053, "above", "agrees"),
        (0.052, "above", "undecided"),
        (0.047, "near", "agrees"),
        (0.048, "near", "undecided"),
        (0.054, "near", "disagrees"),
        (0.040, "above", "disagrees"),
        (-0.047, "near", "agrees"),
        (-0.054, "near", "disagrees"),
    ],
)
def test_the_limits_of_above_and_near(mean, expected, answer):
    """One place, spread ± 0.003: bounds ∓ 0.00226, two-sided ∓ 0.00294."""
    assert overlap([("here", spread(mean, 0.003))], expected, 0.05, 0.05).answer == answer


def test_table_a1_columns_claims_and_numbers():
    values = overlaps("finetune_T/theta_0", 0.1, 0.004, "admm", 0.5) + overlaps(
        "finetune_T/theta_T", 0.1, 0.20, "admm", 0.5
    )
    found = rows((), values, preset="paper/table-a1-resnet20-cifar100")
    first, second = (find(found, "correlation", pair) for pair in ("theta_0", "theta_T"))
    assert (first.published, first.answer, first.here) == (0.2036, "agrees", pytest.approx(0.204))
    assert (second.published, second.answer, second.here) == (0.6397, "disagrees", pytest.approx(0.40))
    assert find(found, "overlap", "finetune_T, theta_0").answer == "agrees"
    assert find(found, "overlap", "finetune_T, theta_T").answer == "agrees"


def test_the_winning_property_is_the_verdict():
    dense = [(0.01, 70.0), (0.1, 80.0)]
    trials = [row for rate, level in dense for row in accuracies("dense", level, 0.0, rate, None, width=0.0)]
    trials += accuracies("ticket", 70.5, 0.5, 0.01, "iterative") + accuracies("reinit", 67.0, 0.5, 0.01, "iterative")
    trials += accuracies("ticket", 77.0, 0.5, 0.1, "iterative") + accuracies("reinit", 74.0, 0.5, 0.1, "iterative")
    found = rows(trials)
    low, high = find(found, "winning", "at 0.01"), find(found, "winning", "at 0.1, iterative")
    assert (low.published, low.answer, low.why) == ("holds", "agrees", "holds; ticket − dense at 50 %")
    assert (high.published, high.answer, high.why) == ("fails", "agrees", "fails; ticket − dense at 50 %")
    assert figures(high) == close(-3.0, -3.0 - REACH, -3.0 + REACH)
    without = [
        replace(row, test_accuracy=80.0) if (row.arm, row.learning_rate) == ("ticket", 0.1) else row for row in trials
    ]
    assert find(rows(without), "winning", "at 0.1, iterative").answer == "disagrees"


@pytest.mark.parametrize("mask", ["admm", "one_shot"])
def test_no_winning_property_at_the_desirable_rate_under_the_other_masks_either(mask):
    trials = accuracies("dense", 80.0, 0.0, 0.1, None, width=0.0) + accuracies("reinit", 74.0, 0.5, 0.1, mask)
    lost, won = (trials + accuracies("ticket", mean, 0.5, 0.1, mask) for mean in (77.0, 80.5))
    row = find(rows(lost), "winning", f"at 0.1, {mask}")
    assert (row.published, row.answer, row.place) == ("fails", "agrees", "Fig 6, A7–10")
    assert find(rows(won), "winning", f"at 0.1, {mask}").answer == "disagrees"
    assert find(rows(won, regime(0.1, 0.3)), "winning", f"at 0.1, {mask}").answer == "condition not met"


def test_the_exception_that_the_paper_states_itself():
    """MobileNet-V2 on CIFAR-100 at 0.01: no winning property, and the ticket below the dense network."""
    trials = accuracies("dense", 73.1, 0.0, 0.01, None, width=0.0) + accuracies("reinit", 68.0, 0.5, 0.01, "iterative")
    trials += accuracies("ticket", 71.0, 0.5, 0.01, "iterative")
    found = rows(trials, preset="paper/a1-mobilenetv2-cifar100")
    low = find(found, "winning", "at 0.01")
    assert (low.published, low.answer, low.place) == ("fails", "agrees", "Fig A1")
    assert find(found, "ordering", "does not restore the baseline").answer == "agrees"
    elsewhere = rows(trials, preset="paper/a1-resnet20-cifar100")
    assert (find(elsewhere, "winning", "at 0.01").published, find(elsewhere, "winning", "at 0.01").answer) == (
        "holds",
        "disagrees",
    )
    assert not [row for row in elsewhere if "restore" in row.claim]


@pytest.mark.parametrize("mask", ["iterative", "admm"])
def test_vgg_holds_up_to_about_85_percent(mask):
    dense = accuracies("dense", 69.8, 0.0, 0.1, None, width=0.0)
    sparse = [
        row
        for at, mean in ((0.1, 69.9), (0.85, 69.8), (0.8578, 60.0))
        for row in accuracies("finetune", mean, at, 0.1, mask)
    ]
    row = find(
        rows(dense + sparse, preset="paper/a10-vgg11-cifar100"),
        "up to about 85 %",
        "iterative" if mask == "iterative" else "ADMM",
    )
    assert (row.answer, row.published, row.place) == ("agrees", "non-inferiority", "Fig A10")


def test_a_study_that_bears_on_nothing_has_no_section(tmp_path):
    trials = accuracies("dense", 91.7, 0.0, 0.05, None)
    silent = replace(results(trials), correlations=())
    assert (
        paper_rows(silent, (), Rule())
        == paper_rows(replace(results(trials, preset="quick"), correlations=()), (), Rule())
        == ()
    )
    report = write_report(silent, tmp_path)
    assert "Paper and here" not in report.page.read_text()
    assert json.loads((tmp_path / "results.json").read_text())["paper"] == []


def test_page_and_file_have_the_rows(tmp_path):
    trials = [*accuracies("dense", 91.7, 0.0, 0.1, None), *accuracies("dense", 89.62, 0.0, 0.01, None)]
    made = results(trials, changes=["epochs=15", "weight_decay=1e-3"], steps={"epochs": 15, "steps": 15 * 391})
    page = write_report(made, tmp_path).page.read_text()
    found = json.loads((tmp_path / "results.json").read_text())["paper"]
    assert list(found[0]) == [
        "kind",
        "place",
        "claim",
        "published",
        "here",
        "low",
        "high",
        "n",
        "answer",
        "paper_scale",
        "why",
    ]
    assert 'id="paper"' in page
    section = page[page.index('id="paper"') : page.index('id="trials"')]
    assert "15 epochs instead of 150" in section
    assert section.count("<tr>") == len(found) + 1
    assert '<span class="answer" data-answer="agrees">agrees</span>' in section


def test_the_scale_of_presets_and_of_what_is_not_the_papers():
    for name in ("paper/fig2-resnet20-cifar10", "paper/table-a1-vgg11-cifar10"):
        trials = accuracies("dense", 91.7, 0.0, 0.1, None)
        assert Scale.of(results(trials, preset=name, changes=["data_args.root=/x"])).phrases == ()
    changed = ["epochs=30", "augment=[]", "batch_size=64", "schedule.milestones=[10]", "rewind=1ep", "model=small"]
    few = results(
        accuracies("dense", 91.7, 0.0, 0.1, None)[:2], changes=changed, steps={"epochs": 30, "steps": 30 * 391}
    )
    phrases = Scale.of(few).phrases
    assert phrases == (
        "model small, which the paper does not have",
        "30 epochs instead of 150",
        "batch_size 64 instead of 128",
        "milestones 10 of 30 epochs",
        "augmentation none instead of crop, flip",
        "rewind to 1ep instead of 2ep",
        "κ 0.47 at rate 0.1, the paper's 3.3",
        "2 seeds instead of 5",
    )


def test_the_file_holds_what_the_paper_publishes():
    known = published()
    dense = {(row.model, row.data, row.cell.learning_rate): row.value for row in known.accuracies if not row.sparsity}
    assert dense == {
        ("resnet20", "cifar10", 0.01): 89.62, ("resnet20", "cifar10", 0.1): 91.7,
        ("resnet20", "cifar100", 0.01): 63.10, ("resnet20", "cifar100", 0.1): 67.15,
        ("mobilenetv2", "cifar10", 0.01): 92.20, ("mobilenetv2", "cifar10", 0.1): 93.86,
        ("mobilenetv2", "cifar100", 0.01): 73.10, ("mobilenetv2", "cifar100", 0.1): 74.76,
        ("vgg11", "cifar100", 0.01): 67.74, ("vgg11", "cifar100", 0.1): 69.83,
    }  # fmt: skip
    table = {(row.model, row.data, row.pair.partition("/")[2]): row.value for row in known.correlations}
    assert table == {
        ("resnet20", "cifar100", "theta_0"): 0.2036, ("resnet20", "cifar100", "theta_T"): 0.6397,
        ("mobilenetv2", "cifar100", "theta_0"): 0.2011, ("mobilenetv2", "cifar100", "theta_T"): 0.6471,
        ("vgg11", "cifar100", "theta_0"): 0.2041, ("vgg11", "cifar100", "theta_T"): 0.4932,
        ("mobilenetv2", "cifar10", "theta_0"): 0.2026, ("mobilenetv2", "cifar10", "theta_T"): 0.4936,
        ("vgg11", "cifar10", "theta_0"): 0.2021, ("vgg11", "cifar10", "theta_T"): 0.4808,
    }  # fmt: skip
    raw = yaml.safe_load(module.FILE.read_text())
    assert {name: len(rows) for name, rows in raw.items()} == {
        "accuracies": 12, "correlations": 10, "winning": 5, "overlaps": 8, "overlap_orders": 1, "orderings": 20
    }  # fmt: skip
    kinds = Counter((row.kind, row.model is None) for row in known.orderings)
    assert kinds == {
        ("superiority", True): 8, ("non-inferiority", True): 2, ("equivalence", True): 3,
        ("non-inferiority", False): 6, ("superiority", False): 1,
    }  # fmt: skip
    assert [
        row.says for row in known.orderings if (">" in row.says or "more" in row.says) != (row.kind == "superiority")
    ] == ["the best ticket at 0.01 stays below the dense network at 0.1"]
    for word, kind in (("≥", "non-inferiority"), ("≈", "equivalence")):
        assert {row.kind for row in known.orderings if word in row.says} == {kind}
