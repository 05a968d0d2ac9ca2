"""Records as Markdown, for a terminal and for the documentation alike."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.findings import Comparison, Goal, Measured, Record, Spread, Table, spread
from benchmarks.load import MOST_OTHERS
from prunetune.errors import ConfigError

_WIDTH = 120  # columns of a page's source
_BLOCK = r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)"


def markdown(record: Record) -> str:
    """All tables of a record, its goals, what they were measured on, and what speaks against trusting them."""
    found = record.findings
    parts = [
        *map(_comparison, found.comparisons),
        *map(_table, found.tables),
        "\n".join(f"- Goal, {_goal(goal, record.quick)}" for goal in found.goals),
        "\n".join(f"- {note}" for note in found.notes),
        _where(record),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def fill(page: Path, records: Sequence[Record]) -> int:
    """Put each record between `<!-- benchmark: NAME -->` and `<!-- end -->` of a page; the number of blocks filled.

    ConfigError when the page has no block at all. Blocks without a record stay as they are.
    """
    texts = {record.benchmark: markdown(record) for record in records}
    text = page.read_text(encoding="utf-8")
    names = [name for _, name, _ in re.findall(_BLOCK, text, re.DOTALL)]
    if not names:
        raise ConfigError(f"tables: '{page}' has no block; want '<!-- benchmark: NAME -->' and '<!-- end -->'")
    filled = re.sub(
        _BLOCK,
        lambda block: f"{block[1]}\n{texts[block[2]]}\n{block[3]}" if block[2] in texts else block[0],
        text,
        flags=re.DOTALL,
    )
    page.write_text(filled, encoding="utf-8")
    return len(texts.keys() & set(names))


def _comparison(found: Comparison) -> str:
    shares = any(row.shares for row in found.rows)
    compared = [] if found.baseline is None else [f"ratio to {found.baseline}", "quartiles"]
    header = ("", found.unit, "quartiles", *compared, *(["share"] if shares else []))
    return (
        f"**{found.title}**, rounds: {len(found.others)}\n\n{_grid(header, [_row(row, found) for row in found.rows])}"
    )


def _row(row: Measured, found: Comparison) -> tuple[str, ...]:
    compared = () if found.baseline is None else _cells(found.ratio(row.name, found.baseline))
    share = (f"{100 * spread(row.shares).median:.0f} %",) if row.shares else ()
    return (row.name, *_cells(spread(row.samples)), *compared, *share)


def _cells(found: Spread) -> tuple[str, str]:
    return short(found.median), f"{short(found.low)} to {short(found.high)}"


def _table(table: Table) -> str:
    return f"**{table.title}**\n\n{_grid(table.header, table.rows)}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goal(goal: Goal, quick: bool) -> str:
    bounds = [f"{word} {short(bound)}" for word, bound in (("≥", goal.least), ("≤", goal.most)) if bound is not None]
    judged = "not judged at this size" if quick else "met" if goal.met else "not met"
    return f"{goal.text} {' and '.join(bounds)}: {short(goal.value)}, {judged}"


def _where(record: Record) -> str:
    machine: dict[str, Any] = {**record.machine}
    flags = ", ".join(machine.pop("flags"))
    where = f"{machine['cpu']}, {machine['cores']} cores ({flags}); torch {machine['torch']}, {machine['os']}"
    return "\n".join(_item(line) for line in (*_doubts(record), f"Measured {record.date} on {where}"))


def _item(line: str) -> str:
    """An item of a list, in lines that fit a page's source."""
    return textwrap.fill(f"- {line}", _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _doubts(record: Record) -> Iterator[str]:
    """What speaks against the figures."""
    if record.quick:
        yield "Smallest sizes: this shows that the benchmark runs, and its figures mean nothing"
    others = [share for found in record.findings.comparisons for share in found.others if share is not None]
    if others and max(others) > MOST_OTHERS:
        busy = sum(share > MOST_OTHERS for share in others)
        yield f"Busy: in {busy} of {len(others)} rounds others took more than {100 * MOST_OTHERS:.0f} % of the machine"


def short(value: float) -> str:
    """Three digits that count, and whole numbers in full.

    >>> short(1234.5), short(0.98765), short(12.0), short(0.0123)
    ('1,234', '0.988', '12.0', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
