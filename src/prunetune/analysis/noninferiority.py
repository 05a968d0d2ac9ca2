"""Non-inferiority of pruned networks: which of several, tried in a fixed order, lose at most so much.

A candidate's drop is the mean over seeds of how much worse it scores than the dense network of the same seed. It is
within `max_drop` where the upper one-sided t bound of that mean is: the test of the null hypothesis "the true drop is
`max_drop` or more" (a non-inferiority test, as in Piaggio et al. 2012, JAMA 308, pp. 2594-2604).

Two things are drawn: the seeds, and the held-out examples that all seeds share. The variance of the mean is bounded by
the sum of what either says of it: the variance over seeds by n, and the delete-a-group jackknife's over examples (both
count what an example does to a single seed, so that the sum is on the safe side). Its degrees of freedom are
Satterthwaite's. Without blocks of examples it is the ordinary paired t test, for these very examples.

Candidates stand in chains, each from gentle to strong, in an order that is fixed before any of them is looked at. The
error rate alpha is shared equally among the chains (Bonferroni), and within a chain every candidate is tested at the
chain's whole share as long as all before it were within; after the first that is not, none is tested (the fixed
sequence of Maurer, Hothorn & Lehmacher 1995; over hyperparameters: Angelopoulos et al. 2021, arXiv 2110.01052, sec. 4).
A false answer needs the first candidate of some chain whose true drop is too large to be called within, so its chance
is at most alpha whatever the number of candidates, and whatever their results have in common.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunetune.analysis.statistics import Estimate, Sample, plain
from prunetune.analysis.verdict import PLANNING_SLACK

MOST_SEEDS = 100  # beyond these, more seeds are no advice


@dataclass(frozen=True)
class Drop:
    """The mean drop over `n` seeds, above 0 where the pruned network is worse, and its upper bound at `level`.

    `of_seeds` and `of_examples` are the standard errors of the mean that either brings.

    Without a spread there is no bound, and the drop is never within anything: scores come in steps of an example, so a
    few seeds may agree by chance.
    """

    n: int
    mean: float
    high: float | None
    level: float
    of_seeds: float = 0.0
    of_examples: float = 0.0

    @classmethod
    def of(cls, differences: Sequence[float], level: float, left_out: Sequence[float] = ()) -> "Drop":
        """From the drops of at least two seeds, and the mean drops with one block of the examples left out each."""
        estimate, sample = _estimate(differences, left_out), Sample.of(differences)
        high = None if estimate is None else estimate.high(level)
        errors = math.sqrt((sample.variance or 0.0) / sample.n), math.sqrt(_of_examples(left_out))
        return cls(sample.n, sample.mean, high, level, *errors)

    def within(self, max_drop: float) -> bool:
        """Whether the true drop is at most that, with confidence 1 - level."""
        return self.high is not None and self.high <= max_drop


def chain_level(alpha: float, chains: int) -> float:
    """The level of each of so many chains."""
    return alpha / chains


def interval(
    differences: Sequence[float], alpha: float, candidates: int, left_out: Sequence[float] = ()
) -> tuple[float, float] | None:
    """Two-sided bounds of a mean that hold with 1 - alpha for whichever of so many candidates was chosen (Bonferroni).

    None without a spread.
    """
    estimate = _estimate(differences, left_out)
    level = alpha / (2 * candidates)
    return None if estimate is None else (estimate.low(level), estimate.high(level))


def seeds_needed(
    differences: Sequence[float], level: float, max_drop: float, left_out: Sequence[float] = ()
) -> int | None:
    """In all, how many seeds would probably show that the drop is within, were mean and spread what they seem.

    Probably: in four of five repetitions, 0.84 standard errors above the mean. None where the mean itself is not
    within, and where it would take more than 100: the examples alone may leave too much open.
    """
    of_seeds = plain(Sample.of(differences))
    if of_seeds is None or of_seeds.mean >= max_drop:
        return None
    for seeds in range(len(differences), MOST_SEEDS + 1):
        more = _with_examples(replace(of_seeds, n=seeds, freedom=seeds - 1), left_out)
        if more is not None and more.shifted(PLANNING_SLACK).high(level) <= max_drop:
            return seeds
    return None


def _estimate(differences: Sequence[float], left_out: Sequence[float]) -> Estimate | None:
    of_seeds = plain(Sample.of(differences))
    return None if of_seeds is None else _with_examples(of_seeds, left_out)


def _with_examples(of_seeds: Estimate, left_out: Sequence[float]) -> Estimate | None:
    """The paired t's estimate with the variance that the examples add; None where all seeds agree."""
    if of_seeds.variance == 0.0:
        return None
    if not left_out:
        return of_seeds
    own, of_examples = of_seeds.variance / of_seeds.n, _of_examples(left_out)
    freedom = (own + of_examples) ** 2 / (own**2 / of_seeds.freedom + of_examples**2 / (len(left_out) - 1))
    return replace(of_seeds, variance=of_seeds.n * (own + of_examples), freedom=math.floor(freedom))


def _of_examples(left_out: Sequence[float]) -> float:
    """The delete-a-group jackknife's variance of the mean drop."""
    blocks = len(left_out)
    centre = math.fsum(left_out) / blocks if blocks else 0.0
    return (blocks - 1) / blocks * math.fsum((value - centre) ** 2 for value in left_out) if blocks else 0.0
