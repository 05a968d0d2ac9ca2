"""Rank and partial correlations of many weighted samples at once, for resampling.

Shapes: `B` resamples, `n` units, `k` covariates. A weight is how often a unit was drawn; a unit with weight 0 takes no
part. Results agree with those of the sample written out (each unit repeated as often as its weight says).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_SHARE = 1e-9  # of a variable's sum of squares: what rounding leaves of one that the covariates determine
CHUNK = 4_000_000  # pairs of units compared at once


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
