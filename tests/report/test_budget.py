"""What a search within a budget says, chooses and shows, from planted candidates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunetune.report.tradeoff.budget_page import budget_words, render_budget_again, write_budget
from prunetune.report.tradeoff.budget_rows import (
    BudgetSearch,
    Candidate,
    FinalScore,
    budget_headline,
    budget_summary,
    chosen_place,
    read_budget_search,
)
from prunetune.report.tradeoff.tradeoff_rows import ModelFile, ModelRow, ParameterDensity, Timing
from tests.support.pages import without_script
from tests.support.refusals import refused

PERPLEXITY = {"metric": "perplexity", "unit": "", "difference_unit": "", "higher_is_better": False}


def network(sparsity: float, milliseconds: float, macs: int) -> ModelRow:
    kept, time = round(200 * (1 - sparsity)), milliseconds / 1000
    timing = Timing(1, time, 0.9 * time, 1.1 * time, 30, 0.004 / time, 0.0038 / time, 0.0042 / time)
    layers = (ParameterDensity("a.weight", "Linear", 200, kept, ""),)
    return ModelRow(
        sparsity, 1 - sparsity, 0, (90.0, 90.2), 250, 50 + kept, macs, macs, 1000, 900, False, (timing,), layers, ()
    )


def candidate(
    mask: str, sparsity: float, drop: float, milliseconds: float, /, within: bool = True, **more: Any
) -> Candidate:
    known = Candidate(
        mask=mask,
        pattern="channel",
        allocation="uniform",
        sparsity=sparsity,
        drops=(drop - 0.1, drop + 0.1),
        drop=drop,
        high=drop + 0.2,
        level=0.025,
        of_seeds=0.1,
        of_examples=0.05,
        answer="within" if within else "not shown",
        reaches=True,
        seeds_needed=None,
        why="",
        file_bytes=round(1000 * (1 - sparsity)),
        network=network(sparsity, milliseconds, round(1000 * (1 - sparsity))),
    )
    return replace(known, **more)


def search(
    *candidates: Candidate, quantity: str | None = "speedup", limit: float | None = 1.5, **more: Any
) -> BudgetSearch:
    found = BudgetSearch(
        name="n",
        model="m",
        data="d",
        learning_rate=0.1,
        epochs=3,
        seeds=2,
        held_out=900,
        max_drop=0.5,
        quantity=quantity,
        limit=limit,
        alpha=0.05,
        chains=("gentle", "strong"),
        rule="Rule: planted.",
        dense=network(0.0, 4.0, 1000),
        dense_file_bytes=1000,
        candidates=candidates,
        chosen=None,
        test=None,
        left_out=("flat: its sparsest network comes to 1; --speedup 1.5 was asked for",),
        missing=(),
        study={"model": "m"},
        environment={"cpu": "c"},
    )
    found = replace(found, **more)
    place = chosen_place(found)
    test = FinalScore((90.1, 90.3), (90.4, 90.5), 0.25, -0.1, 0.6, len(candidates))
    return found if place is None else replace(found, chosen=place, test=test)


def test_the_faster_of_two_that_are_within_is_returned_though_it_drops_more() -> None:
    found = search(candidate("gentle", 0.5, 0.1, 2.0), candidate("strong", 0.5, 0.2, 1.6))
    assert found.best == found.candidates[1]
    assert budget_headline(found) == (
        "strong 50 %: 2.50x [2.38, 2.62] as fast at batch 1, and worse by at most 0.4 points on held-out examples"
    )
    surely_better = search(replace(candidate("strong", 0.5, -0.6, 1.6), high=-0.25))
    assert budget_headline(surely_better).endswith("and better by at least 0.25 points on held-out examples")
    longer = [line for line in budget_summary(surely_better) if "for 3 epochs more" in line]
    assert len(longer) == 1
    assert not any("for 3 epochs more" in line for line in budget_summary(found))


@pytest.mark.parametrize("quantity", ["macs", "size", "params", None])
def test_in_other_quantities_the_least_is_returned(quantity: str | None) -> None:
    rows = [candidate("gentle", 0.8, 0.1, 2.0), candidate("strong", 0.5, 0.2, 1.6)]
    assert chosen_place(search(*rows, quantity=quantity, limit=None if quantity is None else 0.9)) == 0


def test_of_equally_cheap_ones_the_better_is_returned() -> None:
    assert chosen_place(search(candidate("a", 0.5, 0.2, 2.0), candidate("b", 0.5, 0.1, 2.0))) == 1


def test_neither_the_drop_nor_the_target_alone_qualifies() -> None:
    fast_but_worse = candidate("strong", 0.9, 0.9, 1.0, within=False)
    good_but_slow = candidate("gentle", 0.3, 0.0, 3.9, reaches=False)
    found = search(fast_but_worse, good_but_slow)
    assert found.best is None
    assert budget_headline(found) == "No network tried keeps the budget: at most 0.5 points worse, --speedup 1.5"
    answer, within, near, *_ = budget_summary(found)
    assert answer == (
        "No network that was tried keeps the budget (at most 0.5 points worse, --speedup 1.5); none is returned."
    )
    assert within.startswith("Within the drop, the furthest is gentle 30 %: 1.03x")
    assert near.endswith("strong 90 % loses least: −0.90 points.")


def test_the_answer_and_the_one_look_at_the_test_data_are_in_words() -> None:
    lines = budget_summary(search(candidate("strong", 0.5, 0.2, 1.6)))
    assert lines[0] == (
        "Returned: strong 50 %, 2.50x [2.38, 2.62] as fast at batch 1; on 900 held-out examples and 2 seeds its "
        "accuracy is −0.20 points against the dense network's, and with confidence 95 % no worse than −0.40 points."
    )
    assert lines[1] == (
        "On the test examples, looked at once and for this network alone: 90.20 % against 90.45 %, −0.25 points "
        "(−0.60 points to +0.10 points, an interval of 95 % for whichever of 1 candidate was chosen)."
    )


def test_a_test_score_beyond_the_budget_is_said_to_be_one() -> None:
    found = search(candidate("strong", 0.5, 0.2, 1.6))
    worse = replace(found, test=FinalScore((89.0,), (90.0,), 1.0, None, None, 1))
    assert any(line.startswith("That mean is worse than the budget allows") for line in budget_summary(worse))
    assert not any(line.startswith("That mean") for line in budget_summary(found))


def test_of_a_metric_where_lower_is_better_the_words_have_its_sign() -> None:
    found = search(candidate("strong", 0.5, 0.2, 1.6), study={"verdict": {"margin": 0.5, "gap": 0.5}} | PERPLEXITY)
    assert "its perplexity is +0.20 against" in budget_summary(found)[0]
    assert "no worse than +0.40" in budget_summary(found)[0]
    assert "+0.25 (−0.10 to +0.60, an interval" in budget_summary(found)[1]


def test_what_more_seeds_or_more_examples_would_show() -> None:
    few = candidate("few", 0.5, 0.3, 1.6, within=False, seeds_needed=9)
    noisy = candidate("noisy", 0.5, 0.3, 1.6, within=False, of_examples=0.6)
    worse = candidate("worse", 0.5, 0.8, 1.6, within=False)
    text = "\n".join(budget_summary(search(few, noisy, worse)))
    assert "few 50 % may be within the drop: 9 seeds in all would probably show it; 2 were run." in text
    assert "900 held-out examples leaves a standard error of 0.6 points, the seeds 0.1 points; hold out more." in text
    assert "worse 50 % may" not in text


def test_the_terminal_shows_the_frontier_and_what_did_not_compete() -> None:
    rows = candidate("gentle", 0.5, 0.1, 2.0), candidate("strong", 0.5, 0.2, 1.6)
    lines = budget_words(search(*rows, missing=("90 %, seed 0: diverged",))).splitlines()
    assert lines[1].startswith("dense ")
    assert lines[2].split()[:5] == ["gentle", "50", "%", "0.10", "0.30"]
    assert lines[3].startswith("strong 50 % (returned)")
    assert "left out: flat: its sparsest network comes to 1; --speedup 1.5 was asked for" in lines
    assert lines[-1] == "missing: 90 %, seed 0: diverged"


def test_nothing_that_could_be_tried_has_a_page_too(tmp_path: Path) -> None:
    page = write_budget(search(dense=None, dense_file_bytes=None), tmp_path).page
    assert "No network tried keeps the budget" in page.read_text()


def test_files_can_be_read_and_rendered_again(tmp_path: Path) -> None:
    best = candidate("gentle", 0.5, 0.1, 1.0)
    file = ModelFile("safetensors", "models/best.safetensors", 1030, 0.0, True)
    best = replace(best, network=replace(best.network or network(0.5, 1.0, 9), files=(file,)))
    found = search(best, candidate("strong", 0.5, 0.2, 1.6, within=False, network=None, drop=None, high=None))
    page = write_budget(found, tmp_path).page
    assert read_budget_search(tmp_path / "budget.json") == found
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    page.unlink()
    render_budget_again(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} == {"frontier", "layers-50"}
    text = page.read_text()
    assert "models/best.safetensors" in text
    assert "<script" not in without_script(text)


def test_names_of_others_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>"
    found = search(candidate(hostile, 0.5, 0.1, 1.0), model=hostile, left_out=(hostile,), missing=(hostile,))
    assert "<script" not in without_script(write_budget(found, tmp_path).page.read_text(encoding="utf-8"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    write_budget(search(candidate("gentle", 0.5, 0.1, 1.0)), tmp_path)
    path = tmp_path / "budget.json"
    content = json.loads(path.read_text())
    del content["max_drop"]
    path.write_text(json.dumps(content))
    with pytest.raises(Exception, match="max_drop"):
        render_budget_again(tmp_path)
    path.write_text("{}")
    with refused(str(path), "schema_version"):
        render_budget_again(tmp_path)
