"""Seeds that are added where a verdict is undecided: what each look may spend, and what a verdict rests on."""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import integrate, stats

from prunetune.analysis.recommend import recommend
from prunetune.analysis.statistics import Rule, plan_looks, spent, taken
from prunetune.analysis.verdict import judge
from prunetune.core.limits import looks
from prunetune.report.terminal import summary
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Results, Trial
from tests.support.planted import planted
from tests.support.refusals import refused
from tests.support.verdict_trials import missing, one, said, spread, study, substance

SCRIPTS = Path(__file__).parents[2] / "scripts"
RANGES = [(2, 3), (5, 20), (3, 12), (4, 10), (2, 12), (19, 20)]
AUTO = Rule(looks=looks(5, 20))
SHORT = Rule(looks=looks(2, 5))


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import simulate_sequential  # pyright: ignore[reportMissingImports]

        return simulate_sequential


# --- what a look may spend --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "most"), RANGES)
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_spending_grows_and_sums_to_alpha(alpha: float, least: int, most: int) -> None:
    found = plan_looks(alpha, looks(least, most))
    assert (found[0].seeds, found[-1].seeds) == (least, most)
    assert all(look.alpha > 0 for look in found)
    assert [look.spent for look in found] == pytest.approx(list(itertools.accumulate(look.alpha for look in found)))
    assert found[-1].spent == alpha
    assert math.fsum(look.alpha for look in found) == pytest.approx(alpha, rel=1e-12)


def test_levels_are_the_integral_of_the_spending_rate() -> None:
    # The derivative of alpha ln(1 + (e - 1) t) is alpha (e - 1) / (1 + (e - 1) t), integrated between two looks.
    def rate(t: float) -> float:
        return 0.05 * (math.e - 1) / (1 + (math.e - 1) * t)

    shares = [0, 4 / 10, 8 / 10, 1]
    areas = [integrate.quad(rate, *between)[0] for between in itertools.pairwise(shares)]
    assert [look.alpha for look in plan_looks(0.05, looks(4, 10))] == pytest.approx(areas)
    assert (spent(0.05, 0), spent(0.05, 1)) == (0, pytest.approx(0.05))


@pytest.mark.parametrize(("least", "most"), RANGES)
def test_normal_means_cross_any_bound_less_often_than_alpha(least: int, most: int) -> None:
    """Exactly, by the joint distribution of the looks: means of n and m >= n values correlate by sqrt(n / m)."""
    found = plan_looks(0.05, looks(least, most))
    n = np.array([look.seeds for look in found])
    covariance = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    bounds = stats.norm.isf([look.alpha for look in found])
    joint = stats.multivariate_normal(np.zeros(len(n)), covariance, seed=0)  # type: ignore[arg-type]
    crossed = 1 - joint.cdf(bounds)
    assert found[0].alpha < crossed < 0.05
    assert 1 - joint.cdf(np.full(len(n), stats.norm.isf(0.05))) > 0.05  # which looking at alpha itself does not keep


def test_a_fixed_number_is_one_look_at_alpha() -> None:
    assert [(look.alpha, look.spent) for look in plan_looks(0.05, (5,))] == [(0.05, 0.05)]


def test_the_first_look_is_always_taken() -> None:
    assert [look.seeds for look in taken(AUTO, 0)] == [5]
    assert [look.seeds for look in taken(AUTO, 12)] == [5, 10]
    assert [look.seeds for look in taken(AUTO, 20)] == [5, 10, 15, 20]


# --- what a verdict rests on ------------------------------------------------------------------------------------


FIRST, SECOND, *_ = plan_looks(0.05, AUTO.looks)


def at_one_sparsity(
    differences: Sequence[float], rate: float = 0.1, mask: str = "iterative", dense: Sequence[float] | None = None
) -> list[Trial]:
    """Ticket - dense as given, and the ticket far above reinit."""
    beaten = [3.0 + 0.01 * i for i in range(len(differences))]
    return study({0.5: differences}, {0.5: beaten}, rate, mask, dense)


def test_a_clear_study_is_decided_at_the_first_look_and_rests_there() -> None:
    clear = at_one_sparsity(spread(0.5, 0.1))
    verdict = one(clear, AUTO)
    assert (verdict.winning_property, verdict.open, [look.seeds for look in verdict.looks]) == ("holds", False, [5])
    # seeds that came later, whatever they say, do not change it
    more = at_one_sparsity([*spread(0.5, 0.1), *spread(-9.0, 1.0)])
    assert substance(one(more, AUTO)) == substance(verdict)
    assert one(more, AUTO).tests == verdict.tests
    assert one(at_one_sparsity(spread(-2.0, 0.1)), AUTO).winning_property == "fails"


def test_a_study_at_the_margin_goes_on_to_the_most() -> None:
    values = spread(-0.5, 1.0, 20)
    for seeds, ended in ((5, 1), (10, 2), (15, 3), (20, 4)):
        verdict = one(at_one_sparsity([value for i in range(seeds // 5) for value in values[i::4]]), AUTO)
        assert (verdict.winning_property, verdict.open, len(verdict.looks)) == ("inconclusive", True, ended)
        assert verdict.seeds_needed is None
    assert verdict.looks[-1].spent == AUTO.alpha
    assert verdict.outlook == "Undecided by 20 seeds, the most that were to be added."


def test_a_look_judges_at_its_own_level_as_a_fixed_number_would() -> None:
    values = spread(0.15, 0.8)  # the bound is .60 below the mean at .05, and .92 below at the first look's .018
    assert one(at_one_sparsity(values)).winning_property == "holds"
    looked = one(at_one_sparsity(values), AUTO)
    assert (looked.winning_property, looked.alpha) == ("inconclusive", FIRST.alpha)
    assert looked.tests == one(at_one_sparsity(values), Rule(alpha=FIRST.alpha)).tests
    twice = at_one_sparsity([*values, *values])
    assert one(twice, AUTO).tests == one(twice, Rule(alpha=SECOND.alpha)).tests


def test_nothing_is_added_where_more_seeds_cannot_decide() -> None:
    no_reinit = [trial for trial in at_one_sparsity(spread(-0.5, 1.0)) if trial.arm != "reinit"]
    assert one(no_reinit, AUTO).open  # it may fail by its first half alone
    no_dense = [trial for trial in no_reinit if trial.arm != "dense"]
    assert not one(no_dense, AUTO).open
    diverged = [
        dataclasses.replace(trial, diverged=True) if trial.arm == "ticket" and trial.seed == 0 else trial
        for trial in at_one_sparsity(spread(-0.5, 1.0))
    ]
    assert one(diverged, AUTO).open  # it can no longer hold, but fail
    at_chance = [dataclasses.replace(trial, test_accuracy=10.0) for trial in at_one_sparsity(spread(-0.5, 1.0))]
    stuck = one(at_chance, AUTO, outputs=10)
    assert (stuck.open, stuck.winning_property) == (False, "inconclusive")
    assert "More seeds do not help" in said(stuck)
    trivial = one([dataclasses.replace(t, sparsity=t.sparsity and 0.2) for t in no_reinit], AUTO)
    assert (trivial.open, trivial.tests) == (False, ())


def test_cells_differ_in_their_seeds_without_being_called_incomplete() -> None:
    clear = at_one_sparsity(spread(0.5, 0.1), mask="one_shot")
    open_one = [t for t in at_one_sparsity([*spread(-0.5, 1.0), *spread(-0.5, 0.9)]) if t.arm != "dense" or t.seed > 4]
    iterative, one_shot = judge([*clear, *open_one], AUTO)
    assert [len(verdict.looks) for verdict in (iterative, one_shot)] == [2, 1]
    assert "no result" not in said(iterative) + said(one_shot)
    [row] = recommend([*clear, *open_one], AUTO)
    assert row.left_out == ()  # the five seeds that both have
    assert row.accuracy == pytest.approx(np.mean([t.test_accuracy or 0.0 for t in clear if t.arm == "ticket"]))
    # a seed that failed is named, as ever
    rest = [t for t in open_one if (t.arm, t.seed) != ("reinit", 7)]
    gone = judge([*clear, *rest], AUTO, missing=[missing("reinit", 7, 0.5, True)])
    assert "reinit at sparsity 50 % has no result in seed 7" in said(gone[0])


def test_pretraining_is_judged_by_the_seeds_of_all_rates_at_that_look() -> None:
    low = at_one_sparsity(spread(0.5, 0.1), rate=0.01, dense=[80.0 + 0.1 * i for i in range(5)])
    high = at_one_sparsity([*spread(-0.5, 1.0), *spread(-0.5, 0.9)], rate=0.1)
    verdicts = judge([*low, *high], AUTO)
    fixed = judge([*low, *(t for t in high if t.seed < 5)], Rule(alpha=FIRST.alpha))
    assert [v.dense for v in verdicts] == [v.dense for v in fixed]


def test_a_fixed_number_has_no_looks() -> None:
    verdict = one(at_one_sparsity(spread(0.5, 0.1)))
    assert (verdict.looks, verdict.alpha) == ((), 0.05)


# --- the report -------------------------------------------------------------------------------------------------


def grown(most: int = 5) -> Results:
    """Two rates, of which the lower was decided by two seeds and the other went on to `most`."""
    whole = planted(seeds=most)
    return dataclasses.replace(
        whole,
        study=whole.study | {"seeds": {"min": 2, "max": 5}},
        trials=tuple(row for row in whole.trials if row.learning_rate == 0.1 or row.seed < 2),
        correlations=tuple(row for row in whole.correlations if row.learning_rate == 0.1 or row.seed < 2),
    )


def test_a_report_states_looks_levels_and_what_was_spent(tmp_path: Path) -> None:
    report = write_report(grown(), tmp_path)
    levels = plan_looks(0.05, SHORT.looks)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert ", ".join(f"{look.alpha:.4f}" for look in levels) in page
    assert "it is judged by 2, 4, 5 seeds until it is decided" in page
    assert f"{100 * (1 - levels[0].alpha):.2f} % by 2 seeds" in page
    low, high = report.verdicts
    assert f"look {len(low.looks)} of 3, by {low.looks[-1].seeds} seeds; {low.looks[-1].spent:.2g} of the" in page
    assert f"look {len(high.looks)} of 3, by {high.looks[-1].seeds} seeds" in report.text
    assert "mean over 2 to 5 seeds" in report.text
    rows = json.loads((tmp_path / "results.json").read_text())["looks"]
    expected = [
        {"learning_rate": v.learning_rate, "mask": v.mask, "seeds": k.seeds, "alpha": k.alpha, "spent": k.spent}
        for v in report.verdicts
        for k in v.looks
    ]
    assert rows == expected


def test_it_renders_the_same_bytes_again(tmp_path: Path) -> None:
    write_report(grown(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    render_again(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_the_dense_mean_is_over_the_seeds_of_its_row() -> None:
    results = grown()
    verdicts = judge(results.trials, SHORT)
    rows = summary(results.trials, verdicts, (), SHORT).splitlines()
    dense = [t.test_accuracy for t in results.trials if t.arm == "dense" and t.learning_rate == 0.01]
    assert len(dense) == 2
    assert f" {np.mean([a for a in dense if a is not None]):.2f} " in next(row for row in rows if "0.01" in row)


@pytest.mark.parametrize("seeds", [{"min": 5}, {"min": 1, "max": 4}, {"min": 6, "max": 6}, {"min": 2.0, "max": 5}])
def test_a_range_that_does_not_grow_is_refused(seeds: dict[str, object]) -> None:
    with refused("seeds", "range"):
        Rule.of({"seeds": seeds})
    assert Rule.of({"seeds": 7, "verdict": {"family": "study"}}) == Rule()


# --- the simulation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spreads", [(0.5,), (0.3, 0.45, 0.7, 1.1)])
def test_the_simulated_rule_is_the_judges(simulation: ModuleType, spreads: tuple[float, ...]) -> None:
    generator = np.random.default_rng(3)
    draws = simulation.draw(simulation.World(5, spreads, 0.5), 60, generator)
    draws += generator.choice([-1.0, 0.3, 1.0], size=(60, 1, 1))
    found = simulation.spending(draws, 2, 5)
    at = [0.5 + 0.1 * i for i in range(len(spreads))]
    beaten = {sparsity: [9.0 + 0.01 * seed for seed in range(5)] for sparsity in at}
    for draw, holds, fails, seeds in zip(draws, found.holds, found.fails, found.seeds, strict=True):
        verdict = one(study({s: draw[:, i].tolist() for i, s in enumerate(at)}, beaten), SHORT)
        answer = "holds" if holds else "fails" if fails else "inconclusive"
        assert (verdict.winning_property, verdict.looks[-1].seeds) == (answer, seeds)
    assert 0 < found.holds.sum() + found.fails.sum() < 60
    assert set(found.seeds) == {2, 4, 5}


def test_false_answers_stay_below_alpha_where_peeking_does_not(simulation: ModuleType) -> None:
    draws = simulation.draw(simulation.World(20, (0.5,), 0.0), 4000, np.random.default_rng(0))
    found = simulation.spending(draws, 5, 20)
    assert found.holds.mean() < 0.05  # .035 with 10,000; four standard errors of .003 above it is .047
    assert found.fails.mean() < 0.05
    peeking = simulation.course(draws, looks(5, 20), [0.05] * 4)
    assert peeking.holds.mean() > 0.09  # .12


def test_the_script_prints_its_tables(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--studies", "40"])
    first, nulls, powers = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith("40 studies a row")
    assert [len(nulls.splitlines()), len(powers.splitlines())] == [2 + 3 * 7, 2 + len(simulation.EFFECTS)]
    assert {line.count("|") for line in [*nulls.splitlines(), *powers.splitlines()]} == {9}
