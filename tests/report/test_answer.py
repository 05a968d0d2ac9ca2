"""The sentence that a page, a terminal and a notebook begin with, and the first screen under it."""

import dataclasses
import html
import re
from pathlib import Path

import pytest

from prunetune.analysis.equivalence import BestStarts
from prunetune.report.answer import Answers, answers, first_lines, headline, winning_text
from prunetune.report.page import typeset
from prunetune.report.write_report import write_report
from tests.support.planted import planted

MOST_WORDS = 120  # of the first screen


def answered(**change: object) -> Answers:
    """A planted study's answers, with fields of its first choice replaced."""
    found = answers(planted())
    first: BestStarts = dataclasses.replace(found.choices[0], **change)  # type: ignore[arg-type]
    return dataclasses.replace(found, choices=(first, *found.choices[1:]))


@pytest.mark.parametrize(
    ("as_good", "said"),
    [
        (
            ("finetune", "rewind", "ticket"),
            "At learning rate 0.1, finetune, rewind and ticket are equivalent within 0.5 points: train from finetune.",
        ),
        (
            ("ticket",),
            "At learning rate 0.1, train from ticket: nothing else is shown to be within 0.5 points of the best.",
        ),
        (
            (),
            "At learning rate 0.1, it is undecided what is within 0.5 points of the best start. "
            "Best means: ticket at 50 % and 90 %; rewind at 75 %.",
        ),
    ],
)
def test_the_headline_says_what_is_as_good_as_the_best(as_good: tuple[str, ...], said: str) -> None:
    best = {0.5: "ticket", 0.75: "rewind", 0.9: "ticket"}
    assert headline(answered(as_good=as_good, best=best, learning_rate=0.1, not_told_apart=("ticket",))) == said


def test_an_undecided_headline_names_what_is_not_told_apart_and_the_seeds_it_would_take() -> None:
    found = answered(as_good=(), not_told_apart=("finetune", "ticket"), seeds=5, seeds_needed=9)
    said = "5 seeds do not tell finetune and ticket apart."
    assert headline(found).endswith(f", {said}")
    assert dict(first_lines(found, planted()))["Start"] == "Undecided. --seeds 9 would probably decide it."


def test_one_arm_is_not_called_the_best() -> None:
    assert headline(answered(as_good=(), p_holm={"finetune": 1.0})).endswith(
        "finetune is the only one that can be judged."
    )


def test_no_arm_is_not_the_only_one() -> None:
    said = headline(answered(as_good=(), p_holm={}))
    assert said.endswith("no start has a result better than guessing at every sparsity.")


def test_without_a_result_there_is_no_answer() -> None:
    found = dataclasses.replace(answers(planted()), choices=())
    assert headline(found).startswith("No answer: no sparse training has a result in every seed")


def test_masks_are_named_where_there_are_several() -> None:
    assert " with " not in headline(answers(planted()))
    assert re.match(
        r"At learning rate [\d.]+ with (iterative|one_shot) masks, ",
        headline(answers(planted(("iterative", "one_shot")))),
    )


def test_a_rate_at_which_the_dense_network_is_insufficient_never_leads() -> None:
    low, high = answers(planted()).verdicts
    held = [dataclasses.replace(one, winning_property="holds") for one in (low, high)]
    said = winning_text(
        [
            dataclasses.replace(held[0], pretraining="insufficient"),
            dataclasses.replace(held[1], pretraining="sufficient"),
        ]
    )
    assert re.fullmatch(r"Yes at 0\.1.*; at 0\.01 the dense network is insufficient\.", said)


@pytest.mark.parametrize(("verdict", "word"), [("holds", "Yes"), ("fails", "No"), ("inconclusive", "Undecided")])
def test_each_outcome_has_one_word(verdict: str, word: str) -> None:
    low, high = (
        dataclasses.replace(one, winning_property=verdict, tests=(), pretraining="sufficient")
        for one in answers(planted()).verdicts
    )  # type: ignore[arg-type]
    assert winning_text([low, high]) == f"{word} at 0.01 and 0.1."


def test_the_leads_over_reinit_are_those_of_the_means() -> None:
    results = planted(seeds=20)
    found = answers(results)
    choice = found.choices[0]
    assert choice.leads is not None, "the planted study has a lead"
    means: dict[tuple[str, float], list[float]] = {}
    for row in results.trials:
        if row.learning_rate == choice.learning_rate and row.mask == choice.mask and row.sparsity in choice.sparsities:
            means.setdefault((row.arm, row.sparsity), []).append(row.score or 0.0)
    leads = [
        sum(means[arm, at]) / len(means[arm, at]) - sum(means["reinit", at]) / len(means["reinit", at])
        for arm in choice.as_good
        for at in choice.sparsities
    ]
    assert choice.leads == pytest.approx((min(leads), max(leads)))
    low, high = choice.leads
    assert f"reinit, by {low:.2f} to {high:.2f} points." in dict(first_lines(found, results))["Start"]


def test_the_cost_counts_each_training_once() -> None:
    results = planted()
    keys = {row.key: row.epochs for row in results.trials}
    cost = dict(first_lines(answers(results), results))["Cost"]
    assert cost.startswith(f"{len(keys)} trainings, {sum(keys.values())} epochs, ")


def test_the_first_screen_is_short(tmp_path: Path) -> None:
    text = write_report(planted(), tmp_path).page.read_text(encoding="utf-8")
    first = text[text.index("<header>") : text.index('<details class="chapter"')]
    shown = re.sub(r"<(title|desc)[^>]*>.*?</\1>", " ", first, flags=re.DOTALL)  # read out, not seen
    words = html.unescape(re.sub(r"<[^>]+>", " ", shown)).split()
    assert 40 < len(words) <= MOST_WORDS


def test_subscripts_are_set_and_everything_else_is_escaped() -> None:
    assert typeset("R_0.2(θ_0, θ_T) <b>") == "R<sub>0.2</sub>(θ<sub>0</sub>, θ<sub>T</sub>) &lt;b&gt;"
