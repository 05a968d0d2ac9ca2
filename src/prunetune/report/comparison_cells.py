"""Paired differences of any two cells of studies, and the mean of every cell, as a terminal shows them."""

from collections.abc import Sequence

from prunetune.analysis.cells import CellDifference, CellMean, between, means, pair
from prunetune.analysis.regimes import Study
from prunetune.errors import RequestError


def cells_text(studies: Sequence[Study], two: tuple[str, str] | None, common: bool, held_out: bool) -> str:
    """The table that is asked for; RequestError for requests that do not go together."""
    if two and common:
        raise RequestError("--pair: does not go with --between; give one of them")
    if two:
        return differences_text(pair(studies, *two, held_out))
    if not common:
        return means_text(means(studies, held_out))
    if len(studies) != 2:
        raise RequestError(f"--between: compares two studies, not {len(studies)}")
    return differences_text(between(studies[0], studies[1], held_out))


def differences_text(rows: Sequence[CellDifference]) -> str:
    """A line for every rate and sparsity."""
    width = max(len(f"{row.first} − {row.second}") for row in rows)
    lines = [f"{'rate':<6} {'sparsity':<8} {'difference':<{width}} points [95 % interval]"]
    for row in rows:
        name = f"{row.first} − {row.second}"
        ends = f"[{row.low:+.2f}, {row.high:+.2f}]" if row.low is not None and row.high is not None else "[one seed]"
        lines.append(f"{row.learning_rate:<6g} {row.sparsity:<8g} {name:<{width}} {row.mean:+.2f} {ends}  n = {row.n}")
    return "\n".join(lines)


def means_text(rows: Sequence[CellMean]) -> str:
    """A line for every cell: mean, lowest and highest."""
    names = [f"{row.study}: {row.cell}" if len({r.study for r in rows}) > 1 else row.cell for row in rows]
    width = max(map(len, names))
    lines = [
        f"{row.learning_rate:<6g} {row.sparsity:<8g} {name:<{width}} {row.mean:.2f} "
        f"({row.low:.2f} to {row.high:.2f}, n = {row.n})"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join([f"{'rate':<6} {'sparsity':<8} {'cell':<{width}} accuracy, %", *lines])
