"""The paper's published numbers, orderings and claims, read from `published.yaml` beside this module. No torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from prunetune.analysis.paper.claim_rules import Kind

FILE = Path(__file__).parent / "published.yaml"
Range = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """An arm under the masks of one algorithm (None: dense) at one learning rate."""

    arm: str
    mask: str | None
    learning_rate: float

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """From the file's form.

        >>> Cell.parse("dense - 0.1")
        Cell(arm='dense', mask=None, learning_rate=0.1)
        """
        arm, mask, rate = text.split()
        return cls(arm, None if mask == "-" else mask, float(rate))


@dataclass(frozen=True)
class Accuracy:
    """A test accuracy in percent."""

    model: str
    data: str
    cell: Cell
    sparsity: float
    value: float
    place: str


@dataclass(frozen=True)
class TableA1:
    """A row's entry of Table A1: R_.2 (a share) of `pair` at sparsity .5 under ADMM masks at rate 0.1."""

    model: str
    data: str
    pair: str
    value: float


@dataclass(frozen=True)
class Winning:
    """What the verdict on the winning property is at one rate and mask algorithm."""

    learning_rate: float
    mask: str
    published: Literal["holds", "fails"]
    place: str
    model: str | None = None  # with `data`: said of this network alone
    data: str | None = None
    exceptions: tuple[tuple[str, str], ...] = ()  # networks (model, data) of which the paper says otherwise


@dataclass(frozen=True)
class Overlap:
    """Whether R_p of a pair lies above or near what independent weights would give; mask None: whichever there are."""

    pair: str
    learning_rate: float
    published: Literal["above", "near"]
    place: str
    mask: str | None = None
    sparsities: Range | None = None


@dataclass(frozen=True)
class OverlapOrder:
    """R_p of a pair of dense states is higher at one learning rate than at another."""

    pair: str
    higher: float
    lower: float
    place: str


@dataclass(frozen=True)
class Ordering:
    """What is claimed of the first cell's accuracy less the second's, in every step; sparsities None: non-trivial ones.

    "Consistently outperforms" and "notably higher" are `superiority`, "close to or higher" is `non-inferiority`, "about
    the same" is `equivalence`.
    """

    says: str
    kind: Kind
    steps: tuple[tuple[Cell, Cell], ...]
    place: str
    model: str | None = None  # with `data`: claimed of this network alone
    data: str | None = None
    sparsities: Range | None = None


@dataclass(frozen=True)
class Published:
    """All of the file."""

    accuracies: tuple[Accuracy, ...]
    correlations: tuple[TableA1, ...]
    winning: tuple[Winning, ...]
    overlaps: tuple[Overlap, ...]
    overlap_orders: tuple[OverlapOrder, ...]
    orderings: tuple[Ordering, ...]


@cache
def published() -> Published:
    """The published values."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return Published(
        accuracies=tuple(Accuracy(**{**row, "cell": Cell.parse(row["cell"])}) for row in found["accuracies"]),
        correlations=tuple(TableA1(**row) for row in found["correlations"]),
        winning=tuple(Winning(**_excepted(row)) for row in found["winning"]),
        overlaps=tuple(Overlap(**_ranged(row)) for row in found["overlaps"]),
        overlap_orders=tuple(OverlapOrder(**row) for row in found["overlap_orders"]),
        orderings=tuple(Ordering(**{**_ranged(row), "steps": _steps(row["steps"])}) for row in found["orderings"]),
    )


def _excepted(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"exceptions": tuple((model, data) for model, data in row.get("exceptions", ()))}


def _ranged(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"sparsities": tuple(row["sparsities"])} if "sparsities" in row else row


def _steps(pairs: list[list[str]]) -> tuple[tuple[Cell, Cell], ...]:
    return tuple((Cell.parse(first), Cell.parse(second)) for first, second in pairs)
