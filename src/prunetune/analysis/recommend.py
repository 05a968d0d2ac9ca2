"""What to train the sparse network from: the arm, mask and rate with the best score at each sparsity."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from prunetune.analysis.pairing import Chance, Evidence, Place, mean_of, seeds_named
from prunetune.analysis.statistics import USUAL_RULE, Rule, Sample, plain
from prunetune.core.metric import ACCURACY, Metric
from prunetune.errors import given
from prunetune.rows import Missing, Trial


@dataclass(frozen=True)
class Recommendation:
    """The best arm at one sparsity and its score less the runner-up's, over paired seeds.

    The difference, with its interval, is that of the scores as they are: negative where lower scores are better.
    """

    sparsity: float
    learning_rate: float
    arm: str
    mask: str
    score: float  # mean over seeds
    runner_up: str | None  # such as "rewind (iterative masks, learning rate 0.1)"; None without another candidate
    difference: float | None
    low: float | None  # two-sided interval at 1 - alpha; None with one seed
    high: float | None
    tie: bool  # no lead: the interval reaches zero, or one seed gives no interval
    left_out: tuple[str, ...] = ()  # arms that were no candidates, and why
    candidates: int = 1  # trainings that it is the best of
    chosen_on: Literal["validation", "test"] = "test"  # the data that it was chosen by; `score` is of the test's
    metric: Metric = ACCURACY

    @property
    def accuracy(self) -> float | None:
        """The score in percent; None of a task that has other scores."""
        return self.score if self.metric.is_accuracy else None

    @property
    def lead(self) -> float | None:
        """By how much it is better than the runner-up."""
        return None if self.difference is None else self.metric.oriented(self.difference)

    @property
    def behind(self) -> bool:
        """Whether it is surely worse than the runner-up on the test data, though better on those it was chosen by."""
        best = self.high if self.metric.higher_is_better else self.low
        return best is not None and self.metric.oriented(best) < 0.0

    @property
    def flattered(self) -> bool:
        """Whether `score` is of the best of several by the very data that it is reported on."""
        return self.candidates > 1 and self.chosen_on == "test"


def recommend(
    trials: Sequence[Trial],
    rule: Rule = USUAL_RULE,
    *,
    missing: Sequence[Missing] = (),
    outputs: int | None = None,
    test_images: int = 10_000,
    chance: float | None = None,
    controls: Collection[str] = (),
) -> tuple[Recommendation, ...]:
    """The best candidate at every sparsity, with its paired t interval over the runner-up (n - 1 degrees of freedom).

    The runner-up is another training: the first round of iterative pruning, say, is one with the one-shot mask's.
    Candidates are ranked by the held-out data where the study has some, and compared on the test data.

    A candidate is an arm that is not among `controls`, at one mask algorithm and learning rate, with a result that did
    not diverge in every seed of the study and a mean better than guessing (`outputs`, `test_images`, `chance`: see
    `judge`). A sparsity without candidates has no row. Where seeds were added to some rates and masks only, the seeds
    that all of them have count.
    """
    seeds = _common_seeds([*trials, *missing]) if rule.looks else math.inf
    evidence = Evidence(
        [row for row in trials if row.seed < seeds],
        [row for row in missing if row.seed < seeds],
        Chance.of(outputs, test_images, chance, rule.metric),
        metric=rule.metric,
    )
    places = sorted((place for place in evidence.places if place[1] is not None and place[0] not in controls), key=str)
    found = (
        _recommend_at([place for place in places if place[3] == sparsity], evidence, rule)
        for sparsity in sorted({place[3] for place in places})
    )
    return tuple(row for row in found if row is not None)


def _common_seeds(rows: Sequence[Trial | Missing]) -> int:
    """How many seeds every rate and mask algorithm has."""
    found: dict[tuple[float, str], int] = {}
    for row in rows:
        if row.mask is not None:
            found[row.learning_rate, row.mask] = max(found.get((row.learning_rate, row.mask), 0), row.seed + 1)
    return min(found.values(), default=0)


def place_named(place: Place) -> str:
    """`rewind (iterative masks, learning rate 0.1)`."""
    arm, mask, rate, _ = place
    return f"{arm} ({mask} masks, learning rate {rate:g})"


def _recommend_at(places: Sequence[Place], evidence: Evidence, rule: Rule) -> Recommendation | None:
    reasons = {place: _disqualified(place, evidence) for place in places}
    ranked = sorted((place for place in places if reasons[place] is None), key=lambda at: _rank(at, evidence))
    if not ranked:
        return None
    best = ranked[0]
    score = given(mean_of(evidence.scores(best)), "a candidate has results")
    left_out = tuple(f"{place_named(place)} {why}" for place, why in reasons.items() if why is not None)
    runner_up = next((place for place in ranked if evidence.keys(place) != evidence.keys(best)), None)
    difference, low, high = _lead(best, runner_up, evidence, rule)
    worst = low if rule.metric.higher_is_better else high
    tie = runner_up is not None and (worst is None or rule.metric.oriented(worst) <= 0.0)
    name = None if runner_up is None else place_named(runner_up)
    arm, mask, rate, sparsity = best
    return Recommendation(
        sparsity,
        rate,
        arm,
        str(mask),
        score,
        name,
        difference,
        low,
        high,
        tie,
        left_out,
        candidates=len({evidence.keys(place) for place in ranked}),
        chosen_on="validation" if all(map(evidence.held_out, ranked)) else "test",
        metric=rule.metric,
    )


def _disqualified(place: Place, evidence: Evidence) -> str | None:
    """Why a place is no candidate, if so."""
    if diverged := evidence.diverged(place):
        return f"diverged in {seeds_named(diverged)}"
    scores = evidence.scores(place)
    if lacking := [seed for seed in evidence.seeds if seed not in scores]:
        return f"has no result in {seeds_named(lacking)}"
    mean = mean_of(scores)
    if evidence.chance and mean is not None and evidence.chance.holds(mean):
        return "is no better than guessing"
    return None


def _rank(place: Place, evidence: Evidence) -> tuple[float, str]:
    mean = evidence.chosen_by(place)
    return (math.inf if mean is None else -round(mean, 9)), str(place)


def _lead(
    best: Place, runner_up: Place | None, evidence: Evidence, rule: Rule
) -> tuple[float | None, float | None, float | None]:
    """Mean difference of the scores and its two-sided interval."""
    if runner_up is None:
        return None, None, None
    above, below = evidence.scores(best), evidence.scores(runner_up)
    differences = tuple(round(above[seed] - below[seed], 9) for seed in evidence.seeds)
    sample = Sample.of(differences)
    estimate = plain(sample)
    if estimate is None:
        return sample.mean, None, None
    return sample.mean, estimate.low(rule.alpha / 2), estimate.high(rule.alpha / 2)
