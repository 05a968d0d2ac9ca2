"""Folders of runs: which one a study's report goes to, so that no other study's is lost, and what lies in them."""

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from prunetune.analysis.pairing import percent
from prunetune.core.metric import METRIC_KEYS
from prunetune.errors import ConfigError, counted, short
from prunetune.report.answer import SHOWN
from prunetune.report.results_files import RESULTS
from prunetune.report.tradeoff.budget_rows import BUDGET
from prunetune.report.tradeoff.tradeoff_rows import TRADEOFF
from prunetune.sparsity.argument_checks import as_path
from prunetune.spec.load import load_spec
from prunetune.spec.study import Spec

RUNS = Path("runs")  # where reports go without --out
DEPTH = 3  # folders below the one that is listed: a group's studies lie two deep
_DIGITS = 8  # of a digest, in a folder's name
_NONE = "–"


def report_folder(out: object, default: Path, spec: Spec, asked: Mapping[str, Any] | None = None) -> Path:
    """Where a report of this study goes: `out`, or without it `default`.

    Where another study's report lies in `default`, it is the folder beside it whose name ends in eight digits of this
    study's digest; the same study has the same folder again. `asked` are fields of the report's file that were asked
    for besides the spec, and tell folders apart as it does. What lies in `out` is replaced, as whoever names it asks.
    """
    if out is not None:
        return as_path("out", out, "runs/mine")
    beside = sorted(default.parent.glob(f"{glob.escape(default.name)}-{'[0-9a-f]' * _DIGITS}"))
    differences = {folder: _differences(folder, spec, asked or {}) for folder in (default, *beside)}
    own = [folder for folder in differences if _files(folder) and not differences[folder]]
    if own or not differences[default]:
        return own[0] if own else default
    return default.with_name(f"{default.name}-{study_digest(spec, asked)}")


def study_digest(spec: Spec, asked: Mapping[str, Any] | None = None) -> str:
    """Eight digits that tell a spec, with what was asked for besides it, from another one of its name."""
    return hashlib.sha256(json.dumps([spec.resolved(), asked or {}], sort_keys=True).encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class Run:
    """A finished run as one line: its study, what was done, what came of it, from when it is, and where it lies."""

    study: str
    verb: str
    answer: str
    start: str  # what the sparse network is to be trained from; a dash where nothing says
    written: datetime
    folder: Path


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder and the folders below it, the latest first; ConfigError for what is no folder."""
    if not folder.is_dir():
        raise ConfigError(f"runs: '{folder}' is no folder; give the one that reports were written to, such as runs")
    below = chain.from_iterable(folder.glob("*/" * depth) for depth in range(1, DEPTH + 1))
    places = sorted({folder, *below}, key=lambda place: (-len(place.parts), place))
    once = {place.resolve(): place for place in places}  # of what links lead to again, the shortest path
    found = [run for place in sorted(once.values()) for run in _runs(place)]
    return sorted(found, key=lambda run: run.written, reverse=True)


def runs_table(runs: list[Run]) -> str:
    """The runs with columns in line."""
    head = ("study", "verb", "answer", "train from", "written", "folder")
    rows = [(r.study, r.verb, r.answer, r.start, f"{r.written:%Y-%m-%d %H:%M}", str(r.folder)) for r in runs]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports in a folder by the names of their files; what is no report of ours is left out."""
    found: dict[str, dict[str, Any]] = {}
    for name in (RESULTS, TRADEOFF, BUDGET):
        if not (folder / name).is_file():  # a pipe of that name would be waited for
            continue
        try:
            content = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and "schema_version" in content and isinstance(content.get("study"), dict):
            found[name] = content
    return found


def _differences(folder: Path, spec: Spec, asked: Mapping[str, Any]) -> list[str]:
    """The fields in which a report that lies in a folder differs from what this study's would say; none without one."""
    for content in _files(folder).values():
        if different := [name for name in asked if content.get(name) != asked[name]]:
            return different
        there = {name: value for name, value in content["study"].items() if name not in METRIC_KEYS}
        ours = json.loads(json.dumps(spec.resolved()))
        common = _common(ours, there)
        if different := sorted(name for name in {*common, *there} if common.get(name) != there.get(name)):
            return [short(name) for name in different]
        if not _is_default_otherwise(common, spec):
            return sorted(ours.keys() - there.keys()) or ["recipe"]
    return []


def _common(ours: Any, there: Any) -> Any:
    """Our values without the fields that a report of an earlier version does not know."""
    if isinstance(ours, dict) and isinstance(there, dict):
        return {name: _common(value, there[name]) for name, value in ours.items() if name in there}
    if isinstance(ours, list) and isinstance(there, list) and len(ours) == len(there):
        return [_common(value, other) for value, other in zip(ours, there, strict=True)]
    return ours


def _is_default_otherwise(common: Mapping[str, Any], spec: Spec) -> bool:
    """Whether what these fields leave out is as it is by default."""
    try:
        return load_spec(common).resolved() == spec.resolved()
    except ConfigError:
        return False


def _runs(folder: Path) -> Iterator[Run]:
    for name, content in _files(folder).items():
        written = datetime.fromtimestamp((folder / name).stat().st_mtime)
        answer, start = {RESULTS: _of_audit, TRADEOFF: _of_grid, BUDGET: _of_search}[name](content)
        verb = "audit" if name == RESULTS else "prune"
        yield Run(short(content["study"].get("name", _NONE)), verb, short(answer), short(start), written, folder)


def _of_audit(content: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict at the learning rate and with the masks of the page's first sentence, and the start it names."""
    choice = next(_objects(content.get("choices")), {})
    cells = [
        SHOWN.get(str(one.get("winning_property")), _NONE)
        for one in _objects(content.get("verdicts"))
        if all(one.get(name) == choice.get(name) for name in ("learning_rate", "mask")) or not choice
    ]
    said = f"winning ticket: {'/'.join(dict.fromkeys(cells))}" if cells else _NONE
    starts = choice.get("as_good")
    if isinstance(starts, list) and starts:
        return said, str(starts[0])
    return said, "undecided" if choice else _NONE


def _of_grid(content: Mapping[str, Any]) -> tuple[str, str]:
    """The best network, or that none is within the margin; of an earlier version, which says neither, their number."""
    pruned = sum(bool(row.get("sparsity")) for row in _objects(content.get("rows")))
    if not pruned or "best" not in content:
        return counted(pruned, "network"), "finetune"
    best = content["best"]
    return f"best: {_share(best)} sparse" if best is not None else "best: none within the margin", "finetune"


def _of_search(content: Mapping[str, Any]) -> tuple[str, str]:
    """The network that is returned, or that there is none."""
    place = content.get("chosen")
    if place is None:
        return "returned: none within the budget", "finetune"
    chosen = next((one for i, one in enumerate(_objects(content.get("candidates"))) if i == place), {})
    return f"returned: {chosen.get('mask', _NONE)} {_share(chosen.get('sparsity'))}", "finetune"


def _share(sparsity: object) -> str:
    return percent(sparsity) if isinstance(sparsity, int | float) else _NONE


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of what a list of objects is expected to be."""
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())
