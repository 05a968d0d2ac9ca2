"""Scores over studies: paired differences of any two cells, every cell's mean, and arms over all regimes.

A cell is an arm under a mask algorithm. Arms are aggregated as rliable does (Agarwal et al. 2021): regimes are the
tasks, seeds the runs, and an arm's value is by how much it is better than the dense run of the same seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunetune.analysis.regimes import SAME_SPARSITY, Regime, Study
from prunetune.analysis.relations import RESAMPLES, SEED, Floats, interval
from prunetune.analysis.statistics import Sample, plain
from prunetune.errors import ConfigError
from prunetune.rows import Trial

LEVEL = 0.95  # of the two-sided intervals
QUARTER = 0.25  # cut at either end for the interquartile mean

Cell = tuple[str, float, float]  # "arm mask", learning rate, sparsity
Places = Mapping[tuple[float, float], dict[int, float]]  # of one cell: (rate, sparsity) -> score by seed


@dataclass(frozen=True)
class CellDifference:
    """First less second over the seeds that both have; the interval is two-sided (paired t)."""

    first: str
    second: str
    of: str  # the study of two cells, the cell of two studies; empty where there is nothing to tell apart
    learning_rate: float
    sparsity: float
    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CellMean:
    """The mean, lowest and highest score of a cell over its seeds."""

    study: str
    cell: str
    learning_rate: float
    sparsity: float
    n: int
    mean: float
    low: float
    high: float


def cells_of(study: Study, held_out: bool = False) -> dict[Cell, dict[int, float]]:
    """Test (or held-out) score of every training that did not diverge, by cell and seed."""
    found: dict[Cell, dict[int, float]] = {}
    for trial in study.results.trials:
        value = trial.validation_score if held_out else trial.score
        if value is not None and not trial.diverged:
            found.setdefault((_name(trial), trial.learning_rate, trial.sparsity), {})[trial.seed] = value
    return found


def pair(studies: Sequence[Study], first: str, second: str, held_out: bool = False) -> tuple[CellDifference, ...]:
    """Two cells at every rate and sparsity that both have; `dense` stands beside every sparsity.

    A name is `ARM MASK`, or `dense`, in every study that has both; or `STUDY: ARM MASK`, so that the two can be of
    different studies. ConfigError for a name that is nowhere, or two that have no rate, sparsity and seed in common.
    """
    ones, twos = (_resolved(studies, name, held_out) for name in (first, second))
    across = ":" in first or ":" in second
    found = [
        row
        for study, cells in ones.items()
        for other, others in twos.items()
        if study == other or across
        for row in _differences(cells, others, (first, second, "" if across or len(studies) == 1 else study))
    ]
    if not found:
        raise ConfigError(f"--pair: '{first}' and '{second}' have no learning rate, sparsity and seed in common")
    return tuple(found)


def between(first: Study, second: Study, held_out: bool = False) -> tuple[CellDifference, ...]:
    """Every cell that two studies have in common, the first study less the second; ConfigError for none."""
    cells, others = cells_of(first, held_out), cells_of(second, held_out)
    names = sorted({name for name, *_ in cells} & {name for name, *_ in others})
    found = [
        row
        for name in names
        for row in _differences(_only(cells, name), _only(others, name), (first.name, second.name, name))
    ]
    if not found:
        raise ConfigError(f"--between: '{first.name}' and '{second.name}' have no cell and seed in common")
    return tuple(sorted(found, key=lambda row: (row.learning_rate, row.sparsity, row.of)))


def means(studies: Sequence[Study], held_out: bool = False) -> tuple[CellMean, ...]:
    """A row for every cell; ConfigError where no training has such a score."""
    found = [
        CellMean(
            study.name, *cell, len(seeds), sum(seeds.values()) / len(seeds), min(seeds.values()), max(seeds.values())
        )
        for study in studies
        for cell, seeds in sorted(cells_of(study, held_out).items(), key=lambda item: (item[0][1:], item[0][0]))
    ]
    if not found:
        raise ConfigError("--held-out: no study has held-out images; set data_args.validation in its spec")
    return tuple(found)


def _differences(cells: Places, others: Places, names: tuple[str, str, str]) -> Iterator[CellDifference]:
    tail = (1 - LEVEL) / 2
    for (rate, sparsity), seeds in sorted(cells.items()):
        below = _beside(others, rate, sparsity)
        if both := sorted(seeds.keys() & below.keys()):
            sample = Sample.of([seeds[seed] - below[seed] for seed in both])
            estimate = plain(sample)
            bounds = (estimate.low(tail), estimate.high(tail)) if estimate else (None, None)
            yield CellDifference(*names, rate, sparsity, sample.n, sample.mean, *bounds)


def _beside(others: Places, rate: float, sparsity: float) -> dict[int, float]:
    """What stands there at a rate and (about) a sparsity: the dense run, at sparsity 0, beside all of them."""
    near = [at for at in others if at[0] == rate and (at[1] == 0.0 or abs(at[1] - sparsity) <= SAME_SPARSITY)]
    return others[min(near, key=lambda at: abs(at[1] - sparsity))] if near else {}


def _resolved(studies: Sequence[Study], name: str, held_out: bool) -> dict[str, Places]:
    """The rows of a named cell by study."""
    wanted, _, cell = name.rpartition(":")
    if wanted and wanted not in [study.name for study in studies]:
        raise ConfigError(f"--pair: no study '{wanted}'; there are: {', '.join(study.name for study in studies)}")
    every = {study.name: cells_of(study, held_out) for study in studies if wanted in ("", study.name)}
    cell = " ".join(cell.split())
    found: dict[str, Places] = {study: only for study, cells in every.items() if (only := _only(cells, cell))}
    if not found:
        known = sorted({cell for cells in every.values() for cell, *_ in cells})
        raise ConfigError(f"--pair: '{name}' is not there; there are: {', '.join(known) or 'none'}")
    return found


def _only(cells: Mapping[Cell, dict[int, float]], name: str) -> dict[tuple[float, float], dict[int, float]]:
    return {(rate, sparsity): seeds for (cell, rate, sparsity), seeds in cells.items() if cell == name}


def _name(trial: Trial) -> str:
    return f"{trial.arm} {trial.mask or ''}".strip()


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
    from scipy.stats import trim_mean  # the import costs most of a second, which every command would pay

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
    leads = ([row.metric.oriented(value[seed] - row.dense[seed]) for seed in seeds] for value in values)
    return [np.array(lead) for lead in leads] if seeds else []


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
