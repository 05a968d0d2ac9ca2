"""Looking after a store: what is in it, whether it is sound, and clearing away what nobody needs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetune.atomic import TEMPORARY
from prunetune.errors import DamageError
from prunetune.run.claims import Claims
from prunetune.run.disk import ABANDONED_AFTER, is_abandoned, remove
from prunetune.run.partial import orphans
from prunetune.run.shelves import MANIFEST, Shelves


@dataclass(frozen=True)
class Entry:
    """A stored step: its kind, key, size in bytes, when it was made and what it measured, in a few words."""

    kind: str
    key: str
    size: int
    created: str
    summary: str

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.key}  {self.size:>12,} bytes  {self.created}  {self.summary}".rstrip()


@dataclass(frozen=True)
class Problem:
    """A stored step that is not what was written."""

    key: str
    what: str

    def __str__(self) -> str:
        return self.what


def entries(shelves: Shelves) -> Iterator[Entry]:
    """Every stored step whose list of files and metrics can be read, in the order of keys."""
    for key in shelves.stored():
        try:
            found, metrics = shelves.manifest(key), shelves.metrics(key)
        except (KeyError, DamageError):
            continue
        size = sum(file["size"] for file in found["files"].values())
        yield Entry(found["kind"], key, size, found["created"], _summary(metrics))


def problems(shelves: Shelves) -> Iterator[Problem]:
    """One for each step that is damaged, holds a file that is not listed, or rests on something that has changed."""
    for key in shelves.stored():
        try:
            shelves.check(key)
            if what := _oddity(shelves, key):
                yield Problem(key, f"store: {key[:12]}: {what}")
        except KeyError as error:
            yield Problem(key, f"store: {key[:12]}: {error.args[0]} is missing")
        except DamageError as error:
            yield Problem(key, str(error))


def sweep(root: Path, claims: Claims) -> int:
    """Remove what nobody will finish, what was put aside as damaged, and logs older than a day; the bytes freed."""
    temporary = [path for path in root.rglob(f"{TEMPORARY}*") if is_abandoned(path)]
    logs = [path for path in (root / "logs").glob("*") if time.time() - path.stat().st_mtime > ABANDONED_AFTER]
    damaged = list((root / "quarantine").glob("*"))
    left = orphans(root, claims)
    return claims.clear() + sum(remove(path) for path in _outermost([*temporary, *logs, *damaged, *left]))


def _oddity(shelves: Shelves, key: str) -> str | None:
    extra = shelves.names(key) - shelves.manifest(key)["files"].keys() - {MANIFEST}
    if extra:
        return f"{min(extra)} is not in its list of files"
    changed = shelves.stale_input(key)
    return f"its input {changed} is another one now" if changed else None


def _outermost(paths: list[Path]) -> list[Path]:
    """Without those that lie in others of the list."""
    known = set(paths)
    return [path for path in paths if known.isdisjoint(path.parents)]


def _summary(metrics: dict[str, Any]) -> str:
    if metrics.get("diverged"):
        return "diverged"
    if "loss_barrier" in metrics:
        found = metrics["loss_barrier"]
        return "loss barrier not finite" if found is None else f"loss barrier {found:.4f}"
    if metrics.get("test_accuracy") is not None:
        return f"test accuracy {metrics['test_accuracy']:.2f} %"
    if "density" in metrics:
        return f"density {metrics['density']:.4f}"
    rows = [row for row in metrics.get("correlations", []) if row["value"] is not None]
    return ", ".join(f"R_{row['p']:g} {row['value']:.3f}" for row in rows)
