"""Run benchmarks, print their tables, and keep their records: `python -m benchmarks [NAME ...]`.

`python -m benchmarks tables [PAGE]` prints the records that are kept, or puts them into a page.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.catalogue import BENCHMARKS
from benchmarks.findings import Record, read, save
from benchmarks.hardware import hardware
from benchmarks.load import idle_share, require_idle, settled
from benchmarks.rounds import Options
from benchmarks.tables import fill, markdown
from prunetune.errors import ConfigError, unknown

RESULTS = Path(__file__).parent / "results"
TABLES = "tables"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for a wrong request and for a machine that is busy."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.names[:1] == [TABLES]:
            _tables(asked.out, asked.names[1:])
        else:
            _run(asked)
    except ConfigError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def measure(name: str, options: Options, idle: float | None) -> Record:
    """Run one benchmark."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    findings = BENCHMARKS[name].run(options)
    return Record(name, date, options.rounds, options.quick, idle, hardware(), findings)


def _run(asked: argparse.Namespace) -> None:
    gpu = torch.cuda.is_available()
    names = asked.names or [name for name, benchmark in BENCHMARKS.items() if gpu or not benchmark.needs_gpu]
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("name", name, [*BENCHMARKS, TABLES])
    out = asked.out / "quick" if asked.quick else asked.out
    for name in names:
        idle = idle_share() if asked.force else settled()
        if remark := require_idle(idle, asked.force):
            print(f"note: {remark}", file=sys.stderr)
        rounds = asked.rounds or (1 if asked.quick else BENCHMARKS[name].rounds)
        record = measure(name, Options(rounds, asked.quick, asked.root), idle)
        save(record, out)
        if draw := BENCHMARKS[name].draw:
            (out / f"{name}.svg").write_text(draw(record.findings), encoding="utf-8")
        print(f"## {name}\n\n{BENCHMARKS[name].about}\n\n{markdown(record)}", flush=True)


def _tables(folder: Path, pages: Sequence[str]) -> None:
    records = [read(path) for name in BENCHMARKS if (path := folder / f"{name}.json").exists()]
    for page in pages:
        print(f"{page}: {fill(Path(page), records)} blocks filled")
    if not pages:
        print("\n".join(f"## {record.benchmark}\n\n{markdown(record)}" for record in records))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}; without it: all that run here"
    )
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds of each; else as many as it needs")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that it runs")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine too; the record says so")
    parser.add_argument("--root", default="", metavar="DIR", help="the folder of CIFAR-10; else the cache, else noise")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the records go and come from")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
