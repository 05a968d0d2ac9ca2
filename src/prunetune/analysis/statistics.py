"""Means over few seeds: t bounds, shrunk variances, p-values, Holm's correction, and the levels of repeated looks.

Numbers only, no trials.
Looking several times at level alpha says `holds` or `fails` falsely more often than alpha. So alpha is spent: by the
time the share t of the most seeds is in, alpha * ln(1 + (e - 1) t) of it in all, Lan and DeMets' (1983) spending
function of Pocock's type. What a look adds is its level. The levels sum to alpha, so that the chance of a false
answer at any look is at most alpha whatever the joint distribution of the looks: t tests with shrunk variances and
Holm's correction are no normal increments, for which exact bounds are tabled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.special import stdtr, stdtrit

from prunetune.core.limits import looks
from prunetune.core.metric import ACCURACY, Metric
from prunetune.errors import ConfigError

DIGITS = 12  # of a mean in points: accuracies have far fewer, the rest is the rounding of floats
SETTINGS = ("margin", "gap", "alpha", "nontrivial_sparsity")  # of a spec's `verdict`: those that are numbers
Family = Literal["study", "cell"]
FAMILIES: tuple[Family, ...] = ("study", "cell")
SMALLEST_VARIANCE = 1e-18  # points squared: what rounding leaves of differences that are all equal


@dataclass(frozen=True)
class Rule:
    """How a verdict is reached (docs/explanation/verdict.md); margin and gap are differences of the metric's scores."""

    margin: float = 0.5  # what still counts as a similar score
    gap: float = 0.5  # the least estimated difference worth calling notable
    alpha: float = 0.05
    nontrivial_sparsity: float = 0.5
    family: Family = "study"  # the tests that Holm's correction runs over: the study's, or those of each verdict
    looks: tuple[int, ...] = ()  # where seeds may be added: the numbers of them at which a verdict is asked for
    metric: Metric = ACCURACY  # of the scores

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> "Rule":
        """The rule of a resolved spec (the `study` of results.json); what that leaves out has its default.

        A study of before there was a `family` was judged by `cell`, and is so again. Raises ConfigError for a value
        that is not a finite number, an alpha outside (0, 1) or a negative margin, for a range of seeds that does not
        grow, for an unknown family, and for a metric that is not described in full.
        """
        given = study.get("verdict") or {}
        settings = {name: _setting(name, given[name]) for name in SETTINGS if name in given}
        family, looks = _family(given.get("family", "cell")), _looks(study.get("seeds"))
        return cls(**settings, family=family, looks=looks, metric=Metric.of(study))

    def family_error(self, verdicts: int) -> float:
        """The most by which the chance of any false `holds` among so many verdicts is bounded."""
        return self.alpha if self.family == "study" else min(1.0, verdicts * self.alpha)


def _family(value: Any) -> Family:
    if value not in FAMILIES:
        raise ConfigError(f"verdict.family: is {value!r}; must be {' or '.join(FAMILIES)}")
    return value


def _looks(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, Mapping):
        return ()
    least, most = seeds.get("min"), seeds.get("max")
    if type(least) is not int or type(most) is not int or not 2 <= least < most:
        raise ConfigError(f"seeds: is {dict(seeds)!r}; must be a range such as {{'min': 5, 'max': 20}}")
    return looks(least, most)


def _setting(name: str, value: Any) -> float:
    high = 1.0 if name in ("alpha", "nontrivial_sparsity") else math.inf
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 <= value < high or (name == "alpha" and value == 0):
        limits = "between 0 and 1" if high == 1.0 else "of at least 0"
        raise ConfigError(f"verdict.{name}: is {value!r}; it must be a number {limits}")
    return float(value)


USUAL_RULE = Rule()


@dataclass(frozen=True)
class Sample:
    """Size, mean and unbiased variance of paired differences; the variance is None for fewer than two."""

    n: int
    mean: float
    variance: float | None

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Sample":
        """Summarise at least one difference."""
        n = len(differences)
        mean = round(math.fsum(differences) / n, DIGITS)
        if n < 2:
            return cls(n, mean, None)
        variance = math.fsum((value - mean) ** 2 for value in differences) / (n - 1)
        return cls(n, mean, 0.0 if variance < SMALLEST_VARIANCE else variance)


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` differences whose variance is known with so many degrees of freedom."""

    n: int
    mean: float
    variance: float
    freedom: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance / self.n)

    def low(self, alpha: float) -> float:
        """Lower one-sided bound: the true mean is below it with probability `alpha` at most."""
        return self.mean - self._reach(alpha)

    def high(self, alpha: float) -> float:
        """Upper one-sided bound."""
        return self.mean + self._reach(alpha)

    def p_above(self, null: float) -> float:
        """One-sided p-value of "the true mean is above `null`"; without any spread it is 0 or 1."""
        if self.error == 0.0:
            return 0.0 if self.mean > null else 1.0
        return float(stdtr(self.freedom, -(self.mean - null) / self.error))

    def shifted(self, errors: float) -> "Estimate":
        """The same estimate with its mean moved by so many standard errors."""
        return replace(self, mean=self.mean + errors * self.error)

    def _reach(self, alpha: float) -> float:
        return float(stdtrit(self.freedom, 1.0 - alpha)) * self.error


def plain(sample: Sample | None) -> Estimate | None:
    """The ordinary paired t: own variance, n - 1 degrees of freedom. None for fewer than two differences."""
    if sample is None or sample.variance is None:
        return None
    return Estimate(sample.n, sample.mean, sample.variance, sample.n - 1)


def shrink(samples: Sequence[Sample | None]) -> list[Estimate | None]:
    """Estimates whose variances are shrunk half-way to the pooled one (docs/explanation/verdict.md), one per sample.

    s~2 = (2 s2_pooled + (n - 1) s2_own) / (n + 1), with n + 1 degrees of freedom but never more than the samples hold
    together: one sample alone has nothing to lean on, and its estimate is the ordinary paired t. A sample of one has
    no variance of its own, enters no pool and gets None.
    """
    known = [(sample.n, sample.variance) for sample in samples if sample is not None and sample.variance is not None]
    if not known:
        return [None] * len(samples)
    pooled = math.fsum(variance for _, variance in known) / len(known)
    freedom = sum(n - 1 for n, _ in known)
    return [None if sample is None else _shrunk(sample, pooled, freedom) for sample in samples]


def _shrunk(sample: Sample, pooled: float, freedom: int) -> Estimate | None:
    if sample.variance is None:
        return None
    n = sample.n
    variance = (2.0 * pooled + (n - 1) * sample.variance) / (n + 1)
    return Estimate(n, sample.mean, variance, min(n + 1, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: reject where they are below alpha.

    >>> holm([0.25, 0.125])
    [0.25, 0.25]
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


@dataclass(frozen=True)
class Look:
    """A number of seeds at which a verdict is asked for, the level of its bounds, and what is spent by then."""

    seeds: int
    alpha: float
    spent: float


def spent(alpha: float, share: float) -> float:
    """Of an error rate alpha, what may be spent when `share`, in [0, 1], of the most seeds is in."""
    return alpha * math.log1p((math.e - 1) * share)


def plan_looks(alpha: float, seeds: Sequence[int]) -> tuple[Look, ...]:
    """The looks of a study that is judged at these growing numbers of seeds; one alone is at `alpha` itself.

    >>> [round(look.alpha, 4) for look in plan_looks(0.05, (5, 10, 15, 20))]
    [0.0179, 0.0131, 0.0104, 0.0086]
    """
    totals = [spent(alpha, count / seeds[-1]) for count in seeds[:-1]] + [alpha]
    before = [0.0, *totals[:-1]]
    return tuple(Look(n, now - then, now) for n, then, now in zip(seeds, before, totals, strict=True))


def taken(rule: Rule, reached: int) -> tuple[Look, ...]:
    """The looks that a study with `reached` seeds has taken: the first in any case."""
    first, *later = plan_looks(rule.alpha, rule.looks)
    return (first, *(look for look in later if look.seeds <= reached))
