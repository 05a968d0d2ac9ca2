"""The table "Paper and here": a row for each published number or claim that the study can speak to."""

from collections.abc import Sequence

from prunetune.analysis.pairing import percent
from prunetune.analysis.paper.check_claims import PaperRow
from prunetune.analysis.statistics import Rule
from prunetune.report.table_format import Column, Table, number, numeric, signed


def paper_table(rows: Sequence[PaperRow], rule: Rule) -> Table:
    """The rows as the page shows them."""
    columns = (
        Column("In the paper"),
        Column("Claim or number"),
        Column("Answer", "answer"),
        Column("Published"),
        numeric("Here"),
        numeric("Bounds"),
        numeric("n"),
        Column("Scale"),
        Column("Which figure, and why"),
    )
    caption = (
        f"Means over seeds with one-sided {percent(1 - rule.alpha)} bounds. Of an ordering and the winning property: "
        "the difference in points that decides; of a claim about R_p: its excess over chance where that decides."
    )
    return Table(caption, columns, tuple(_cells(row) for row in rows))


def _cells(row: PaperRow) -> tuple[str, ...]:
    shares = row.kind in ("overlap", "correlation")
    digits = 4 if shares else 2
    write = number if row.kind in ("accuracy", "correlation") else signed
    known = row.low is not None and row.high is not None
    return (
        row.place,
        row.claim,
        row.answer,
        row.published if isinstance(row.published, str) else number(row.published, digits),
        write(row.here, digits),
        f"{write(row.low, digits)} to {write(row.high, digits)}" if known else "–",
        str(row.n),
        "the paper's" if row.paper_scale else "another",
        row.why or "–",
    )
