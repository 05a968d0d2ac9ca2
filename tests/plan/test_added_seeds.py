"""Specs that let seeds be added, and the plans of each look: only ever more steps, and never others."""

from typing import Any

import pytest

from prunetune.core.limits import looks
from prunetune.plan.compile import Plan, every_cell, look_words, plan
from prunetune.spec.load import load_spec
from tests.support.study_specs import spec

GRID: dict[str, Any] = {
    "learning_rates": [0.01, 0.1],
    "masks": ["one_shot", {"kind": "iterative", "learning_rate": 0.1, "name": "crossed"}],
    "sparsities": [0.5],
    "arms": ["ticket", "reinit"],
}


def planned(seeds: Any, **counts: int) -> Plan:
    """A plan of the grid; `counts` by mask override the first look's number at rate 0.1."""
    read = load_spec(spec(**GRID | {"seeds": seeds}))
    cells = every_cell(read, read.looks[0]) | {(0.1, mask): count for mask, count in counts.items()}
    return plan(read, seeds=cells)


def keys(made: Plan) -> list[str]:
    return [step.key for step in made.steps]


@pytest.mark.parametrize(
    ("seeds", "expected", "numbers"),
    [
        ("auto", {"min": 5, "max": 20}, (5, 10, 15, 20)),
        ({"min": 4, "max": 10}, {"min": 4, "max": 10}, (4, 8, 10)),
        ({"min": 3}, {"min": 3, "max": 20}, (3, 6, 9, 12, 15, 18, 20)),
        ({"max": 6}, {"min": 5, "max": 6}, (5, 6)),
        (4, 4, (4,)),
    ],
)
def test_a_spec_resolves_to_itself(seeds: Any, expected: Any, numbers: tuple[int, ...]) -> None:
    read = load_spec(spec(seeds=seeds))
    assert (read.resolved()["seeds"], read.looks) == (expected, numbers)
    assert load_spec(read.resolved()).resolved() == read.resolved()


def test_batches_are_the_least_and_the_last_is_what_is_left() -> None:
    for least in range(2, 9):
        for most in range(least + 1, 30):
            found = looks(least, most)
            steps = [b - a for a, b in zip((0, *found), found, strict=False)]
            assert sum(steps) == most
            assert set(steps[:-1]) <= {least}
            assert 0 < steps[-1] <= least


def test_the_first_look_and_the_last_are_the_fixed_studies_of_their_seeds() -> None:
    first = planned({"min": 2, "max": 4})
    assert keys(first) == keys(planned(2))
    assert [trial.step.key for trial in first.trials] == [trial.step.key for trial in planned(2).trials]
    last = plan(first.spec, seeds=every_cell(first.spec, 4))
    assert keys(last) == keys(planned(4))
    assert last.snapshots == planned(4).snapshots


def test_seeds_are_added_to_one_cell_alone() -> None:
    first, larger = planned({"min": 2, "max": 4}), planned({"min": 2, "max": 4}, one_shot=4)
    assert set(keys(first)) < set(keys(larger)) < set(keys(planned(4)))
    seeds: dict[tuple[float, str | None], set[int]] = {}
    for trial in larger.trials:
        seeds.setdefault((trial.learning_rate, trial.mask), set()).add(trial.seed)
    few, many = {0, 1}, {0, 1, 2, 3}
    assert seeds == {
        **{(0.01, None): few, (0.01, "one_shot"): few, (0.01, "crossed"): few},
        **{(0.1, None): many, (0.1, "one_shot"): many, (0.1, "crossed"): few},
    }


def test_a_look_is_named() -> None:
    auto = {"min": 2, "max": 5}
    assert look_words(planned(2)) == ""
    assert look_words(planned(auto)) == "look 1 of 3: 2 seeds, and up to 5 where they do not decide"
    assert (
        look_words(planned(auto, one_shot=4))
        == "look 2 of 3: 4 seeds for one_shot masks at learning rate 0.1, not decided by 2"
    )
    assert (
        look_words(planned(auto, one_shot=5, crossed=5))
        == "look 3 of 3: 5 seeds for crossed masks at learning rate 0.1, one_shot masks at learning rate 0.1, "
        "not decided by 4"
    )
