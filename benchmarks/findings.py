"""What a benchmark finds, and the file in which it is kept with all its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from prunetune.errors import ConfigError

SCHEMA_VERSION = 1


class Spread(NamedTuple):
    """The median of some samples and their quartiles."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Quartiles by linear interpolation between the sorted samples, of which there is at least one.

    >>> spread([4.0, 1.0, 3.0, 2.0])
    Spread(median=2.5, low=1.75, high=3.25)
    """
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def paired(samples: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    """Round by round, the ratio to the baseline: a machine that slows down for a round slows down both."""
    return tuple(sample / base for sample, base in zip(samples, baseline, strict=True))


@dataclass(frozen=True)
class Measured:
    """One variant's samples, a round each, and what share of the machine's peak they were in that round."""

    name: str
    samples: tuple[float, ...]
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Variants that were measured in turn, in the same rounds."""

    title: str
    unit: str
    baseline: str | None  # the name of a row; None where the rows do different things
    rows: tuple[Measured, ...]
    others: tuple[float | None, ...]  # per round, the share of the machine's time that others took; None: unknown

    def __getitem__(self, name: str) -> Measured:
        return next(row for row in self.rows if row.name == name)

    def ratio(self, name: str, to: str) -> Spread:
        """Of one row to another, round by round: the spread over the rounds."""
        return spread(paired(self[name].samples, self[to].samples))


@dataclass(frozen=True)
class Table:
    """Figures that are no comparison of times."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Goal:
    """A figure and the bound that it should keep."""

    text: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the value lies within the bounds."""
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class Findings:
    """Everything that one benchmark has to say."""

    comparisons: tuple[Comparison, ...] = ()
    tables: tuple[Table, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A benchmark's findings with all that they depend on: the content of its file."""

    benchmark: str
    date: str
    rounds: int
    quick: bool  # smallest sizes: shows that it runs, and claims nothing
    idle: float | None  # share of the machine's time that was idle before; None where the system does not tell
    machine: Mapping[str, Any]
    findings: Findings
    schema_version: int = SCHEMA_VERSION


_RECORD = TypeAdapter(Record)


def save(record: Record, folder: Path) -> Path:
    """Write `NAME.json` to the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.benchmark}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(_RECORD.dump_json(record, indent=1) + b"\n")
    temporary.replace(path)
    return path


def read(path: Path) -> Record:
    """A record from its file; ConfigError when it is none."""
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"results: '{path}' is no benchmark's record: {str(error).splitlines()[0]}") from error
