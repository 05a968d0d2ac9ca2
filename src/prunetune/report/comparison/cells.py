"""Paired differences of any two cells of studies, and the mean of every cell, as a terminal shows them."""

from collections.abc import Sequence

from prunetune.analysis.cells import CellDifference, CellMean, between, means, pair
from prunetune.analysis.regimes import Study
from prunetune.errors import ConfigError
from prunetune.report.table import signed


def cells_text(studies: Sequence[Study], two: tuple[str, str] | None, common: bool, held_out: bool) -> str:
    """The table that is asked for; ConfigError for requests that do not go together."""
    if two and common:
        raise ConfigError("--pair: does not go with --between; give one of them")
    if two:
        return differences_text(pair(studies, *two, held_out))
    if not common:
        return means_text(means(studies, held_out))
    if len(studies) != 2:
        raise ConfigError(f"--between: compares two studies, not {len(studies)}")
    return differences_text(between(studies[0], studies[1], held_out))


def differences_text(rows: Sequence[CellDifference]) -> str:
    """A line for every rate and sparsity: points of accuracy, 95 % intervals."""
    lines = [f"{rows[0].first} − {rows[0].second}", "rate   sparsity"]
    for row in rows:
        low, high = (signed(bound) for bound in (row.low, row.high))
        of = f"{row.of:<28} " if row.of else ""
        lines.append(f"{row.learning_rate:<6g} {row.sparsity:<8g} {of}{signed(row.mean)} [{low}, {high}]  n = {row.n}")
    return "\n".join(lines)


def means_text(rows: Sequence[CellMean]) -> str:
    """A line for every cell: mean, lowest and highest."""
    several = len({row.study for row in rows}) > 1
    lines = [
        f"{row.learning_rate:<6g} {row.sparsity:<8g} {f'{row.study}: {row.cell}' if several else row.cell:<28} "
        f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f}, n = {row.n})"
        for row in rows
    ]
    return "\n".join(["rate   sparsity", *lines])
