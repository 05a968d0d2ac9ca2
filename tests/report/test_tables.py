import dataclasses
import statistics

import pytest

from prunetune.analysis.pairing import Chance, Evidence
from prunetune.analysis.paper.check_claims import PaperRow
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.verdict import Rule, judge
from prunetune.report import tables, verdict_tables
from prunetune.report.table_format import bounds, p_value, signed, sort_value
from prunetune.rows import Correlation, Invariant, Layer, Missing, Spent
from tests.support.planted import ARMS, HOSTILE, SPARSITIES, planted, scarred

RULE = Rule()


def column(table: tables.Table, title: str) -> list[str]:
    index = [column.title for column in table.columns].index(title)
    return [row[index] for row in table.rows]


def test_recommendation_to_the_letter():
    rows = [
        Recommendation(0.5, 0.1, "finetune", "admm", 86.254, "rewind (admm masks)", 0.4, 0.2, 0.6, False),
        Recommendation(0.9375, 0.01, "ticket", "one_shot", 70.0, None, None, None, None, False),
        Recommendation(0.96, 0.01, "ticket", "one_shot", 70.0, "reinit", 0.004, -0.3, 0.31, True),
    ]
    assert verdict_tables.recommendation_table(rows, RULE).rows == (
        ("50 %", "finetune", "admm", "0.1", "86.25", "–", "+0.40", "+0.20 to +0.60", "no", "rewind (admm masks)"),
        ("93.75 %", "ticket", "one_shot", "0.01", "70.00", "–", "–", "–", "no", "–"),
        ("96 %", "ticket", "one_shot", "0.01", "70.00", "–", "+0.00", "−0.30 to +0.31", "tie", "reinit"),
    )


def test_numbers_are_written_for_readers():
    assert signed(-1.999) == "−2.00"
    assert signed(float("nan")) == "–"
    assert bounds(None, 2.0) == "–"
    assert [p_value(value) for value in (None, 0.0, 0.0009, 0.001, 1.0)] == [
        "–",
        "< 0.001",
        "< 0.001",
        "0.001",
        "1.000",
    ]


def test_comparisons_show_both_halves_with_both_kinds_of_bounds_and_n():
    results = planted()
    verdicts = judge(results.trials, RULE)
    table = verdict_tables.comparison_table(verdicts, RULE)
    assert len(table.rows) == 2 * len(SPARSITIES) * 2
    assert column(table, "n") == ["5"] * 16
    test = verdicts[0].tests[1]
    assert test.dense.low is not None
    assert test.dense.high_own is not None
    assert table.rows[2][:4] == ("0.01", "iterative", "75 %", "ticket − dense")
    assert table.rows[2][6].split(" to ")[0] == f"{test.dense.low:+.2f}".replace("-", "−")
    assert table.rows[2][7] == "–"  # no change in error far from the ceiling
    assert table.rows[2][8].split(" to ")[1] == f"{test.dense.high_own:+.2f}".replace("-", "−")
    assert table.rows[3][10:] == (test.reinit.answer, p_value(test.p_holm), test.answer)
    assert "95 %" in table.caption


def test_one_seed_is_shown_without_bounds():
    table = verdict_tables.comparison_table(judge(planted(seeds=1).trials, RULE), RULE)
    assert set(column(table, "Bounds")) == {"–"}
    assert set(column(table, "Answer")) == {"undecided"}
    assert all(mean != "–" for mean in column(table, "Mean"))


def test_means_leave_out_what_diverged_and_say_so():
    results = scarred(planted())
    table = tables.means_table(Evidence(results.trials, results.missing), results.trials)
    place = ("0.01", "iterative", "93.75 %", "reinit")
    row = next(row for row in table.rows if row[:4] == place)
    there = [t for t in results.trials if (t.arm, t.learning_rate, t.sparsity) == ("reinit", 0.01, 0.9375)]
    kept = [t.test_accuracy for t in there if t.seed != 1 and t.test_accuracy is not None]
    assert row[4:8] == (
        "4",
        f"{statistics.mean(kept):.2f}",
        f"{statistics.stdev(kept):.2f}",
        f"{min(kept):.2f} to {max(kept):.2f}",
    )
    assert "diverged in seed 1" in row[-1]
    other = next(row for row in table.rows if row[:4] == ("0.01", "iterative", "87.5 %", "rewind"))
    assert other[4] == "4"
    assert "no result in seed 2" in other[-1]
    assert [row[3] for row in table.rows[:5]] == ["dense", *ARMS]


def test_means_say_which_seeds_never_learned():
    results = planted(seeds=3)
    stuck = tuple(
        dataclasses.replace(row, test_accuracy=10.1) if (row.arm, row.seed) == ("rewind", 1) else row
        for row in results.trials
    )
    evidence = Evidence(stuck, chance=Chance.of(10, 10_000))
    rows = {(row[0], row[2], row[3]): row for row in tables.means_table(evidence, stuck).rows}
    values = [row.test_accuracy for row in stuck if (row.arm, row.learning_rate, row.sparsity) == ("rewind", 0.1, 0.5)]
    mean = statistics.mean(value for value in values if value is not None)
    assert rows["0.1", "50 %", "rewind"][5] == f"{mean:.2f}"
    assert rows["0.1", "50 %", "rewind"][-1] == "no better than guessing in seed 1: counted as it is"
    assert rows["0.1", "50 %", "ticket"][-1] == "–"


def test_the_papers_rows_have_the_pages_words_and_say_once_what_differs():
    row = PaperRow(
        *(
            "winning",
            "Fig 2",
            "winning property at 0.1",
            "fails",
            0.14,
            -0.1,
            0.4,
            5,
            "not tested at this scale",
            False,
        ),
        "inconclusive; ticket − dense at 50 %; model small, which the paper does not have",
    )
    [cells] = tables.paper_table([row], Rule(), {"model small, which the paper does not have"}).rows
    assert (cells[3], cells[-1]) == ("no", "undecided; ticket − dense at 50 %")
    [cells] = tables.paper_table([row], Rule()).rows
    assert cells[-1].endswith("which the paper does not have")


def test_the_mean_density_is_the_one_measured():
    results = planted(seeds=2, arms=("ticket",), rates=(0.1,))
    trials = [dataclasses.replace(t, density=0.25 + 0.1 * t.seed) if t.sparsity == 0.75 else t for t in results.trials]
    table = tables.means_table(Evidence(trials), trials)
    assert dict(zip(column(table, "Sparsity"), column(table, "Density"), strict=True))["75 %"] == "0.3000"


def test_every_training_has_a_row():
    results = scarred(planted(seeds=3))
    table = tables.trials_table(results.trials)
    assert len(table.rows) == len(results.trials)
    assert column(table, "Accuracy %").count("diverged") == 1
    assert set(map(len, column(table, "Key"))) == {8}


def test_diverged_and_missing_trainings_are_named():
    results = scarred(planted())
    assert tables.missing_table(results.trials, results.missing).rows == (
        ("reinit", "iterative", "0.01", "93.75 %", "1", "diverged: the loss was not finite"),
        ("rewind", "iterative", "0.01", "87.5 %", "2", f"failed: disk is full while writing {HOSTILE}"),
    )
    assert tables.missing_table(planted().trials, ()).rows == ()


def test_overlap_means_with_chance_and_excess():
    rows = [
        Correlation("theta_0/theta_T", 0.1, None, 0.0, seed, 0.2, value, 0.2) for seed, value in enumerate((0.5, 0.6))
    ]
    gone = Correlation("finetune_T/theta_T", 0.1, "admm", 0.5, 0, 0.2, float("nan"), 0.2)
    assert tables.correlation_table([gone, *rows]).rows == (
        ("theta_0/theta_T", "0.1", "–", "0 %", "0.2", "2", "0.550", "0.200", "+0.350", "0.500 to 0.600"),
        ("finetune_T/theta_T", "0.1", "admm", "50 %", "0.2", "0", "–", "0.200", "–", "–"),
    )


def test_budget_invariants_and_layers_to_the_letter():
    spent = Spent(0.1, "iterative", 0.75, "ticket", 750, 1500, 750, "the round's own training")
    assert tables.budget_table([spent]).rows == (
        ("0.1", "iterative", "75 %", "ticket", "750", "1,500", "750", "the round's own training"),
    )
    kept, broken, idle = Invariant("a", "A.", 3), Invariant("b", "B.", 3, ("x", "y")), Invariant("c", "C.", 0)
    invariants = tables.invariants_table([kept, broken, idle])
    assert invariants.rows == (("a", "A.", "3", "kept", "–"), ("b", "B.", "3", "breached", "x; y"))
    assert invariants.caption.endswith(" 1 rule had nothing to check in this study.")
    layers = [
        Layer("conv.weight", (16, 1, 5, 5), False, "first convolution"),
        Layer("head.weight", (10, 640), True, "linear weight", {"admm @ 0.5": 0.5, "admm @ 0.75": 0.24999}),
        Layer("scale", (), False, "not a weight"),
    ]
    table = tables.layers_table(layers)
    assert [column.title for column in table.columns[-2:]] == ["admm @ 0.5", "admm @ 0.75"]
    assert table.rows == (
        ("conv.weight", "16 × 1 × 5 × 5", "400", "no", "first convolution", "–", "–"),
        ("head.weight", "10 × 640", "6,400", "yes", "linear weight", "50 %", "25 %"),
        ("scale", "scalar", "1", "no", "not a weight", "–", "–"),
    )


def test_dense_networks_beside_the_best_rate():
    results = planted(masks=("iterative", "admm"))
    verdicts = judge(results.trials, RULE)
    table = verdict_tables.dense_table(verdicts, Evidence(results.trials), RULE)
    low, high = (
        [t.test_accuracy or 0 for t in results.trials if (t.arm, t.learning_rate) == ("dense", r)] for r in (0.01, 0.1)
    )
    difference = statistics.mean(low) - statistics.mean(high)
    assert [row[:4] for row in table.rows] == [
        ("0.01", "5", f"{statistics.mean(low):.2f}", f"{difference:.2f}".replace("-", "−")),
        ("0.1", "5", f"{statistics.mean(high):.2f}", "–"),
    ]
    assert column(table, "Pre-training") == ["insufficient", "best of those tried"]


def test_the_checks_of_pretraining():
    results = planted()
    longer = [
        dataclasses.replace(row, key=f"longer{row.key}", arm="dense_longer", epochs=12, test_accuracy=accuracy + gain)
        for row, gain in zip([row for row in results.trials if row.arm == "dense"], [0.1, 0.3] * 5, strict=True)
        if (accuracy := row.test_accuracy) is not None
    ]
    trials = [*results.trials, *longer]
    table = verdict_tables.pretraining_table(judge(trials, RULE, correlations=results.correlations), RULE)
    assert column(table, "Rate") == ["0.01"] * 3 + ["0.1"] * 3
    assert column(table, "Check") == ["not worse than the best rate tried", "converged", "forgotten"] * 2
    assert column(table, "Limit") == ["−0.50", "+0.50", "+0.050"] * 2
    assert column(table, "Answer") == ["no", "yes", "no", "yes", "yes", "no"]
    # of rate 0.01 gains are .1 .3 .1 .3 .1: mean .18, standard deviation .10954, t(.95, 4) = 2.1318
    assert table.rows[1][2:5] == ("5", "+0.18", "+0.08 to +0.28")
    assert table.rows[3][2:5] == ("0", "–", "–")
    means = tables.means_table(Evidence(trials), trials)
    assert [row[3] for row in means.rows if row[1] == "–"] == ["dense", "dense_longer"] * 2  # in one order, always


def test_every_row_has_a_cell_for_every_column():
    results = scarred(planted(masks=("iterative", "admm")))
    verdicts = judge(results.trials, RULE, missing=results.missing)
    evidence = Evidence(results.trials, results.missing)
    everything = [
        verdict_tables.comparison_table(verdicts, RULE),
        verdict_tables.dense_table(verdicts, evidence, RULE),
        tables.means_table(evidence, results.trials),
        tables.trials_table(results.trials),
        tables.correlation_table(results.correlations),
        tables.budget_table(results.budget),
        tables.invariants_table(results.invariants),
        tables.layers_table(results.layers),
        tables.missing_table(results.trials, results.missing),
        tables.facts_table(results.environment, "x"),
    ]
    for table in everything:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_a_study_whose_trainings_are_all_missing():
    gone = Missing("dense", None, 0.1, 0.0, 0, "failed: x", failed=True)
    evidence = Evidence((), [gone])
    table = tables.means_table(evidence, ())
    assert [row[:-1] for row in table.rows] == [("0.1", "–", "0 %", "dense", "0", "–", "–", "–", "–")]
    assert "no result in seed 0" in table.rows[0][-1]


@pytest.mark.parametrize(
    ("cell", "value"),
    [("−0.50", -0.5), ("+1.2e-05", 1.2e-05), ("12,345", 12345), ("*0.70", 0.7), (".25 of it", 0.25), ("-3", None)],
)
def test_what_a_cell_is_sorted_by(cell: str, value: float | None) -> None:
    found = sort_value(cell)
    assert (None if found is None else float(found)) == value
    assert sort_value("–") is None
