"""Looking after a store: what is in it, whether it is sound, and clearing away what nobody needs."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunetune.core.amounts import size
from prunetune.core.files import TEMPORARY_NAME, this_owner
from prunetune.errors import CorruptionError, counted, short
from prunetune.store.backend import LEASE_FOLDER, Backend, clock_of
from prunetune.store.checkpoints import CHECKPOINTS
from prunetune.store.layout import MANIFEST, METRICS, Manifest, StoreReader, is_key
from prunetune.store.leases import Leases, is_alive

ABANDONED_AFTER = 24 * 3600.0  # seconds, after which a temporary file belongs to nobody whatever its name says
_ASIDE = re.compile("[0-9a-f]{64}-[0-9a-f]{8}")  # what `Store.aside` names
_LOG = re.compile(r"(\w+_[0-9a-f]{8}-)?[0-9]+-[0-9]+\.log|slurm-\w+-[0-9]+-[0-9a-f]{8}")  # what executors name
_TEMPORARY = (".tmp-*", "steps/[0-9a-f][0-9a-f]/.tmp-*", f"steps/[0-9a-f][0-9a-f]/{'[0-9a-f]' * 64}/.tmp-*")


@dataclass(frozen=True)
class Entry:
    """A stored step: its kind, key, size in bytes, when it was made and what it measured, in a few words.

    `study` names the studies that it belongs to and `label` says what it is there; both are empty of steps that were
    stored by version 0.2 or earlier.
    """

    kind: str
    key: str
    size: int
    created: str
    summary: str
    study: str = ""
    label: str = ""

    def __str__(self) -> str:
        what = ": ".join(filter(None, [self.study, self.label])) or "–"
        stored = f"{self.kind:<8} {self.key[:12]}  {size(self.size):>8}  {self.created}"
        return f"{stored}  {what}  {self.summary}".rstrip()


@dataclass(frozen=True)
class Problem:
    """A stored step that is not what was written."""

    key: str
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Leftover:
    """What nobody needs any more: its path from the store's root, its bytes, and why it goes."""

    path: str
    size: int
    why: str
    remove: Callable[[], int]  # removes it; the bytes freed, 0 where it is gone or in use by now

    def __str__(self) -> str:
        return f"{self.path}  {size(self.size)}  ({self.why})"


def entries(store: StoreReader, places: Mapping[str, tuple[str, str]]) -> Iterator[Entry]:
    """Every stored step whose list of files and metrics can be read, in the order of keys.

    `places` has the names of a step's studies and what it is there, by its key.
    """
    for key in store.stored():
        try:
            entry = _entry(key, store.manifest(key), store.metrics(key))
        except (KeyError, CorruptionError):
            continue
        study, label = places.get(key, ("", ""))
        yield replace(entry, study=short(study), label=short(label))


def _entry(key: str, found: Manifest, metrics: dict[str, Any]) -> Entry:
    """A step's line; CorruptionError where its metrics have a right checksum and yet are none of this program's."""
    size = sum(file["size"] for file in found["files"].values())
    try:
        summary = _summary(metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptionError(f"store: {key[:12]}: {METRICS} holds no measurements that are known") from error
    return Entry(short(found["kind"]), key, size, short(found["created"]), short(summary))


def problems(store: StoreReader) -> Iterator[Problem]:
    """One for each step that is damaged, holds a file that is not listed, or rests on something that has changed."""
    for key in store.stored():
        try:
            store.check(key)
            _entry(key, store.manifest(key), store.metrics(key))
            if what := _oddity(store, key):
                yield Problem(key, f"store: {key[:12]}: {what}")
        except KeyError as error:
            yield Problem(key, f"store: {key[:12]}: {error.args[0]} is missing")
        except CorruptionError as error:
            yield Problem(key, str(error))


def leftovers(backend: Backend, leases: Leases) -> Iterator[Leftover]:
    """What nobody will finish, what was put aside as damaged, and, while nobody is at work, logs older than a day.

    Names of another form than a store's are passed over, and so are links. Ages are by the clock of the store's own
    file system. A lease comes before the checkpoint that it was at.
    """
    for key in sorted(leases.dead()):
        dead = partial(leases.remove_dead, key)
        yield Leftover(f"{LEASE_FOLDER}/{key}", leases.size(key), "claim of a process that has ended", dead)
    if (backend.root / LEASE_FOLDER).is_dir():
        yield from _in_folder(backend.root, leases)
    yield from _unfinished(backend, leases)


def _in_folder(root: Path, leases: Leases) -> Iterator[Leftover]:
    now = clock_of(root / LEASE_FOLDER)
    temporary = [path for pattern in _TEMPORARY for path in root.glob(pattern) if is_abandoned(path, now)]
    temporary += [path for path in (root / CHECKPOINTS).glob(".tmp-*") if is_abandoned(path, now)]
    logs = [] if leases.any_alive() else [path for path in _named(root / "logs", _LOG) if is_old(path, now)]
    for why, paths in (
        ("never finished", temporary),
        ("log older than a day", logs),
        ("found damaged", _named(root / "quarantine", _ASIDE)),
    ):
        for path in sorted(paths):
            yield _leftover(root, path, why, partial(remove, path))
    for path in sorted(orphans(root, leases)):
        yield _leftover(root, path, "checkpoint that nobody is at", partial(remove_orphan, path, leases))


def _unfinished(backend: Backend, leases: Leases) -> Iterator[Leftover]:
    """The files of steps that were never published, all a day old or more, and that nobody is at."""
    for key, paths in sorted(backend.unfinished().items()):
        if any(backend.age(path) <= ABANDONED_AFTER for path in paths) or leases.is_alive(key):
            continue
        for path in sorted(paths):
            yield Leftover(path, backend.size(path), "never finished", partial(_remove_unfinished, backend, key, path))


def _remove_unfinished(backend: Backend, key: str, path: str) -> int:
    """Remove a file of a step that is not published; 0 where it is by now."""
    backend.refresh(key)
    return 0 if backend.exists(key) else backend.remove(path)


def _leftover(root: Path, path: Path, why: str, action: Callable[[], int]) -> Leftover:
    return Leftover(path.relative_to(root).as_posix(), size_of(path), why, action)


def is_abandoned(path: Path, now: float) -> bool:
    """Whether nobody will finish this temporary file or folder: its process is gone, or it is older than a day.

    `now` is the time by the clock of its file system. False for names of another form.
    """
    found = TEMPORARY_NAME.fullmatch(path.name)
    if found is None or path.is_symlink():
        return False
    if found["owner"] == this_owner() and not is_alive(int(found["pid"])):
        return True
    return is_old(path, now)


def is_old(path: Path, now: float) -> bool:
    """Whether a file, or a folder and all that is in it, was last written more than a day before `now`."""
    try:
        times = [inner.lstat().st_mtime for inner in (path, *path.rglob("*"))]
    except FileNotFoundError:
        return False
    return now - max(times) > ABANDONED_AFTER


def size_of(path: Path) -> int:
    """Bytes of a file, or of all the files in a folder; 0 where there is nothing any more."""
    with contextlib.suppress(FileNotFoundError):
        if not path.is_dir():
            return path.stat().st_size
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return 0


def remove(path: Path) -> int:
    """Remove a file or a folder with all that is in it; returns the bytes freed, 0 where another one was faster."""
    freed = size_of(path)
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return freed
    return 0


def orphans(root: Path, leases: Leases) -> list[Path]:
    """The checkpoints of trainings that no process is at."""
    found = [path for path in (root / CHECKPOINTS).glob("*") if is_key(path.name) and not path.is_symlink()]
    return [path for path in found if path.is_file() and not leases.is_alive(path.name)]


def remove_orphan(path: Path, leases: Leases) -> int:
    """Remove such a checkpoint; the bytes freed, 0 where a process has begun to go on from it."""
    if not leases.take(path.name):
        return 0
    try:
        return remove(path)
    finally:
        leases.release(path.name)


def _named(folder: Path, form: re.Pattern[str]) -> list[Path]:
    """What lies in a folder under a name of this form, links left out."""
    return [path for path in folder.glob("*") if form.fullmatch(path.name) and not path.is_symlink()]


def _oddity(store: StoreReader, key: str) -> str | None:
    extra = store.names(key) - store.manifest(key)["files"].keys() - {MANIFEST}
    if extra:
        return f"{min(extra)} is not in its list of files"
    changed = store.stale_input(key)
    return f"its input {changed} is another one now" if changed else None


def _summary(metrics: dict[str, Any]) -> str:
    if metrics.get("diverged"):
        return "diverged"
    if "loss_barrier" in metrics:
        found = metrics["loss_barrier"]
        return "loss barrier not finite" if found is None else f"loss barrier {found:.4f}"
    if metrics.get("test_accuracy") is not None:
        return f"test accuracy {metrics['test_accuracy']:.2f} %"
    if metrics.get("score") is not None:
        return f"test score {metrics['score']:.4g}"
    if "density" in metrics:
        return f"density {metrics['density']:.4f}"
    if words := _quantity_summary(metrics):
        return words
    rows = [row for row in metrics.get("correlations", []) if row["value"] is not None]
    return ", ".join(f"R_{row['p']:g} {row['value']:.3f}" for row in rows)


def _quantity_summary(metrics: dict[str, Any]) -> str:
    """What movement, curvature or sensitivity found; empty for the metrics of another step."""
    if "cosine" in metrics:
        return f"signs flipped {_figure(metrics['sign_flips'])}, cosine {_figure(metrics['cosine'])}"
    if "largest" in metrics:
        return f"largest eigenvalue {_figure(metrics['largest'])}, trace {_figure(metrics['trace'])}"
    if "units" in metrics:
        return f"sensitivity of {counted(len(metrics['units']), 'layer')}, whole {_figure(metrics['whole'])}"
    return ""


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
