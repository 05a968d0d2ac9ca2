import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prunetune.analysis.statistics import Estimate, Rule, Sample, holm, plain, shrink
from tests.support.refusals import refused

points = st.floats(-20, 20).map(lambda value: round(value, 2))
samples = st.lists(points, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1)


def estimate_of(values: list[float]) -> Estimate:
    estimate = plain(Sample.of(values))
    assert estimate is not None
    return estimate


@given(samples, st.floats(0.001, 0.4), points)
def test_plain_bounds_and_p_are_those_of_scipys_t_test(values: list[float], alpha: float, null: float) -> None:
    estimate = estimate_of(values)
    test = stats.ttest_1samp(values, null, alternative="greater")
    interval = test.confidence_interval(1 - alpha)
    two_sided = stats.t.interval(1 - 2 * alpha, len(values) - 1, loc=estimate.mean, scale=stats.sem(values))
    assert estimate.p_above(null) == pytest.approx(test[1], rel=1e-7, abs=1e-12)
    assert estimate.low(alpha) == pytest.approx(interval.low, rel=1e-7, abs=1e-7)
    assert (estimate.low(alpha), estimate.high(alpha)) == pytest.approx(two_sided, rel=1e-7, abs=1e-7)


@given(st.lists(st.tuples(points, points), min_size=3, max_size=8).filter(lambda p: len({a - b for a, b in p}) > 2))
def test_seed_pairing_is_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    expected = stats.ttest_rel(first, second, alternative="greater").pvalue
    assert estimate_of([a - b for a, b in pairs]).p_above(0.0) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_shrunk_variances_by_hand() -> None:
    # Own variances 1 and 9, pooled 5. Shrunk: (2 * 5 + 2 * 1) / 4 = 3 and (2 * 5 + 2 * 9) / 4 = 7, with 4 degrees of
    # freedom, for which t(0.95) = 2.131847. Standard errors sqrt(3 / 3) = 1 and sqrt(7 / 3) = 1.527525.
    narrow, wide = shrink([Sample.of([0, 1, 2]), Sample.of([0, 3, 6])])
    assert narrow is not None
    assert wide is not None
    assert (narrow, wide) == (Estimate(3, 1.0, 3.0, 4), Estimate(3, 3.0, 7.0, 4))
    assert narrow.low(0.05) == pytest.approx(1 - 2.131847, abs=1e-6)
    assert wide.high(0.05) == pytest.approx(3 + 2.131847 * 1.527525, abs=1e-5)


def test_shrinking_needs_something_to_lean_on() -> None:
    # One sample alone: its own variance with n - 1 degrees of freedom, as if nothing had been shrunk.
    assert shrink([Sample.of([0, 1, 2])]) == [Estimate(3, 1.0, 1.0, 2)]
    # Two pairs of seeds hold 1 + 1 degrees of freedom, fewer than n + 1 = 3.
    assert [row.freedom for row in shrink([Sample.of([0, 1]), Sample.of([0, 2])]) if row] == [2, 2]
    # From three seeds at two sparsities on, it is n + 1.
    for n, count in itertools.product((3, 5, 9), (2, 4)):
        rows = shrink([Sample.of([float(i * k) for i in range(n)]) for k in range(1, count + 1)])
        assert {row.freedom for row in rows if row} == {n + 1}


def test_one_difference_has_no_estimate_and_enters_no_pool() -> None:
    pair = [Sample.of([0, 1, 2]), Sample.of([0, 3, 6])]
    with_single = shrink([pair[0], Sample.of([50.0]), None, pair[1]])
    assert with_single[1] is None
    assert with_single[2] is None
    assert [with_single[0], with_single[3]] == shrink(pair)
    assert shrink([Sample.of([1.0])]) == [None]
    assert plain(Sample.of([1.0])) is None


def test_unequal_seeds_take_the_plain_mean_of_the_variances() -> None:
    # n = 3 with variance 1, n = 2 with variance 2: pooled 1.5; (3 + 2) / 4 = 1.25 and (3 + 2) / 3;
    # the samples hold 2 + 1 = 3 degrees of freedom together.
    first, second = shrink([Sample.of([0, 1, 2]), Sample.of([0, 2])])
    assert first == Estimate(3, 1.0, 1.25, 3)
    assert second is not None
    assert (second.n, second.mean, second.freedom) == (2, 1.0, 3)
    assert second.variance == pytest.approx(5 / 3)


def test_no_spread_is_the_limit_of_a_small_one() -> None:
    for values in ([0.1] * 3, [-0.7] * 5):
        estimate = estimate_of(values)
        assert estimate.variance == 0.0
        assert estimate.low(0.05) == estimate.high(0.05) == estimate.mean
        assert estimate.p_above(estimate.mean - 0.01) == 0.0
        assert estimate.p_above(estimate.mean) == estimate.p_above(estimate.mean + 0.01) == 1.0


def test_holm_by_hand() -> None:
    # Sorted: .005 * 4 = .02, .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04 raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_bonferroni_test(p_values: list[float]) -> None:
    everyone = range(len(p_values))
    groups = [group for size in range(1, len(p_values) + 1) for group in itertools.combinations(everyone, size)]
    bonferroni = {group: min(1.0, len(group) * min(p_values[i] for i in group)) for group in groups}
    closed = [max(p for group, p in bonferroni.items() if i in group) for i in everyone]
    assert holm(p_values) == pytest.approx(closed)


def test_the_rule_is_read_from_a_study() -> None:
    assert Rule.of({}) == Rule(0.5, 0.5, 0.05, 0.5, family="cell")  # what stored studies without a family meant
    assert Rule.of({"verdict": {"margin": 1, "alpha": 0.01, "unknown": 3}}) == Rule(1.0, 0.5, 0.01, 0.5, "cell")
    assert Rule.of({"verdict": {"family": "study"}}) == Rule()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("alpha", value) for value in (0, 1, True)),
        *(("margin", value) for value in (-1, math.inf)),
        *(("gap", value) for value in ("x", None)),
        *(("family", value) for value in ("all", None, ["study"])),
    ],
)
def test_a_rule_that_cannot_be_is_refused(name: str, value: object) -> None:
    with refused(f"verdict.{name}"):
        Rule.of({"verdict": {name: value}})
