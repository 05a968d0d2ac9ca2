"""The content-addressed store of finished steps: writing to it, and keeping it in order.

A step appears whole or not at all, and the first process that writes a key wins: whoever comes second must have the
same bytes. docs/reference/store.md gives the layout, so that anybody can read a store without us.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Set
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from prunetune.core.files import locked
from prunetune.errors import ConfigError, InvariantError
from prunetune.sparsity.mask import Mask, packed
from prunetune.steps.steps import Step, describe
from prunetune.store import maintenance
from prunetune.store.backend import Backend, LocalBackend, writing
from prunetune.store.layout import (
    MANIFEST,
    MARKER,
    MASK,
    METRICS,
    STATE,
    STEP,
    STORE_VERSION,
    StoreReader,
    digest_bytes,
    entry,
    folder_of,
    json_bytes,
    manifest_bytes,
    state_file,
)
from prunetune.store.leases import EXPIRY, Leases
from prunetune.store.studies import Removal, StoredStudy, note_study, places, removal, studies_in
from prunetune.training.recipe import TrainingTime

State = Mapping[str, Tensor]


class StoreWriter(StoreReader):
    """A store that can be written to as well, and looked after. Opening changes nothing; `prepare` makes it ready."""

    root: Path  # folder of this machine for checkpoints and logs; a worker's store of finished steps

    @abstractmethod
    def prepare(self) -> None:
        """Create the store, or prove that it can be written to; ConfigError otherwise.

        A place that holds anything is not made one.
        """

    @abstractmethod
    def publish(self, key: str, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Store a step's files; `about` is what its manifest says beside them. Errors are those of `write`."""

    @abstractmethod
    def share(self, key: str) -> None:
        """Let other machines have a step that is stored here; nothing to do where they work in the same folder."""

    @abstractmethod
    def leases(self, expiry: float = EXPIRY) -> Leases:
        """This process's leases on steps; those of others count no more after `expiry` seconds of silence."""

    @abstractmethod
    def quarantine(self, key: str) -> Path:
        """Move a step out of the way, to be looked at; returns the folder of this machine where it went.

        ConfigError where the place is no store.
        """

    @abstractmethod
    def home(self) -> "Store":
        """The store where finished steps and studies are kept for all."""

    @abstractmethod
    def verify(self) -> Iterator[maintenance.Problem]:
        """Read everything again; every step that is not what was written, and why."""

    @abstractmethod
    def leftovers(self, leases: Leases) -> Iterator[maintenance.Leftover]:
        """What `gc` removes; nothing where nothing is yet."""

    @abstractmethod
    def require_marked(self) -> None:
        """ConfigError where there is anything, and no marker of a store."""

    def folder(self, key: str) -> Path:
        """Where this machine keeps a step's files."""
        return self.root / folder_of(key)

    def studies(self) -> list[StoredStudy]:
        """The studies that ran with this store."""
        return studies_in(self.home().backend)

    def note_study(self, study: StoredStudy) -> None:
        """Write down which steps are a study's, for `ls` and for `remove_study`."""
        home = self.home().backend
        with writing(home.place), locked(self.root / ".lock"):
            note_study(home, study)

    @contextmanager
    def under_way(self, study: StoredStudy) -> Generator[None]:
        """While this is open `remove_study` refuses the study, also where no step of it is being done."""
        with closing(self.leases()) as leases:
            leases.hold(study.path)
            self.note_study(study)  # again: a removal that came just before has taken it away
            yield

    def ls(self) -> Iterator[maintenance.Entry]:
        """What is stored, a step each, with the studies that it belongs to."""
        return maintenance.entries(self.home(), places(self.studies()))

    def write(
        self,
        step: Step,
        metrics: Mapping[str, Any],
        *,
        state: State | None = None,
        mask: Mask | None = None,
        snapshots: Mapping[TrainingTime, State] | None = None,
        inputs: Mapping[str, str] | None = None,
        environment: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Store a step's results; `inputs` names the stored files that they were made from, with their checksums.

        Where the step is stored already (by another process, or without the snapshots asked for now), files that are
        there must be equal bit for bit, InvariantError otherwise, and those that are missing are added.
        ConfigError when the disk is full or read-only; what is stored stays as it was.
        """
        files = {STEP: json_bytes(describe(step)), METRICS: json_bytes(dict(metrics))}
        files |= {} if state is None else {STATE: _pack(state)}
        files |= {} if mask is None else {MASK: packed(mask)}
        files |= {state_file(point): _pack(found) for point, found in (snapshots or {}).items()}
        about = {
            "schema_version": STORE_VERSION,
            "kind": type(step).__name__,
            "key": step.key,
            "diverged": bool(metrics.get("diverged", False)),
            "inputs": dict(inputs or {}),
            "environment": dict(environment or {}),
            "seconds": seconds,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.publish(step.key, about, files)
        self.share(step.key)

    def gc(self, dry_run: bool = False, tell: Callable[[maintenance.Leftover], None] = lambda leftover: None) -> int:
        """Remove what killed processes left behind, what was put aside as damaged, and old logs; the bytes freed.

        `tell` is told of each. With `dry_run` nothing is removed, and the bytes are those that would be freed. Names
        that are not exactly of the form that a store gives them are left alone, and so is what a process is at.
        ConfigError where there is a folder that is no store.
        """
        freed = 0
        self.require_marked()
        with writing(self.root), closing(self.leases()) as leases:
            for leftover in list(self.leftovers(leases)):
                tell(leftover)
                freed += leftover.size if dry_run else leftover.remove()
        return freed

    def remove_study(
        self, name: str, dry_run: bool = False, tell: Callable[[maintenance.Leftover], None] = lambda leftover: None
    ) -> tuple[int, Removal]:
        """Remove the steps that only the study of this name needs; the bytes freed, and what went and stayed.

        `tell` and `dry_run` are those of `gc`. ConfigError for a study that is not listed, or that a process is at.
        """
        freed, home = 0, self.home()
        self.require_marked()
        with writing(self.root), closing(self.leases()) as leases:
            found = removal(home, self.studies(), name, leases)
            for leftover in found.leftovers(home, home.backend, leases, self._drop):
                tell(leftover)
                freed += leftover.size if dry_run else leftover.remove()
        return freed, found

    def _drop(self, key: str) -> int:
        """Remove a step; the bytes freed."""
        return maintenance.remove(self.quarantine(key))


class Store(StoreWriter):
    """The store in a folder, or at another place by its backend.

    Raises ConfigError when the path is no folder, or was written by a newer prunetune. A path where nothing is yet is
    an empty store.
    """

    def __init__(self, place: str | Path | Backend) -> None:
        self.backend: Backend = LocalBackend(place) if isinstance(place, str | Path) else place
        self.root = self.backend.root

    def stored(self) -> Iterator[str]:
        """The keys of all steps that are stored, damaged ones too, in order."""
        return self.backend.keys()

    def exists(self, key: str) -> bool:
        """Whether a step is there, damaged or not."""
        return self.backend.exists(key)

    def names(self, key: str) -> Set[str]:
        """The names of a step's files, without those under way."""
        return self.backend.names(key)

    def content(self, key: str, name: str) -> bytes:
        """A file as it lies there; OSError when it cannot be read."""
        return self.backend.get(f"{folder_of(key)}/{name}")

    def prepare(self) -> None:
        """Create the store, or prove that it can be written to."""
        with writing(self.backend.place):
            if not self.backend.is_marked():
                self._refuse_foreign()
            self.backend.prepare()

    def publish(self, key: str, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Let a step appear at once, or add to the one that is there what it lacks."""
        manifest = manifest_bytes(about, {name: entry(content) for name, content in files.items()})
        with writing(f"{self.backend.place}/{folder_of(key)}"):
            if not self.backend.publish(key, {**files, MANIFEST: manifest}):
                self._complete(key, files)

    def share(self, key: str) -> None:
        """Who works in the same folder has it."""

    def leases(self, expiry: float = EXPIRY) -> Leases:
        """This process's leases on steps."""
        return Leases(self.backend, expiry)

    def quarantine(self, key: str) -> Path:
        """Move a step out of the way, to a folder of this machine."""
        self.require_marked()
        target = self.root / "quarantine" / f"{key}-{os.urandom(4).hex()}"
        with writing(target):
            target.parent.mkdir(exist_ok=True)
            self.backend.move_out(key, target)
        return target

    def home(self) -> "Store":
        """This one."""
        return self

    def verify(self) -> Iterator[maintenance.Problem]:
        """Read everything again; every step that is not what was written, and why."""
        return maintenance.problems(self)

    def leftovers(self, leases: Leases) -> Iterator[maintenance.Leftover]:
        """What `gc` removes; nothing where nothing is yet."""
        if self.backend.is_marked():
            yield from maintenance.leftovers(self.backend, leases)

    def require_marked(self) -> None:
        """ConfigError where there is anything, and no marker of a store."""
        if not self.backend.is_marked() and self.backend.is_there():
            raise ConfigError(f"store: '{self.backend.place}' is no store, for it has no {MARKER}; nothing was changed")

    def _complete(self, key: str, files: Mapping[str, bytes]) -> None:
        """Add what an existing step lacks, files first and then the list, after comparing what both have."""
        with locked(self.root / ".lock"):
            about = self.manifest(key)
            listed = about["files"]
            for name in files.keys() & listed.keys():
                if digest_bytes(files[name]) != listed[name]["sha256"]:
                    raise InvariantError(
                        f"{about['kind']} {key[:12]}: not reproducible here: {name} came out otherwise than it is "
                        f"stored at '{self.backend.place}'; see its manifest.json there for the environment that it "
                        "was made in"
                    )
            new = {name: content for name, content in files.items() if name not in listed}
            for name, content in new.items():
                self.backend.put(f"{folder_of(key)}/{name}", content)
            if new:
                added = {name: entry(content) for name, content in new.items()}
                self.backend.put(f"{folder_of(key)}/{MANIFEST}", manifest_bytes(about, listed | added))

    def _refuse_foreign(self) -> None:
        foreign = self.backend.contents()
        if foreign and not self.backend.is_marked():  # by another process, meanwhile
            raise ConfigError(
                f"store: '{self.backend.place}' is no store and holds other things ('{min(foreign)}'); "
                "give a new folder"
            )


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes; every tensor a copy of its own, so that tied weights are written under each of their names."""
    return safetensors.torch.save(
        {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    )
