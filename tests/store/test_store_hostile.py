"""Manifests and metrics that somebody else wrote, with right checksums: listed as damaged, and never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest

from prunetune.store.layout import MANIFEST, METRICS, entry, manifest_bytes
from prunetune.store.store import Store
from tests.support.toy_study import init


def forged(tmp_path: Path, about: dict[str, Any], files: Any = None, metrics: bytes | None = None) -> Store:
    """A store with one step, its manifest or its metrics replaced by what has a right checksum."""
    store = Store(tmp_path / "store")
    store.prepare()
    store.write(init(), {"digest": "0"})
    key = next(store.stored())
    found: dict[str, Any] = {**store.manifest(key)}
    listed = found.pop("files")
    if metrics is not None:
        (store.folder(key) / METRICS).write_bytes(metrics)
        listed[METRICS] = entry(metrics)
    content = manifest_bytes(found | about, files if files is not None else listed)
    (store.folder(key) / MANIFEST).write_bytes(content)
    return store


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"kind": 3}},
        {"about": {"kind": None}},
        {"about": {"created": ["now"]}},
        {"about": {"inputs": [1]}},
        {"about": {}, "files": {}},
        {"about": {}, "files": {"step.json": {"size": "big", "sha256": "0"}}},
        {"about": {}, "files": {"step.json": 5}},
        {"about": {}, "files": {"step.json": {"size": 1, "sha256": "0"}, "a\0b": {"size": 1, "sha256": "0"}}},
        {"about": {}, "metrics": b"[1, 2]"},
        {"about": {}, "metrics": b"[" * 100_000},
        {"about": {}, "metrics": json.dumps({"test_accuracy": "high"}).encode()},
        {"about": {}, "metrics": json.dumps({"correlations": [{"value": 1}]}).encode()},
    ],
)
def test_what_is_in_no_known_form_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    store = forged(tmp_path, **change)
    assert list(store.ls()) == []
    (problem,) = store.verify()
    assert str(problem).isprintable()


def test_a_manifests_words_are_short_and_printable(tmp_path: Path) -> None:
    store = forged(tmp_path, {"kind": "Train\x1b[2J\n" * 50, "created": "\x07now"})
    (line,) = map(str, store.ls())
    assert line.isprintable()
    assert len(line) < 300
