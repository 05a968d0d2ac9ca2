"""`models/LIST`: which files in a folder of models an earlier `prune` wrote, by their checksums."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from prunetune.core.files import replace_file

LIST, KIND = "LIST", "prunetune models"


def listed_models(folder: Path) -> frozenset[str]:
    """The names of files that lie in `folder` as an earlier `prune` left them; those it may have been killed at too."""
    return frozenset(
        name for name, digest in _read(folder).items() if digest is None or digest == _digest(folder / name)
    )


def announce_models(folder: Path, names: Iterable[str]) -> None:
    """Note files that are about to be written, so that what a killed process leaves of them is known as ours."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, _read(folder) | dict.fromkeys(names))


def note_model(path: Path) -> None:
    """Note a file that has been written."""
    _write(path.parent, _read(path.parent) | {path.name: _digest(path)})


def _read(folder: Path) -> dict[str, str | None]:
    try:
        found = json.loads((folder / LIST).read_bytes())
        return dict(found["files"]) if found["kind"] == KIND else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(folder: Path, files: dict[str, str | None]) -> None:
    content = json.dumps({"kind": KIND, "files": dict(sorted(files.items()))}, indent=1)
    replace_file(folder / LIST, content.encode())


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
