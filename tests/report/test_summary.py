"""What the terminal says at the end of an audit, word by word on planted studies."""

import dataclasses
import math
import statistics

from prunetune.analysis.pairing import Chance
from prunetune.analysis.recommend import recommend
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import judge
from prunetune.report.terminal import summary
from prunetune.training.recipe import RecipeSummary
from tests.support.verdict_trials import LEVEL, overlap, spread, study, trial

RULE = Rule()


def said(trials: list, **known: object) -> str:
    return summary(trials, judge(trials, RULE, **known), recommend(trials, RULE), RULE)  # type: ignore[arg-type]


def test_a_study_of_two_rates_literally() -> None:
    low = [LEVEL + 0.3 * seed - 0.75 for seed in range(5)]
    trials = [
        *study({0.5: spread(0.0, 0.3), 0.75: spread(-1.0, 0.3)}, {0.5: spread(2.0, 0.3), 0.75: spread(2.0, 0.3)}),
        *study({0.75: spread(0.0, 0.3)}, {0.75: spread(0.0, 0.3)}, rate=0.01, dense=low),
    ]
    text = said(trials, correlations=[overlap(rate, 0.5, seed=s) for rate in (0.01, 0.1) for s in range(5)])
    # The five values of `spread(m, .3)` have standard deviation .2372; t(.95, 6) = 1.943 and t(.95, 4) = 2.132.
    # Dense: 90 + .3 seed, so 90.60 on average, and .75 less at the low rate.
    assert text.splitlines()[:15] == [
        "Test accuracy, %, mean over 5 seeds:",
        "  rate  mask       sparsity  dense  ticket  reinit",
        "  0.01  iterative  75 %      89.85  89.85   89.85",
        "  0.1   iterative  50 %      90.60  90.60   88.60",
        "  0.1   iterative  75 %      90.60  89.60   87.60",
        "",
        "No: at learning rate 0.01 with iterative masks, this network has no winning ticket at 75 % sparsity.",
        "  sparsity  ticket − dense        matches?  ticket − reinit       beats?  both, corrected?",
        "  75 %      +0.00 [−0.23, +0.23]  yes       +0.00 [−0.23, +0.23]  no      no",
        "",
        "Yes: at learning rate 0.1 with iterative masks, this network has a winning ticket at 50 % sparsity.",
        "  sparsity  ticket − dense        matches?  ticket − reinit       beats?  both, corrected?",
        "  50 %      +0.00 [−0.21, +0.21]  yes       +2.00 [+1.79, +2.21]  yes     yes",
        "  75 %      −1.00 [−1.21, −0.79]  no        +2.00 [+1.79, +2.21]  yes     no",
        "",
    ]
    lines = text.splitlines()
    at = lines.index("Pre-training, by learning rate:")
    assert [line[:60] for line in lines[at + 1 : at + 9]] == [
        "  0.01  insufficient",
        "    Not worse than the best rate tried: no. Dense accuracy a",
        "    Converged: not asked. No dense network was trained for l",
        "    Forgotten: no. R_0.2 of the weights before and after den",
        "  0.1  best of those tried",
        "    Not worse than the best rate tried: yes. Of the 2 rates ",
        "    Converged: not asked. No dense network was trained for l",
        "    Forgotten: no. R_0.2 of the weights before and after den",
    ]
    assert lines[at + 2].endswith("rate 0.1, the best tried: −0.75 points (bounds −0.75 and −0.75, 5 seeds).")
    assert lines[at + 4].endswith(": +0.300 (bounds +0.300 and +0.300, 5 seeds); less than 0.05 counts as forgotten.")
    assert "Train the sparse network from (with its lead, 95 % interval):" in text
    assert "  50 %  ticket  iterative mask  learning rate 0.1" in text


def test_one_seed_gives_differences_without_bounds() -> None:
    trials = [trial("dense", 0, 80.0), trial("ticket", 0, 80.5, 0.5), trial("reinit", 0, 79.0, 0.5)]
    text = said(trials)
    assert "\n\nUndecided: " in text
    assert "  50 %      +0.50           undecided  +1.50            undecided  undecided" in text
    assert "a tie" in text


def test_a_study_that_does_not_ask_has_no_table_of_questions() -> None:
    trials = [trial("dense", seed, 80.0 + seed) for seed in range(3)]
    trials += [trial("finetune", seed, 81.0 + 2 * seed, 0.5) for seed in range(3)]
    lines = said(trials).splitlines()
    assert lines[lines.index("") + 1 :][:2] == [
        "Not asked: at learning rate 0.1 with iterative masks, this study does not have the arms that tell a winning "
        "ticket. To have it judged, add to the study's arms: ticket, reinit.",
        "",
    ]
    without_reinit = [*trials, *(trial("ticket", seed, 80.0 + seed, 0.5) for seed in range(3))]
    assert "  50 %      +0.00" in said(without_reinit)


def test_a_diverged_run_is_left_out_and_marked() -> None:
    trials = study({0.5: spread(0.0, 0.3)}, {0.5: spread(2.0, 0.3)})
    lost = next(i for i, row in enumerate(trials) if row.arm == "reinit")
    trials[lost] = dataclasses.replace(trials[lost], diverged=True, test_accuracy=10.0)
    lines = said(trials).splitlines()
    assert lines[0] == "Test accuracy, %, mean over 5 seeds, * without those that diverged:"
    # Without the first seed's, 90 - .3 - 1.7 = 88.00: the other four are (5 * 88.60 - 88.00) / 4 on average.
    assert lines[2].split() == ["0.1", "iterative", "50", "%", "90.60", "90.60", "88.75*"]


def test_a_baseline_that_never_learned_is_marked_and_says_why_nothing_is_decided() -> None:
    """One of five seeds of reinit guesses: the mean difference is large, and the answer is undecided all the same."""
    trials = study({0.5: spread(0.0, 0.3)}, {0.5: spread(2.0, 0.3)})
    stuck = next(i for i, row in enumerate(trials) if (row.arm, row.seed) == ("reinit", 3))
    trials[stuck] = dataclasses.replace(trials[stuck], test_accuracy=10.0)
    chance = Chance.of(10, 10_000)
    verdicts = judge(trials, RULE, outputs=10, test_images=10_000)
    lines = summary(trials, verdicts, (), RULE, chance=chance).splitlines()
    assert lines[0] == "Test accuracy, %, mean over 5 seeds, † counting trainings that are no better than guessing:"
    mean = statistics.mean(row.test_accuracy or 0.0 for row in trials if row.arm == "reinit")
    assert lines[2].split()[-1] == f"{mean:.2f}†"
    [row] = [line for line in lines if line.startswith("  50 %      ")]
    assert "+1.96" in row  # of the four others, as planted
    assert row.split("  ")[-2].strip() == "undecided"
    assert lines[lines.index(row) + 1] == (
        "  50 %, beats? undecided: the baseline reinit at sparsity 50 % is stuck at chance in seed 3: "
        "left out of the means, and a comparison with it is not to be trusted."
    )
    assert "†" not in summary(trials, verdicts, (), RULE)  # where nobody knows what guessing scores


def test_nothing_to_say_says_so() -> None:
    assert summary((), (), (), RULE) == "No arm finished all its seeds above chance, so none is recommended."


def test_kappa_stands_under_the_rate_that_it_is_of() -> None:
    trials = study({0.5: spread(0.0, 0.1)}, {0.5: spread(1.0, 0.1)})
    known = RecipeSummary(0.1, 3925, 2.5, math.exp(-2.5)), RecipeSummary(7.0, 1, 1.0, math.exp(-1.0))
    text = summary(trials, judge(trials, RULE), (), RULE, recipes=known)
    under = text.partition("Pre-training, by learning rate:")[2]
    assert "Kappa 2.50: weight decay by itself leaves 8 % of the initial weights" in under
    assert "Kappa 1.00" not in under  # of a rate that the study does not have
