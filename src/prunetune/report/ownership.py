"""Which files of a folder are a report's own, so that nobody else's are replaced.

A file is ours by what it holds: JSON by its schema version and its study or studies, a page by its generator, a table
by its first columns or line, a figure by its title's id, a log by its columns.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from pathlib import Path

from prunetune.errors import ConfigError
from prunetune.rows import Correlation, Trial

GENERATOR = '<meta name="generator" content="prunetune">'
LATEX_MARK = "% prunetune report --latex"
_HEAD = 4096  # bytes of a page in which its generator and its title are
_OLD_PAGE = "– prunetune</title>"  # the title of pages that name no generator
_COLUMNS = 3  # of a table, by which it is known: later ones are added with time
_TABLES = {
    "trials.csv": [field.name for field in fields(Trial)],
    "correlations.csv": [field.name for field in fields(Correlation)],
    "regimes.csv": ["study", "task", "learning_rate"],
}
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[^\t]*(\t[^\t]*){3}\t[0-9a-f]{64}")


def require_ours(folder: Path, names: Iterable[str], listed: Collection[str] = ()) -> None:
    """ConfigError naming the first file of these that is there and not of an earlier report.

    `names` are relative to the folder. Those that are `listed` as ours elsewhere need no mark of their own.
    """
    for name in names:
        path = folder / name
        if name not in listed and (path.exists() or path.is_symlink()) and not is_ours(path):
            raise ConfigError(
                f"out: '{path}' is not a file that prunetune wrote, and would be replaced; "
                "move it away, or give another folder by --out"
            )


def is_ours(path: Path) -> bool:
    """Whether a file carries the mark of a report; an empty one that anything may be, does not."""
    check = _CHECKS.get(path.suffix)
    try:
        return check is not None and path.is_file() and check(path)
    except (OSError, ValueError, RecursionError, csv.Error):  # what cannot be read carries no mark
        return False


def is_our_figure(path: Path) -> bool:
    """Whether a figure is a report's, of that name."""
    return f'id="{path.stem}-title"' in path.read_text(encoding="utf-8", errors="replace")


def _is_our_json(path: Path) -> bool:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict) or "schema_version" not in found:
        return False
    return isinstance(found.get("study"), dict) or isinstance(found.get("studies"), list)


def _is_our_page(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", errors="replace")
    return GENERATOR in head or _OLD_PAGE in head


def _is_our_table(path: Path) -> bool:
    with path.open(encoding="utf-8", newline="") as file:
        found = next(csv.reader(file), [])
    columns = _TABLES.get(path.name)
    return columns is not None and found[:_COLUMNS] == columns[:_COLUMNS]


def _is_our_latex(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return file.readline().rstrip("\n") == LATEX_MARK


def _is_our_log(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return _LOG_LINE.fullmatch(file.readline().rstrip("\n")) is not None


_CHECKS: dict[str, Callable[[Path], bool]] = {
    ".json": _is_our_json,
    ".html": _is_our_page,
    ".csv": _is_our_table,
    ".svg": is_our_figure,
    ".log": _is_our_log,
    ".tex": _is_our_latex,
}
