"""The rule by which the default study's recipe is chosen, on candidates by hand."""

import pytest

from scripts.choose_quick import Candidate, Measured, choice, lines, reference_epoch


def candidate(
    epochs: int = 5, accuracy: float = 84.0, high: float = 0.23, low: float = 0.7, batch: int = 64, seconds: float = 5.0
) -> Candidate:
    found = [
        Measured(rate, accuracy + seed, overlap + 0.01 * seed, seconds)
        for seed in (0, 1)
        for rate, overlap in ((0.01, low), (0.1, high))
    ]
    return Candidate(batch, epochs, 2.0, 1e-3, 10_000, tuple(found))


def test_the_cost_is_of_every_training_of_the_study():
    """5 seeds, 2 rates: a dense training, one of twice its length, 4 arms at each sparsity, all of 5 epochs."""
    one = candidate()
    assert reference_epoch([one]) == pytest.approx(1.0)
    assert one.cost(2, 1.0) == pytest.approx(5 * 2 * (1 + 2 + 4 * 2) * 5)
    assert (one.sparsities(1.0), one.sparsities(0.7), one.sparsities(2.0)) == (2, 0, 3)


@pytest.mark.parametrize(
    ("high", "low", "shows"), [(0.24, 0.35, True), (0.245, 0.35, False), (0.24, 0.34, False), (0.2, 0.9, True)]
)
def test_every_seed_must_show_both_sides(high, low, shows):
    assert candidate(high=high, low=low).shows_both_sides is shows


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], 0),
        ([{"accuracy": 84.4, "high": 0.235}], 0),  # alike: the lower R_p
        ([{"accuracy": 84.6, "high": 0.235}], 1),  # better by more than the margin
        ([{"accuracy": 90.0, "high": 0.3}], 0),  # not in the paper's regime
        ([{"accuracy": 90.0, "seconds": 9.0, "batch": 128}], 0),  # not affordable
    ],
)
def test_the_choice(others, chosen):
    found = [candidate(), *(candidate(**other) for other in others)]
    assert choice(found, 1.0) is found[chosen]
    assert "Chosen: " in "\n".join(lines(found, 1.0))


def test_none_may_be_left():
    found = [candidate(high=0.4)]
    assert choice(found, 1.0) is None
    assert "No candidate" in "\n".join(lines(found, 1.0))
