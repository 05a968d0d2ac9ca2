"""A table of a page, and how its cells are written."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from prunetune.analysis import pairing

NONE = "–"
_NUMBER = re.compile(r"[−+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?")


class Column(NamedTuple):
    """A column's title and how its cells are set: numbers to the right, answers as badges."""

    title: str
    kind: Literal["text", "number", "answer", "code"] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells, one per column; `caption` says what they are and in which units."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def aligned(table: Table) -> str:
    """The table without its caption as lines of a terminal, numbers to the right."""
    rows = [tuple(column.title for column in table.columns), *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column.kind == "text" else cell.rjust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in rows
    )


def numeric(title: str) -> Column:
    """A column of numbers."""
    return Column(title, "number")


def number(value: float | None, digits: int = 2) -> str:
    """So many digits after the point, with a true minus; a dash for what is not there or not finite."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int) -> str:
    """So many significant digits, zeros among them (`digits` from 2).

    >>> significant(3.1, 3), significant(112.4, 3), significant(4.0, 2)
    ('3.10', '112', '4.0')
    """
    return f"{value:#.{digits}g}".rstrip(".")


def sort_value(cell: str) -> str | None:
    """What a cell of a column of numbers is sorted by: its first number; None where it is one as it is, or has none.

    >>> sort_value("−0.33 to +0.17"), sort_value("1,234"), sort_value("50 %"), sort_value("< 0.001"), sort_value("2.50")
    ('-0.33', '1234', '50', '0', None)
    """
    found = _NUMBER.search(cell)
    if found is None:
        return None
    value = "0" if cell.startswith("<") else found[0].replace("−", "-").replace(",", "").lstrip("+")
    return None if value == cell else value


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign; a dash for what is not there or not finite.

    >>> signed(-0.125), signed(2.0, 1), signed(None)
    ('−0.12', '+2.0', '–')
    """
    return NONE if value is None or not math.isfinite(value) else pairing.signed(value, digits)


def bounds(low: float | None, high: float | None, digits: int = 2) -> str:
    """Both ends of an interval of differences."""
    return NONE if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """Lowest to highest."""
    return f"{number(min(values), digits)} to {number(max(values), digits)}" if values else NONE


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation (n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def p_value(value: float | None) -> str:
    """Three digits, and no more than that for the very small."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def flat(facts: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and values as texts, nested names joined by dots.

    >>> list(flat({"cpu": {"cores": 2}, "flags": ["a", None]}))
    [('cpu.cores', '2'), ('flags', 'a, –')]
    """
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            items = value if isinstance(value, list) else [value]
            yield f"{prefix}{name}", ", ".join(NONE if item is None else str(item) for item in items) or NONE
