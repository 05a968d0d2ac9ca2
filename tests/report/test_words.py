import itertools
import re

import pytest

from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule
from prunetune.analysis.verdict import Verdict, judge
from prunetune.report.text import definition_text, lead, pretraining_text, recommendation_text, whys
from prunetune.rows import Trial
from tests.support.verdict_trials import LEVEL, overlap, spread, study, trial

RULE = Rule()
DENSE = {"yes": 0.0, "undecided": -0.5, "no": -1.0}
REINIT = {"yes": 2.0, "undecided": 0.4, "no": 0.0}
LOWER = {"best of those tried": -0.1, "inconclusive": -0.5, "insufficient": -0.75}
NOT_LONGER = (
    "Converged: not asked. No dense network was trained for longer; pretraining: {longer: 2} in the spec asks for it. "
)
FAR_ABOVE = (
    "Forgotten: no. R_0.2 of the weights before and after dense training, less chance: +0.310 (bounds +0.310 and "
    "+0.310, 5 seeds); less than 0.05 counts as forgotten. "
    "Of the 20 % largest weights of each layer before dense training, 51 % are among the largest after it "
    "(R_p; by chance 20 %): which weights are large after training still depends on which were large before."
)


def two_rates(cells: dict[float, tuple[str, str]], lower: float) -> list[Trial]:
    """The planted answers at rate 0.01, whose dense accuracy lies `lower` from that of rate 0.1."""
    against = (
        {sparsity: spread(DENSE[cell[0]], 0.3) for sparsity, cell in cells.items()},
        {sparsity: spread(REINIT[cell[1]], 0.3) for sparsity, cell in cells.items()},
    )
    low = [LEVEL + 0.3 * seed + value for seed, value in enumerate(spread(lower, 0.3))]
    return [*study(*against, rate=0.01, dense=low), *study(*against, rate=0.1)]


def first(trials: list[Trial], value: float | None = None) -> Verdict:
    rows = [] if value is None else [overlap(rate, value, seed=seed) for rate in (0.01, 0.1) for seed in range(5)]
    return judge(trials, RULE, correlations=rows)[0]


def verdict_words(verdict: Verdict, rule: Rule) -> str:
    """Everything that is said of one learning rate and mask, as one text."""
    said = [lead(verdict), *whys(verdict), verdict.outlook, pretraining_text(verdict)]
    return " ".join(filter(None, said))


def test_a_winning_ticket_literally() -> None:
    verdict = first(two_rates({0.5: ("yes", "yes"), 0.75: ("no", "yes")}, -0.75), 0.51)
    # Standard deviation .2372 at both, shrunk to the same; t(.95, 6) = 1.9432, so bounds are .2061 away;
    # the dense difference has t(.95, 4) = 2.1318 and .2262.
    assert verdict_words(verdict, RULE) == (
        "Yes: at learning rate 0.01 with iterative masks, this network has a winning ticket at 50 % sparsity. "
        "At 50 %, the ticket matches the dense network: +0.00 points (bounds −0.21 and +0.21, 5 seeds), "
        "and beats freshly drawn weights: +2.00 points (bounds +1.79 and +2.21, 5 seeds). "
        "At 75 %, the ticket falls short of the dense network: −1.00 points (bounds −1.21 and −0.79, 5 seeds), "
        "and beats freshly drawn weights: +2.00 points (bounds +1.79 and +2.21, 5 seeds). "
        "Pre-training (the dense training) at learning rate 0.01: insufficient. "
        "Not worse than the best rate tried: no. Dense accuracy at this rate, "
        "compared with rate 0.1, the best tried: −0.75 points (bounds −0.98 and −0.52, 5 seeds). "
        f"{NOT_LONGER}{FAR_ABOVE}"
    )


def test_no_winning_ticket_and_a_high_correlation_at_the_best_rate_literally() -> None:
    rows = [overlap(0.1, 0.51, seed=seed) for seed in range(5)]
    verdict = judge(two_rates({0.75: ("yes", "no")}, -0.75), RULE, correlations=rows)[1]
    assert verdict_words(verdict, RULE) == (
        "No: at learning rate 0.1 with iterative masks, this network has no winning ticket at 75 % sparsity. "
        "At 75 %, the ticket matches the dense network: +0.00 points (bounds −0.23 and +0.23, 5 seeds), "
        "and does not notably beat freshly drawn weights: +0.00 points (bounds −0.23 and +0.23, 5 seeds). "
        "Pre-training (the dense training) at learning rate 0.1: best of those tried. "
        "Not worse than the best rate tried: yes. Of the 2 rates tried, this one gives "
        "the dense network its best mean accuracy. "
        f"{NOT_LONGER}{FAR_ABOVE}"
    )


def test_one_seed_literally() -> None:
    [verdict] = judge(study({0.75: [0.0]}, {0.75: [2.0]}), RULE)
    assert verdict_words(verdict, RULE) == (
        "Undecided: at learning rate 0.1 with iterative masks, it is not known whether this network has a winning "
        "ticket. One seed is never a verdict, for it shows no spread; 5 seeds are usual. "
        "Pre-training (the dense training) at learning rate 0.1: undecided. "
        "Not worse than the best rate tried: undecided. Only one "
        "learning rate was tried, so its dense accuracy has nothing to be compared with. "
        f"{NOT_LONGER}"
        "Forgotten: undecided. R_p of the weights before and after was not measured."
    )


CELLS = list(itertools.product(DENSE, REINIT))


@pytest.mark.parametrize(("dense", "reinit"), CELLS)
@pytest.mark.parametrize("pretraining", LOWER)
@pytest.mark.parametrize("value", [None, 0.51, 0.2, 0.1])
def test_the_words_are_true_in_every_combination(
    dense: str, reinit: str, pretraining: str, value: float | None
) -> None:
    verdict = first(two_rates({0.5: (dense, reinit), 0.75: ("no", "yes")}, LOWER[pretraining]), value)
    text = verdict_words(verdict, RULE)
    opening = {"holds": "Yes: ", "fails": "No: ", "inconclusive": "Undecided: "}[verdict.winning_property]
    assert text.startswith(opening)
    at_half = text.partition("At 50 %, ")[2].partition("At 75 %, ")[0]
    assert {
        "yes": "the ticket matches the dense network",
        "no": "the ticket falls short of the dense network",
        "undecided": "the ticket may or may not match the dense network",
    }[dense] in at_half
    assert {
        "yes": "and beats freshly drawn weights",
        "no": "and does not notably beat freshly drawn weights",
        "undecided": "and may or may not notably beat freshly drawn weights",
    }[reinit] in at_half
    assert verdict.pretraining == pretraining
    said = "undecided" if pretraining == "inconclusive" else pretraining
    assert f"Pre-training (the dense training) at learning rate 0.01: {said}. " in text
    assert ("(R_p; by chance" in text) == (value is not None)
    assert "sufficient. " not in text.replace("insufficient. ", "")  # without a longer dense run it is never shown
    assert_well_formed(text)


def assert_well_formed(text: str) -> None:
    assert not re.search(r"None|nan|inf\b|  |\.\.|\. ?,|: \.|\s\.", text), text
    assert text.endswith(".")
    for sentence in re.split(r"(?<=[.;])\s+(?=[A-Z])", text):
        assert sentence[0].isupper(), sentence


def test_what_was_left_out_stands_in_the_words() -> None:
    trials = [row for row in two_rates({0.75: ("yes", "yes")}, -0.1) if (row.arm, row.seed) != ("ticket", 1)]
    trials += [trial("ticket", 1, None, 0.75, rate, diverged=True) for rate in (0.01, 0.1)]
    text = verdict_words(judge(trials, RULE)[0], RULE)
    assert "which decides nothing with what was left out" in text
    assert "Ticket at sparsity 75 % diverged in seed 1: left out of the means." in text
    assert "More seeds do not help while trainings diverge" in text
    assert_well_formed(text)


def test_a_corrected_p_value_is_explained() -> None:
    dense = {0.5: spread(-0.26, 0.3), **{at: spread(-0.5, 0.3) for at in (0.6, 0.7, 0.8)}}
    [verdict] = judge(study(dense, {at: spread(2, 0.3) for at in dense}), RULE)
    assert verdict.tests[0].answer == "undecided"
    text = verdict_words(verdict, RULE)
    explained = "corrected for 4 tests, the p-value of both together, "
    assert text.count(explained) == 1
    assert f"{explained}{verdict.tests[0].p_holm:.2g}, is not below 0.05." in text


def test_missing_arms_and_trivial_sparsities_are_told() -> None:
    no_reinit = [row for row in two_rates({0.75: ("yes", "yes")}, 0.0) if row.arm != "reinit"]
    text = verdict_words(judge(no_reinit, RULE)[0], RULE)
    assert "cannot be compared with freshly drawn weights (no seed has both results)" in text
    assert "Not asked: at learning rate 0.01 with " in text
    assert "To have it judged, add to the study's arms: reinit." in text
    trivial = verdict_words(judge(two_rates({0.3: ("yes", "yes")}, 0.0), RULE)[0], RULE)
    assert trivial.startswith("Undecided: ")
    assert "No sparsity of at least 50 % was tried." in trivial
    for words in (text, trivial):
        assert_well_formed(words)


def row(**values: object) -> Recommendation:
    usual: dict[str, object] = {
        "sparsity": 0.75,
        "learning_rate": 0.1,
        "arm": "finetune",
        "mask": "iterative",
        "score": 85.2189,
        "runner_up": "rewind (iterative masks, learning rate 0.1)",
        "difference": 0.851,
        "low": 0.402,
        "high": 1.299,
        "tie": False,
    }
    return Recommendation(**{**usual, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        ({}, "0.85 points above rewind (iterative masks, learning rate 0.1) (95 % interval +0.40 to +1.30)."),
        (
            {"low": -0.1, "tie": True},
            "0.85 points above rewind (iterative masks, learning rate 0.1), a tie (95 % interval −0.10 to +1.30).",
        ),
        (
            {"low": None, "high": None, "tie": True},
            "0.85 points above rewind (iterative masks, learning rate 0.1), a tie as far as one seed can tell.",
        ),
        (
            {"difference": -0.85, "low": -1.5, "high": 0.2, "tie": True},
            "0.85 points below rewind (iterative masks, learning rate 0.1), a tie (95 % interval −1.50 to +0.20).",
        ),
        (
            {"difference": -0.85, "low": -1.5, "high": -0.2, "tie": True},  # it was chosen by held-out images
            "0.85 points below rewind (iterative masks, learning rate 0.1), so behind it on the test examples "
            "(95 % interval −1.50 to −0.20).",
        ),
        ({"runner_up": None, "difference": None, "low": None, "high": None}, "with nothing to compare it with."),
    ],
)
def test_recommendations_literally(values: dict[str, object], ending: str) -> None:
    assert recommendation_text([row(**values)], RULE) == (
        "At 75 % sparsity, train the sparse network from the weights of the trained dense network (finetune), with "
        f"iterative masks at learning rate 0.1: 85.22 % on average, {ending}"
    )


@pytest.mark.parametrize(
    ("arm", "source"),
    [
        ("ticket", "the initial weights of the dense network (ticket)"),
        ("reinit", "freshly drawn initial weights (reinit)"),
        ("rewind", "weights from early in the training of the dense network (rewind)"),
        ("mine", "the start weights of mine"),
    ],
)
def test_every_arm_has_its_start(arm: str, source: str) -> None:
    assert f"train the sparse network from {source}, with" in recommendation_text([row(arm=arm)], RULE)


def test_nothing_to_recommend_is_said() -> None:
    assert recommendation_text([], RULE) == "No arm finished all its seeds above chance, so none is recommended."
    text = recommendation_text([row(left_out=("ticket (x masks, learning rate 1) diverged in seed 2",))], RULE)
    assert text.endswith(". Not considered: ticket (x masks, learning rate 1) diverged in seed 2.")


def test_the_definition_follows_the_rule() -> None:
    text = definition_text(Rule(margin=1.0, gap=0.25, alpha=0.01, nontrivial_sparsity=0.6))
    for figure in ("surely less than 1 point below it", "counts from 60 %", "99 % confidence"):
        assert figure in text
    assert "(by surely more than 0, and by an estimated 0.25 points or more)" in text
