"""How the ticket's leads go with R_p, kappa and measured quantities over regimes (docs/how-to/compare.md).

Seeds barely move R_p, so regimes are the units. Everything is resampled from a fixed seed: equal regimes give equal
numbers. Where intervals are asked for, dense runs are drawn with all of their regimes, then seeds within each.

The functions of many weighted samples at once take `B` resamples of `n` units with `k` covariates. A weight is how
often a unit was drawn; a unit with weight 0 takes no part. Results agree with those of the sample written out (each
unit repeated as often as its weight says).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunetune.analysis.regimes import QUANTITIES, Regime
from prunetune.errors import given

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Within = Literal["length", "rate"]

PREDICTORS = ("R_p excess", "kappa", *QUANTITIES)
RESAMPLES, SEED = 2000, 20210219
LEAST_SHARE = 1e-9  # of a variable's sum of squares: what rounding leaves of one that the covariates determine
CHUNK = 4_000_000  # pairs of units compared at once


@dataclass(frozen=True)
class Relation:
    """Spearman's ρ of a predictor and a lead over regimes; `partial` is given sparsity and the dense score.

    `p_rise` and `p_fall` are one-sided, by permuting the predictor over dense runs. None: not enough regimes to tell.
    """

    predictor: str  # of PREDICTORS
    lead: str
    regimes: Literal["fixed", "all"]  # of the mask and sparsity fixed in advance, or all
    n: int
    runs: int  # dense runs: R_p, kappa and movement differ between these alone
    rho: float | None
    low: float | None
    high: float | None
    p_rise: float | None
    p_fall: float | None
    partial: float | None
    partial_low: float | None
    partial_high: float | None


@dataclass(frozen=True)
class Slope:
    """Change of the lead per 0.1 of R_p's excess, among regimes alike in length or rate, beside the dense score.

    The interval resamples seeds; `p_rise` and `p_fall` permute regimes within strata (Freedman and Lane 1983).
    """

    within: Within
    lead: str
    n: int
    strata: int
    slope: float | None
    low: float | None
    high: float | None
    p_rise: float | None
    p_fall: float | None


@dataclass(frozen=True)
class Draws:
    """Means over resampled seeds (resamples, regimes) of what varies by seed; the first row is the data's own."""

    predictor: Floats
    lead: Floats
    dense: Floats


def relation(
    rows: Sequence[Regime],
    predictor: str,
    lead: str,
    regimes: Literal["fixed", "all"],
    alpha: float,
    resamples: int = RESAMPLES,
    brief: bool = False,
) -> Relation:
    """Spearman's ρ with its hierarchical interval, its permutation p-values, and the partial ρ.

    `brief` is for simulations: no partial ρ, and no interval where no permutation p is below alpha.
    """
    rows = [row for row in rows if row.leads[lead].differences and row.dense and has(row, predictor)]
    runs = _runs(rows)
    counts = len(set(runs.tolist()))
    if counts < 3:
        return Relation(predictor, lead, regimes, len(rows), counts, *[None] * 8)
    n, x, y = len(rows), _own(rows, predictor), np.array([row.mean(lead) for row in rows], dtype=np.float64)
    rise, fall = _permuted(x, y, runs, resamples, np.random.default_rng([SEED, 1]))
    if brief and min(rise or 0.0, fall or 0.0) >= alpha:
        return Relation(predictor, lead, regimes, n, counts, None, None, None, rise, fall, None, None, None)
    random = np.random.default_rng(SEED)
    draws = draw_seeds(rows, predictor, lead, resamples, random)
    weights = np.concatenate([np.ones((1, n)), draw_runs(runs, resamples, random)])
    drawn = np.broadcast_to(x, draws.lead.shape) if predictor == "kappa" else draws.predictor
    rho = _spearman(drawn, draws.lead, weights)
    beside = np.array([row.sparsity for row in rows])
    partial = np.full(len(rho), np.nan) if brief else _partial(drawn, draws, beside, weights)
    return Relation(
        predictor, lead, regimes, n, counts,
        known(rho[0]), *interval(rho[1:], alpha), rise, fall, known(partial[0]), *interval(partial[1:], alpha),
    )  # fmt: skip


def slope_within(rows: Sequence[Regime], within: Within, lead: str, alpha: float, resamples: int = RESAMPLES) -> Slope:
    """The slope of the lead on R_p's excess with an intercept for every stratum of at least two regimes."""
    rows, strata = _strata([row for row in rows if row.leads[lead].differences and row.dense], within)
    counts = len(set(strata.tolist()))
    if len(rows) - counts < 3:  # slope, dense accuracy, and something to tell them by
        return Slope(within, lead, len(rows), counts, *[None] * 5)
    random = np.random.default_rng(SEED)
    draws = draw_seeds(rows, "R_p excess", lead, resamples, random)
    level = draws.dense - draws.dense[0].mean()  # about 0: else it is all but a sum of the intercepts
    covariates = np.concatenate([_dummies(strata, len(level)), level[:, :, None]], axis=2)
    ones = np.ones_like(draws.lead)
    slopes = 0.1 * partial_slope(draws.predictor, draws.lead, covariates, ones)
    if not np.isfinite(slopes[0]):
        return Slope(within, lead, len(rows), counts, *[None] * 5)
    tests = _freedman_lane(draws.predictor[0], draws.lead[0], covariates[0], strata, resamples, random)
    return Slope(within, lead, len(rows), counts, known(slopes[0]), *interval(slopes[1:], alpha), *tests)


def draw_seeds(rows: Sequence[Regime], predictor: str, lead: str, resamples: int, random: np.random.Generator) -> Draws:
    """Seeds of every dense run drawn with replacement, the same for all of its regimes; the data's own means first."""
    runs = _runs(rows)
    most = max(len(own) for row in rows for own in (_by_seed(row, predictor), row.dense, row.leads[lead].differences))
    drawn = random.random((runs.max() + 1, resamples, most))
    columns = [_means(row, predictor, lead, drawn[run]) for row, run in zip(rows, runs, strict=True)]
    return Draws(*(np.stack([column[i] for column in columns], axis=1) for i in range(3)))


def _means(row: Regime, predictor: str, lead: str, drawn: Floats) -> tuple[Floats, Floats, Floats]:
    """Of the predictor, the lead and the dense score of one regime."""
    pairs, own = row.leads[lead], _by_seed(row, predictor)
    seeds = [seed for seed in pairs.seeds if seed in own and seed in row.dense]
    if not seeds:  # other seeds each: nothing is paired, and each is drawn for itself
        found = [list(own.values()), list(pairs.differences), list(row.dense.values())]
    else:
        by_seed = dict(zip(pairs.seeds, pairs.differences, strict=True))
        found = [[values[seed] for seed in seeds] for values in (own, by_seed, row.dense)]
    predicting, leads, dense = (_resampled(np.array(values), drawn) for values in found)
    return predicting, leads, dense


def _resampled(values: Floats, drawn: Floats) -> Floats:
    chosen = (drawn[:, : len(values)] * len(values)).astype(np.int64)
    return np.concatenate([[values.mean()], values[chosen].mean(axis=1)])


def draw_runs(runs: Integers, resamples: int, random: np.random.Generator) -> Floats:
    """How often each regime's dense run is drawn: (resamples, regimes)."""
    count = int(runs.max()) + 1
    drawn = random.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return drawn[:, runs].astype(np.float64)


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    ranks = weighted_ranks(x, weights), weighted_ranks(y, weights)
    return partial_correlation(*ranks, constant(*x.shape), weights)


def _partial(x: Floats, draws: Draws, sparsity: Floats, weights: Floats) -> Floats:
    """Of ranks, given the ranks of sparsity and of the dense score."""
    beside = (np.broadcast_to(sparsity, x.shape), draws.dense)
    ranks = [weighted_ranks(values, weights) for values in (x, draws.lead, *beside)]
    covariates = np.stack([np.ones_like(x), *ranks[2:]], axis=2)
    return partial_correlation(ranks[0], ranks[1], covariates, weights)


def _permuted(
    x: Floats, y: Floats, runs: Integers, resamples: int, random: np.random.Generator
) -> tuple[float | None, float | None]:
    """One-sided p-values of Spearman's ρ where the predictor is dealt out anew among dense runs."""
    of_run = np.array([x[runs == run].mean() for run in range(runs.max() + 1)])
    dealt = random.permuted(np.tile(of_run, (resamples, 1)), axis=1)[:, runs]
    ones = np.ones((resamples + 1, len(x)))
    rhos = _spearman(np.concatenate([of_run[None, runs], dealt]), np.tile(y, (resamples + 1, 1)), ones)
    return p_values(rhos)


def _freedman_lane(
    x: Floats, y: Floats, covariates: Floats, strata: Integers, resamples: int, random: np.random.Generator
) -> tuple[float | None, float | None]:
    """One-sided p-values of a partial correlation: what the covariates leave of y is dealt out anew in each stratum."""
    maker = np.eye(len(x)) - covariates @ np.linalg.pinv(covariates)
    orders = np.concatenate([np.arange(len(x))[None], _shuffled(strata, resamples, random)])
    left = (maker @ y)[orders] @ maker
    squares = np.sum(left**2, axis=1)
    return p_values(left @ (maker @ x) / np.sqrt(np.where(squares > 1e-18, squares, np.nan)))


def _shuffled(strata: Integers, count: int, random: np.random.Generator) -> Integers:
    """So many orders of all places in which each stays within its stratum: (count, places)."""
    drawn = np.argsort(strata + random.random((count, len(strata))), axis=1)  # by stratum, in any order within it
    return drawn[:, np.argsort(np.argsort(strata, kind="stable"))]


def p_values(statistics: Floats) -> tuple[float | None, float | None]:
    """Shares of the values (the data's own is the first) at least as large, and at least as small, as the first."""
    if not np.isfinite(statistics[0]):
        return None, None
    values = statistics[np.isfinite(statistics)]
    return float(np.mean(values >= values[0] - 1e-12)), float(np.mean(values <= values[0] + 1e-12))


def _runs(rows: Sequence[Regime]) -> Integers:
    """The dense run of each regime as a number from 0."""
    return _numbered([row.setting for row in rows])


def _strata(rows: Sequence[Regime], within: Within) -> tuple[list[Regime], Integers]:
    """Regimes of one task and mask that are alike in length or rate, where there are two of a kind."""
    key: Callable[[Regime], object] = {"length": lambda row: row.epochs, "rate": lambda row: row.learning_rate}[within]
    keys = [(row.task, row.mask, key(row)) for row in rows]
    kept = [(row, at) for row, at in zip(rows, keys, strict=True) if keys.count(at) > 1]
    return [row for row, _ in kept], _numbered([at for _, at in kept])


def _numbered(keys: Sequence[object]) -> Integers:
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _dummies(strata: Integers, count: int) -> Floats:
    one = (strata[:, None] == np.arange(strata.max() + 1)[None, :]).astype(np.float64)
    return np.broadcast_to(one, (count, *one.shape))


def has(row: Regime, predictor: str) -> bool:
    """Whether the regime has the predictor; R_p's excess is what makes it a regime."""
    return row.kappa is not None if predictor == "kappa" else bool(_by_seed(row, predictor))


def value_of(row: Regime, predictor: str) -> float:
    """The predictor of a regime that has it: kappa, else the mean over seeds."""
    if predictor == "kappa":
        return given(row.kappa, "only regimes with a kappa are asked for it")
    values = _by_seed(row, predictor).values()
    return math.fsum(values) / len(values)


def _by_seed(row: Regime, predictor: str) -> Mapping[int, float]:
    """What resampling draws from; kappa is the recipe's and has no seeds, so that the seeds of R_p are drawn there."""
    return row.quantities.get(predictor, {}) if predictor in QUANTITIES else row.excess


def _own(rows: Sequence[Regime], predictor: str) -> Floats:
    """The data's own values of a predictor."""
    return np.array([value_of(row, predictor) for row in rows], dtype=np.float64)


def weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Average ranks (B, n) of values (B, n); only the order of values within a resample counts.

    >>> weighted_ranks(np.array([[5.0, 3.0, 3.0]]), np.array([[1.0, 1.0, 1.0]])).tolist()
    [[3.0, 1.5, 1.5]]
    """
    count, n = values.shape
    step = max(1, CHUNK // max(1, n * n))
    return np.concatenate([_ranks(values[i : i + step], weights[i : i + step]) for i in range(0, count, step)])


def _ranks(values: Floats, weights: Floats) -> Floats:
    ahead = values[:, None, :] < values[:, :, None]
    equal = values[:, None, :] == values[:, :, None]
    below = np.einsum("bij,bj->bi", ahead, weights)
    same = np.einsum("bij,bj->bi", equal, weights)
    return below + (same + 1.0) / 2.0


def residuals(values: Floats, covariates: Floats, weights: Floats) -> Floats:
    """What weighted least squares on the covariates (B, n, k) leaves of values (B, n)."""
    weighted = covariates * weights[:, :, None]
    moments = np.einsum("bnk,bnl->bkl", weighted, covariates)
    targets = np.einsum("bnk,bn->bk", weighted, values)
    found = np.einsum("bkl,bl->bk", np.linalg.pinv(moments, rcond=1e-12, hermitian=True), targets)
    return values - np.einsum("bnk,bk->bn", covariates, found)


def partial_correlation(first: Floats, second: Floats, covariates: Floats, weights: Floats) -> Floats:
    """Correlation (B,) of what the covariates (which hold the constant) leave; NaN where they leave nothing."""
    ones, twos = residuals(first, covariates, weights), residuals(second, covariates, weights)
    together = np.sum(weights * ones * twos, axis=1)
    squares = _left(ones, first, weights) * _left(twos, second, weights)
    return together / np.sqrt(squares)


def partial_slope(x: Floats, y: Floats, covariates: Floats, weights: Floats) -> Floats:
    """Change of y with x (B,) beside the covariates; NaN where they determine x."""
    left = residuals(x, covariates, weights)
    return np.sum(weights * left * y, axis=1) / _left(left, x, weights)


def _left(found: Floats, values: Floats, weights: Floats) -> Floats:
    """Sums of squares of residuals, NaN where they are nothing but rounding."""
    centred = values - (np.sum(weights * values, axis=1) / np.sum(weights, axis=1))[:, None]
    total = np.sum(weights * centred**2, axis=1)
    squares = np.sum(weights * found**2, axis=1)
    return np.where(squares > np.maximum(LEAST_SHARE * total, 1e-18), squares, np.nan)


def constant(count: int, n: int) -> Floats:
    """The covariates that are a constant alone, of shape (count, n, 1)."""
    return np.ones((count, n, 1))


def interval(values: Floats, alpha: float) -> tuple[float | None, float | None]:
    """Percentile interval at level 1 - alpha of what is not NaN; nothing where more than a tenth is NaN."""
    known = values[np.isfinite(values)]
    if known.size < 0.9 * values.size or not known.size:
        return None, None
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def known(value: Any) -> float | None:
    """A plain number, None for NaN."""
    return float(value) if np.isfinite(value) else None
