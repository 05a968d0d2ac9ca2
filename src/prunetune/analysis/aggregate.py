"""Arms over all regimes, as rliable does (Agarwal et al. 2021): regimes are the tasks, seeds the runs.

An arm's score is its accuracy less the dense run's of the same seed, in points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import trim_mean

from prunetune.analysis.ranks import Floats, interval
from prunetune.analysis.regimes import Regime
from prunetune.analysis.relations import RESAMPLES, SEED

QUARTER = 0.25


@dataclass(frozen=True)
class ArmScore:
    """The interquartile mean of an arm's scores over regimes and seeds, with its interval."""

    arm: str
    regimes: int
    iqm: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Improvement:
    """P(first > second) + P(equal) / 2 over pairs of seeds, the mean over the regimes that both have."""

    first: str
    second: str
    regimes: int
    probability: float
    low: float | None
    high: float | None


def arm_scores(regimes: Sequence[Regime], alpha: float, resamples: int = RESAMPLES) -> tuple[ArmScore, ...]:
    """Every arm, sorted by name."""
    return tuple(_arm_score(arm, regimes, alpha, resamples) for arm in _arms(regimes))


def improvements(
    regimes: Sequence[Regime], over: Sequence[str], alpha: float, resamples: int = RESAMPLES
) -> tuple[Improvement, ...]:
    """Every arm over each of those named in `over`, where some regime has both."""
    pairs = [(first, second) for second in over for first in _arms(regimes) if first != second]
    found = (_improvement(first, second, regimes, alpha, resamples) for first, second in pairs)
    return tuple(row for row in found if row is not None)


def interquartile_mean(scores: Floats) -> Floats:
    """Of the last axis: the mean of what is left when a quarter of the values (rounded down) is cut at either end.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 3.0, 100.0])))
    2.0
    """
    return np.asarray(trim_mean(scores, QUARTER, axis=-1))


def probability(first: Floats, second: Floats) -> Floats:
    """P(first > second) + P(equal) / 2 over all pairs of the last axis."""
    ones, twos = first[..., :, None], second[..., None, :]
    return ((ones > twos) + 0.5 * (ones == twos)).mean(axis=(-2, -1))


def _arms(regimes: Sequence[Regime]) -> list[str]:
    return sorted({arm for row in regimes for arm in row.arms})


def _scores(row: Regime, *arms: str) -> list[Floats]:
    """Of the seeds that all of the arms and the dense run have; nothing without one."""
    values = [row.arms.get(arm, {}) for arm in arms]
    seeds = sorted(set(row.dense).intersection(*values)) if all(values) else []
    return [np.array([value[seed] - row.dense[seed] for seed in seeds]) for value in values] if seeds else []


def _arm_score(arm: str, regimes: Sequence[Regime], alpha: float, resamples: int) -> ArmScore:
    found = [scores[0] for row in regimes if (scores := _scores(row, arm))]
    if not found:
        return ArmScore(arm, 0, float("nan"), None, None)
    drawn = _drawn(found, resamples)
    spread = interquartile_mean(np.concatenate([scores[at] for scores, at in zip(found, drawn, strict=True)], axis=1))
    return ArmScore(arm, len(found), float(interquartile_mean(np.concatenate(found))), *interval(spread, alpha))


def _improvement(
    first: str, second: str, regimes: Sequence[Regime], alpha: float, resamples: int
) -> Improvement | None:
    found = [(scores[0], scores[1]) for row in regimes if (scores := _scores(row, first, second))]
    if not found:
        return None
    drawn = _drawn([ones for ones, _ in found], resamples)
    spread = np.mean([probability(ones[at], twos[at]) for (ones, twos), at in zip(found, drawn, strict=True)], axis=0)
    value = float(np.mean([probability(ones, twos) for ones, twos in found]))
    return Improvement(first, second, len(found), value, *interval(spread, alpha))


def _drawn(found: Sequence[Floats], resamples: int) -> list[np.ndarray]:
    """Places of the seeds drawn with replacement within each regime: (resamples, seeds) of each."""
    random = np.random.default_rng(SEED)
    return [random.integers(0, len(scores), size=(resamples, len(scores))) for scores in found]
