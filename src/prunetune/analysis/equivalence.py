"""Which starts are as good as the best: every arm against every other, by non-inferiority within the margin.

An arm is *as good as the best* where it is surely less than the margin worse than each of the others. All of these
one-sided tests must succeed, so that together they are of level alpha without a correction (an intersection-union test;
Berger 1982, Technometrics 24), and it need not be known which arm is the best: nothing is chosen by the data that then
test it. Over the arms, of each of which this is asked, Holm's correction runs.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunetune.analysis.comparison import as_scored
from prunetune.analysis.noninferiority import seeds_needed
from prunetune.analysis.pairing import Answer, Chance, Evidence, Place, mean_of
from prunetune.analysis.statistics import USUAL_RULE, Estimate, Rule, Sample, holm, plain
from prunetune.errors import given
from prunetune.rows import Missing, Spent, Trial

REINIT = "reinit"
_AT_HAND = ("finetune", "ticket", "rewind")  # of equal cost: the end of the dense training is there, its start was
Cell = tuple[float, str]  # a learning rate and a mask algorithm


@dataclass(frozen=True)
class Standing:
    """An arm at one learning rate, mask algorithm and sparsity beside the candidate with the best mean there.

    `difference` is its score less the best's, in the metric's unit, with a two-sided interval at 1 − alpha: of paired
    seeds, and none for the best itself or where there is one seed. `p` is of "less than the margin worse than each
    candidate", uncorrected: the largest of the one-sided paired t tests. 1 where there is one seed.
    """

    learning_rate: float
    mask: str
    sparsity: float
    arm: str
    control: bool  # it is compared with the candidates and is none of them
    n: int
    score: float
    best: str
    difference: float
    low: float | None
    high: float | None
    p: float
    as_good: Answer  # yes: p < alpha; no: surely more than the margin worse than the best

    @property
    def tie(self) -> bool:
        """Whether the interval does not tell it from the best."""
        return self.arm == self.best or self.low is None or self.high is None or self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class BestStarts:
    """What to train from at one learning rate and mask algorithm: one answer over all non-trivial sparsities."""

    learning_rate: float
    mask: str
    sparsities: tuple[float, ...]
    best: Mapping[float, str]  # the candidate with the best mean, by sparsity
    as_good: tuple[str, ...]  # as good as the best at every sparsity, the cheapest first
    p_holm: Mapping[str, float]  # of every candidate, over all sparsities, corrected for the number of candidates
    leads: tuple[float, float] | None  # least and most mean lead of `as_good` over reinit; None unless all are sure
    not_told_apart: tuple[str, ...]  # not told from the best at any sparsity, in the order of `as_good`
    seeds: int  # that it rests on
    seeds_needed: int | None  # in all, at which one would probably be shown; None where one is, or beyond 100

    @property
    def start(self) -> str | None:
        """The cheapest start that is as good as the best; None where none is shown to be."""
        return self.as_good[0] if self.as_good else None


def equivalence(
    trials: Sequence[Trial],
    rule: Rule = USUAL_RULE,
    *,
    missing: Sequence[Missing] = (),
    outputs: int | None = None,
    test_images: int = 10_000,
    chance: float | None = None,
    controls: Collection[str] = (),
    budget: Sequence[Spent] = (),
) -> tuple[tuple[Standing, ...], tuple[BestStarts, ...]]:
    """Every arm's standing, and the choice at every learning rate and mask algorithm, the best scores first.

    Before them come those with candidates at more sparsities: a mean without the hardest one is no better for that.

    Candidates at a sparsity are the arms besides `controls` that have a result better than guessing in every seed (see
    `judge`). Sparsities count from the rule's non-trivial one. Where seeds were added to some rates and masks only,
    each is judged by its own. `budget` tells the cheapest: the fewest epochs in all; of equals the end of the dense
    training, which is at hand, then its start, then a state that must be kept on the way.
    """
    evidence = Evidence(
        trials,
        missing,
        Chance.of(outputs, test_images, chance, rule.metric),
        ragged=bool(rule.looks),
        metric=rule.metric,
    )
    cells = sorted({(rate, mask) for _, mask, rate, _ in evidence.places if mask is not None})
    found = [_Rivals(evidence, rule, cell, frozenset(controls)) for cell in cells]
    standings = tuple(row for rivals in found for row in rivals.standings())
    ranked = sorted(
        (rivals for rivals in found if rivals.candidates), key=lambda it: (-len(it.candidates), -it.height, it.cell)
    )
    return standings, tuple(rivals.choice(budget) for rivals in ranked)


class _Rivals:
    """The arms at one learning rate and mask algorithm; sparsities without a candidate are left out."""

    def __init__(self, evidence: Evidence, rule: Rule, cell: Cell, controls: frozenset[str]) -> None:
        self.cell, self._evidence, self._rule = cell, evidence, rule
        here = [place for place in evidence.places if (place[2], place[1]) == cell]
        arms = {at: sorted(p[0] for p in here if p[3] == at and self._sound(p)) for at in sorted({p[3] for p in here})}
        rivals = {at: [arm for arm in found if arm not in controls] for at, found in arms.items()}
        self.candidates = {at: found for at, found in rivals.items() if found and at >= rule.nontrivial_sparsity}
        self._arms = {at: arms[at] for at in self.candidates}

    @property
    def height(self) -> float:
        """The mean over sparsities of the best candidate's score, more being better: on held-out data if it can be."""
        best = [max(self._rank(arm, at) for arm in found) for at, found in self.candidates.items()]
        return round(math.fsum(best) / len(best), 9)

    def standings(self) -> list[Standing]:
        """A row for every arm with results at every sparsity."""
        return [self._standing(arm, at) for at, arms in self._arms.items() for arm in arms]

    def choice(self, budget: Iterable[Spent]) -> BestStarts:
        """The arms that are candidates, and as good as the best, at all sparsities."""
        sparsities = tuple(self.candidates)
        everywhere = [arm for arm in self.candidates[sparsities[0]] if all(arm in c for c in self.candidates.values())]
        p = holm([max(self._p(arm, at) for at in sparsities) for arm in everywhere])
        corrected = dict(zip(everywhere, p, strict=True))
        costs = _costs(budget, self.cell, sparsities)
        shown = [arm for arm in everywhere if corrected[arm] < self._rule.alpha]
        ordered = sorted(everywhere, key=lambda arm: (costs.get(arm, 0), _handiness(arm), arm))
        as_good = tuple(arm for arm in ordered if arm in shown)
        needed = [n for arm in everywhere if (n := self._seeds_needed(arm, len(everywhere))) is not None]
        return BestStarts(
            *self.cell,
            sparsities,
            best={at: self._best(at) for at in sparsities},
            as_good=as_good,
            p_holm=corrected,
            leads=self._leads(as_good),
            not_told_apart=tuple(a for a in ordered if all(self._standing(a, at).tie for at in sparsities)),
            seeds=max(len(self._evidence.scores(self._place(arm, at))) for at in sparsities for arm in self._arms[at]),
            seeds_needed=None if as_good else min(needed, default=None),
        )

    def _best(self, sparsity: float) -> str:
        """The candidate with the best mean on the test data."""
        means = {arm: self._rule.metric.oriented(self._mean(arm, sparsity)) for arm in self.candidates[sparsity]}
        return max(sorted(means), key=lambda arm: round(means[arm], 9))

    def _standing(self, arm: str, sparsity: float) -> Standing:
        best, mean, p = self._best(sparsity), self._mean(arm, sparsity), self._p(arm, sparsity)
        estimate = None if arm == best else self._estimate(arm, best, sparsity)
        low, high = (
            (None, None) if estimate is None else as_scored(estimate, self._rule.alpha / 2, self._rule.metric)[1:]
        )
        behind = estimate is not None and estimate.high(self._rule.alpha) < -self._rule.margin
        return Standing(
            *self.cell,
            sparsity,
            arm,
            control=arm not in self.candidates[sparsity],
            n=len(self._evidence.scores(self._place(arm, sparsity))),
            score=mean,
            best=best,
            difference=round(mean - self._mean(best, sparsity), 9),
            low=low,
            high=high,
            p=p,
            as_good="yes" if p < self._rule.alpha else "no" if behind else "undecided",
        )

    def _p(self, arm: str, sparsity: float) -> float:
        """Of "less than the margin worse than every other candidate"; 1 where there is no other."""
        estimates = [self._estimate(arm, other, sparsity) for other in self.candidates[sparsity] if other != arm]
        return max((1.0 if e is None else e.p_above(-self._rule.margin) for e in estimates), default=1.0)

    def _seeds_needed(self, arm: str, candidates: int) -> int | None:
        """At how many seeds `arm` would probably be shown, at the level that is left by the correction at its worst."""
        found: list[int | None] = []
        for at, rivals in self.candidates.items():
            for other in rivals:
                if other != arm:
                    pairs = self._evidence.pairs(self._place(other, at), self._place(arm, at))
                    few = len(pairs.differences) < 2
                    level, margin = self._rule.alpha / candidates, self._rule.margin
                    found.append(None if few else seeds_needed(pairs.differences, level, margin))
        known = [seeds for seeds in found if seeds is not None]
        return max(known) if known and len(known) == len(found) else None

    def _leads(self, arms: Sequence[str]) -> tuple[float, float] | None:
        """Over reinit, where each of `arms` is surely better than it at every sparsity."""
        if REINIT in arms or not arms or not all(REINIT in found for found in self.candidates.values()):
            return None
        leads = [self._estimate(arm, REINIT, at) for arm in arms for at in self.candidates]
        sure = [lead.mean for lead in leads if lead is not None and lead.low(self._rule.alpha) > 0.0]
        return (min(sure), max(sure)) if len(sure) == len(leads) else None

    def _estimate(self, first: str, second: str, sparsity: float) -> Estimate | None:
        """By how much `first` is better: the ordinary paired t; of one training under two names without spread."""
        pairs = self._evidence.pairs(self._place(first, sparsity), self._place(second, sparsity))
        return plain(Sample.of(pairs.differences)) if pairs.differences else None

    def _sound(self, place: Place) -> bool:
        """Whether every seed has a result, and one that is better than guessing."""
        it = self._evidence
        return bool(it.scores(place)) and not (
            it.diverged(place) or it.cut_off(place) or it.absent(place) or it.at_chance(place)
        )

    def _mean(self, arm: str, sparsity: float) -> float:
        return given(mean_of(self._evidence.scores(self._place(arm, sparsity))), "such an arm has results")

    def _rank(self, arm: str, sparsity: float) -> float:
        return given(self._evidence.chosen_by(self._place(arm, sparsity)), "such an arm has results")

    def _place(self, arm: str, sparsity: float) -> Place:
        rate, mask = self.cell
        return arm, mask, rate, sparsity


def _costs(budget: Iterable[Spent], cell: Cell, sparsities: Collection[float]) -> dict[str, int]:
    """Epochs by arm, with those that its trainings rest on."""
    found: dict[str, int] = {}
    for row in budget:
        if (row.learning_rate, row.mask) == cell and row.sparsity in sparsities:
            epochs = row.pretraining_epochs + row.mask_epochs + row.training_epochs
            found[row.arm] = found.get(row.arm, 0) + epochs
    return found


def _handiness(arm: str) -> int:
    return _AT_HAND.index(arm) if arm in _AT_HAND else len(_AT_HAND)
