"""The content-addressed store of finished steps: writing to it, and keeping it in order.

A step's folder appears whole or not at all, and the first process that writes a key wins: whoever comes second must
have the same bytes. docs/reference/store.md gives the layout, so that anybody can read a store without us.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from prunetune.core.files import locked, publish_folder, replace_file
from prunetune.errors import ConfigError, InvariantError
from prunetune.sparsity.mask import Mask, packed
from prunetune.steps.steps import Step, describe
from prunetune.store import maintenance as upkeep
from prunetune.store.backend import LocalShelves, writing
from prunetune.store.layout import (
    MANIFEST,
    MARKER,
    MASK,
    METRICS,
    STATE,
    STEP,
    STORE_VERSION,
    digest_bytes,
    entry,
    json_bytes,
    manifest_bytes,
    marker_bytes,
    state_file,
)
from prunetune.store.leases import CLAIMS, EXPIRY, Leases
from prunetune.training.recipe import Point

_OF_A_DISK = "lost+found"  # in the root of a fresh one

State = Mapping[str, Tensor]


class Store(LocalShelves):
    """A store that can be written to as well. Opening changes nothing; `prepare` makes it ready."""

    def prepare(self) -> None:
        """Create the store, or prove that it can be written to; ConfigError otherwise.

        A folder that holds anything is not made one.
        """
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if not self.is_marked():
                self._refuse_filled()
            replace_file(self.root / MARKER, marker_bytes())
            for name in ("steps", "logs", CLAIMS):
                (self.root / name).mkdir(exist_ok=True)
            (self.root / ".lock").touch()  # while there is room: claims are given up under it on a full disk too

    def write(
        self,
        step: Step,
        metrics: Mapping[str, Any],
        *,
        state: State | None = None,
        mask: Mask | None = None,
        snapshots: Mapping[Point, State] | None = None,
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
        whole = {**files, MANIFEST: manifest_bytes(about, {name: entry(content) for name, content in files.items()})}
        with writing(self.folder(step.key)):
            if not publish_folder(self.folder(step.key), whole):
                self._complete(step, files)
        self.share(step.key)

    def share(self, key: str) -> None:
        """Let other machines have a step that is stored here; in a folder that they work in too they have it."""

    def claims(self, expiry: float = EXPIRY) -> Leases:
        """This process's claims on steps; those of others count no more after `expiry` seconds of silence."""
        return Leases(self.root, expiry)

    def quarantine(self, key: str) -> Path:
        """Move a step's folder out of the way, to be looked at; returns where it went.

        ConfigError where the folder is no store.
        """
        self.require_marked()
        target = self.aside(key)
        with writing(target):
            target.parent.mkdir(exist_ok=True)
            self.folder(key).rename(target)
        return target

    def aside(self, key: str) -> Path:
        """A free place for what was found damaged of a step."""
        return self.root / "quarantine" / f"{key}-{os.urandom(4).hex()}"

    def ls(self) -> Iterator[upkeep.Entry]:
        """What is stored, a step each."""
        return upkeep.entries(self)

    def verify(self) -> Iterator[upkeep.Problem]:
        """Read everything again; every step that is not what was written, and why."""
        return upkeep.problems(self)

    def gc(self, dry_run: bool = False, tell: Callable[[upkeep.Leftover], None] = lambda leftover: None) -> int:
        """Remove what killed processes left behind, what was put aside as damaged, and old logs; the bytes freed.

        `tell` is told of each. With `dry_run` nothing is removed, and the bytes are those that would be freed. Names
        that are not exactly of the form that a store gives them are left alone, and so is what a process is at.
        ConfigError where there is a folder that is no store.
        """
        freed = 0
        self.require_marked()
        with writing(self.root), closing(self.claims()) as claims:
            for leftover in list(self.leftovers(claims)):
                tell(leftover)
                freed += leftover.size if dry_run else leftover.remove()
        return freed

    def leftovers(self, claims: Leases) -> Iterator[upkeep.Leftover]:
        """What `gc` removes; nothing where nothing is yet."""
        if self.is_marked():
            yield from upkeep.leftovers(self.root, claims)

    def require_marked(self) -> None:
        """ConfigError where there is a folder, and no marker in it."""
        if self.root.exists() and not self.is_marked():
            raise ConfigError(f"store: '{self.root}' is no store, for it has no {MARKER}; nothing was changed")

    def _complete(self, step: Step, files: Mapping[str, bytes]) -> None:
        """Add what an existing step lacks, files first and then the list, after comparing what both have."""
        with locked(self.root / ".lock"):
            about = self.manifest(step.key)
            listed = about.pop("files")
            for name in files.keys() & listed.keys():
                if digest_bytes(files[name]) != listed[name]["sha256"]:
                    raise InvariantError(
                        f"{step.label}: not reproducible here: {name} came out otherwise than it is stored; "
                        "see its manifest.json for the environment that it was made in"
                    )
            new = {name: content for name, content in files.items() if name not in listed}
            for name, content in new.items():
                replace_file(self.folder(step.key) / name, content)
            if new:
                added = {name: entry(content) for name, content in new.items()}
                replace_file(self.folder(step.key) / MANIFEST, manifest_bytes(about, listed | added))

    def _refuse_filled(self) -> None:
        """Hidden files are no content: a file system and another process that is just making the store leave some."""
        foreign = [path.name for path in self.root.iterdir() if path.name[0] != "." or path.is_dir()]
        foreign = [name for name in foreign if name != _OF_A_DISK]
        if foreign and not self.is_marked():  # by another process, meanwhile
            raise ConfigError(
                f"store: '{self.root}' is no store and holds other things ('{min(foreign)}'); give a new folder"
            )


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes; every tensor a copy of its own, so that tied weights are written under each of their names."""
    return safetensors.torch.save(
        {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    )
