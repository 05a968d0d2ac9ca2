"""Any two cells (an arm under a mask algorithm) of one study or of two, paired by seed; and every cell's mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunetune.analysis.regimes import SAME_SPARSITY, Study
from prunetune.analysis.statistics import Sample, plain
from prunetune.errors import ConfigError
from prunetune.rows import Trial

LEVEL = 0.95  # of the two-sided intervals

Cell = tuple[str, float, float]  # "arm mask", learning rate, sparsity
Places = Mapping[tuple[float, float], dict[int, float]]  # of one cell: (rate, sparsity) -> accuracy by seed


@dataclass(frozen=True)
class CellDifference:
    """First less second over the seeds that both have, in points; the interval is two-sided (paired t)."""

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
    """The mean, lowest and highest accuracy of a cell over its seeds, in percent."""

    study: str
    cell: str
    learning_rate: float
    sparsity: float
    n: int
    mean: float
    low: float
    high: float


def cells_of(study: Study, held_out: bool = False) -> dict[Cell, dict[int, float]]:
    """Test (or held-out) accuracy in percent of every training that did not diverge, by cell and seed."""
    found: dict[Cell, dict[int, float]] = {}
    for trial in study.results.trials:
        value = trial.validation_accuracy if held_out else trial.test_accuracy
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
    """A row for every cell; ConfigError where no training has such an accuracy."""
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
