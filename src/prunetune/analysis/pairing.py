"""Which trainings may enter a comparison, paired by seed; what is left out is named and never averaged in silently."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prunetune.core.metric import ACCURACY, Metric
from prunetune.errors import ConfigError
from prunetune.rows import Missing, Trial

Place = tuple[str, str | None, float, float]  # arm, mask, learning rate, sparsity
Answer = Literal["yes", "no", "undecided"]

NEAR_CEILING = 5.0  # percent of errors of a baseline from which on a difference in points alone misleads


@dataclass(frozen=True)
class Pairs:
    """Seed-paired differences, what was left out, and the answers that this forbids.

    A difference is by how much the first score is better than the second: first - second, or where lower scores are
    better second - first.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    notes: tuple[str, ...] = ()
    blocked_answers: frozenset[Answer] = frozenset()
    error_change: float | None = None  # mean error of `first` over that of `second`, less 1, where it is shown
    metric: Metric = ACCURACY


@dataclass(frozen=True)
class Chance:
    """What guessing scores, with what does not tell a score from it.

    Of accuracy in percent that is the noise of a finite test set (three standard deviations), of others the margin.
    """

    score: float
    noise: float
    metric: Metric = ACCURACY

    @classmethod
    def of(
        cls,
        outputs: int | None = None,
        test_images: int = 10_000,
        chance: float | None = None,
        metric: Metric = ACCURACY,
    ) -> "Chance | None":
        """The level of always naming the test labels' most frequent class, `chance` percent of them.

        Where `chance` is not known, that of equally frequent classes, 100 / outputs; None where that is not known. Of
        another metric than accuracy, `chance` is what guessing scores.
        """
        if not metric.is_accuracy:
            return None if chance is None else cls(chance, metric.margin, metric)
        if test_images < 1 or (chance is None and (outputs is None or outputs < 2)):
            return None
        share = chance / 100.0 if chance is not None else 1.0 / (outputs or 1)
        return cls(100.0 * share, 300.0 * math.sqrt(share * (1.0 - share) / test_images))

    def holds(self, score: float) -> bool:
        """Whether a score is no better than guessing."""
        return self.metric.oriented(score) <= self.metric.oriented(self.score) + self.noise


def guessing(environment: Mapping[str, Any], metric: Metric = ACCURACY) -> dict[str, Any]:
    """What the `environment` of results.json says of guessing, as the arguments of `Chance.of` besides the metric."""
    counts = {name: environment.get(name) for name in ("outputs", "test_images")}
    known: dict[str, Any] = {name: value for name, value in counts.items() if type(value) is int}
    chance = environment.get("chance")
    if isinstance(chance, int | float) and not isinstance(chance, bool) and math.isfinite(chance):
        known |= {"chance": float(chance)} if 0 < chance <= 100 or not metric.is_accuracy else {}
    return known


class Evidence:
    """The trials of a study by arm, mask, rate, sparsity and seed.

    In a `ragged` study, one that adds seeds only where a verdict is undecided, places differ in their seeds: those that
    have a row, be it of what is missing.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        missing: Sequence[Missing] = (),
        chance: Chance | None = None,
        ragged: bool = False,
        metric: Metric = ACCURACY,
    ) -> None:
        self.metric = metric
        self.chance = chance
        self.ragged = ragged
        self._trials: dict[Place, dict[int, Trial]] = {}
        self._missing: dict[Place, dict[int, Missing]] = {}
        for trial in trials:
            self._file(trial)
        for gone in missing:
            self._missing.setdefault(_place(gone), {})[gone.seed] = gone
        self.seeds = tuple(sorted({row.seed for row in [*trials, *missing]}))
        self.places = frozenset([*self._trials, *self._missing])
        self.arms = frozenset(arm for arm, *_ in self.places)

    def scores(self, place: Place) -> dict[int, float]:
        """The score on the test data by seed, diverged and missing trainings left out."""
        found = self._trials.get(place, {})
        values = {seed: _score(trial) for seed, trial in sorted(found.items())}
        return {seed: value for seed, value in values.items() if value is not None}

    def epochs(self, place: Place) -> int | None:
        """For how many epochs the trainings here were trained; None where there are none."""
        return next((trial.epochs for trial in self._trials.get(place, {}).values()), None)

    def keys(self, place: Place) -> frozenset[str]:
        """The steps that the results here come from: two places with the same are one training under two names."""
        return frozenset(trial.key for trial in self._trials.get(place, {}).values())

    def chosen_by(self, place: Place) -> float | None:
        """The mean by which a best one is chosen, more being better: on held-out data where there are some.

        Else it is on the test data, and what is chosen by the data that it is then reported on looks better than it is.
        """
        mean = mean_of(self._validation(place) if self.held_out(place) else self.scores(place))
        return None if mean is None else self.metric.oriented(mean)

    def held_out(self, place: Place) -> bool:
        """Whether `chosen_by` is of the held-out data: every result here has one of those."""
        return len(self._validation(place)) == len(self.scores(place))

    def _validation(self, place: Place) -> dict[int, float]:
        found = {seed: self._trials[place][seed].validation_score for seed in self.scores(place)}
        return {seed: value for seed, value in found.items() if value is not None}

    def diverged(self, place: Place) -> tuple[int, ...]:
        """Seeds whose training here diverged."""
        found = self._trials.get(place, {})
        return tuple(sorted(seed for seed, trial in found.items() if _score(trial) is None))

    def cut_off(self, place: Place) -> tuple[int, ...]:
        """Seeds that could not be trained here because a training that they build on diverged."""
        found = self._missing.get(place, {})
        return tuple(sorted(seed for seed, gone in found.items() if not gone.failed))

    def absent(self, place: Place) -> tuple[int, ...]:
        """Seeds of the study that have no result here for any other reason: failed or not run."""
        known = {*self._trials.get(place, {}), *self.cut_off(place)}
        return tuple(seed for seed in self._asked(place) if seed not in known)

    def _asked(self, place: Place) -> Sequence[int]:
        return sorted({*self._trials.get(place, {}), *self._missing.get(place, {})}) if self.ragged else self.seeds

    def at_chance(self, place: Place) -> tuple[int, ...]:
        """Seeds whose accuracy is no better than guessing."""
        if self.chance is None:
            return ()
        return tuple(seed for seed, value in self.scores(place).items() if self.chance.holds(value))

    def notes(self, place: Place) -> tuple[str, ...]:
        """What was left out of a mean over seeds, one phrase each; nothing of an arm that the study does not have."""
        if place[0] not in self.arms:
            return ()
        causes = {
            "diverged": self.diverged(place),
            "could not start, a training that it builds on having diverged,": self.cut_off(place),
            "has no result": self.absent(place),
        }
        name = name_of(place)
        return tuple(
            f"{name} {cause} in {seeds_named(seeds)}: left out of the means" for cause, seeds in causes.items() if seeds
        )

    def pairs(self, first: Place, second: Place) -> Pairs:
        """By how much `first` is better in each seed, where `second` is a baseline that must have trained.

        A seed in which either diverged is left out, and so is one in which the baseline is no better than guessing.
        Leaving out a diverged `first` flatters it, so a `yes` is then forbidden; a baseline at chance forbids both.
        """
        above, below = self.scores(first), self.scores(second)
        at_chance = set(self.at_chance(second))
        seeds = tuple(seed for seed in self.seeds if seed in above and seed in below and seed not in at_chance)
        differences = tuple(self.metric.oriented(round(above[seed] - below[seed], 9)) for seed in seeds)
        notes = [*self.notes(first), *self.notes(second), *self._chance_notes(first, second)]
        if len(seeds) > 1 and len(set(differences)) == 1 and self.keys(first) != self.keys(second):
            notes.append(
                f"{name_of(first)} minus {second[0]} is the same in all seeds: check that seeds reach the training"
            )
        blocked_answers: set[Answer] = {"yes", "no"} if at_chance else set()
        if {*self.diverged(first), *self.cut_off(first)} & below.keys():
            blocked_answers.add("yes")
        change = self._error_change([above[seed] for seed in seeds], [below[seed] for seed in seeds])
        forbidden = frozenset(blocked_answers)
        return Pairs(first[0], second[0], seeds, differences, tuple(notes), forbidden, change, self.metric)

    def _error_change(self, above: Sequence[float], below: Sequence[float]) -> float | None:
        """The relative change in mean error, where the second is near the ceiling and scores are accuracies."""
        if self.chance is None or not self.metric.is_accuracy or not below:
            return None
        errors, others = (100.0 - math.fsum(values) / len(values) for values in (above, below))
        if not 0.0 < round(others, 9) <= NEAR_CEILING:
            return None
        return errors / others - 1.0

    def _chance_notes(self, first: Place, second: Place) -> tuple[str, ...]:
        notes = []
        if at_chance := self.at_chance(first):
            notes.append(f"{name_of(first)} is no better than guessing in {seeds_named(at_chance)}: counted as it is")
        if at_chance := self.at_chance(second):
            notes.append(
                f"the baseline {name_of(second)} is stuck at chance in {seeds_named(at_chance)}: "
                "left out of the means, and a comparison with it is not to be trusted"
            )
        return tuple(notes)

    def _file(self, trial: Trial) -> None:
        seeds = self._trials.setdefault(_place(trial), {})
        known = seeds.setdefault(trial.seed, trial)
        if _score(known) != _score(trial):
            unit = " percent" if self.metric.unit == "%" else f" {self.metric.unit}".rstrip()
            raise ConfigError(
                f"trials: {name_of(_place(trial))}, seed {trial.seed}, is there twice, with {known.score} "
                f"and {trial.score}{unit}; each trial must have one result"
            )


def name_of(place: Place) -> str:
    """`dense at learning rate 0.1`, or `ticket at sparsity 75 %` (its rate and mask are the verdict's)."""
    arm, mask, rate, sparsity = place
    return f"{arm} at learning rate {rate:g}" if mask is None else f"{arm} at sparsity {percent(sparsity)}"


def percent(sparsity: float) -> str:
    """A share as it is written for a reader.

    >>> percent(0.9375), percent(0.3858749999)
    ('93.75 %', '38.59 %')
    """
    return f"{round(100.0 * sparsity, 2):g} %"


def signed(value: float, digits: int = 2) -> str:
    """A difference as it is written for a reader: with its sign, and a true minus, as wide as a plus.

    >>> signed(-0.125), signed(2.0, 1)
    ('−0.12', '+2.0')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def seeds_named(seeds: Sequence[int]) -> str:
    """`seed 3`, or `seeds 1, 2 and 4`."""
    texts = [str(seed) for seed in seeds]
    return f"seed {texts[0]}" if len(texts) == 1 else f"seeds {', '.join(texts[:-1])} and {texts[-1]}"


def seed_range(trials: Sequence[Trial]) -> str:
    """How many seeds the cells (rate and mask algorithm) of a ragged study have: `5`, or `5 to 20`."""
    seeds: dict[tuple[float, str], set[int]] = {}
    for trial in trials:
        if trial.mask is not None:
            seeds.setdefault((trial.learning_rate, trial.mask), set()).add(trial.seed)
    counts = sorted({len(found) for found in seeds.values()})
    return " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]]))) or "0"


def mean_of(values: Mapping[int, float]) -> float | None:
    """Mean over seeds, None for none."""
    return math.fsum(values.values()) / len(values) if values else None


def _place(row: Trial | Missing) -> Place:
    return row.arm, row.mask, row.learning_rate, row.sparsity


def _score(trial: Trial) -> float | None:
    score = trial.score
    if trial.diverged or score is None or not math.isfinite(score):
        return None
    return score
