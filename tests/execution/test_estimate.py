"""The store that a plan foresees is the one that it grows to."""

from pathlib import Path
from typing import Any

import pytest

from prunetune.api import plan_study, preflight, run_study
from prunetune.execution.cost import estimate

BLOCK = 4096
STUDY: dict[str, Any] = {
    "model": "small",
    "data": "fashion-mini",
    "data_args": {"train_limit": 64},
    "recipe": {"epochs": 2},
    "learning_rates": [0.1],
    "sparsities": [0.5, 0.75],
    "rewind": "1ep",
    "seeds": 1,
}


def blocks(folder: Path) -> int:
    """Bytes of a disk with blocks of 4 KiB: every folder takes one, every file as many as it needs."""
    return sum(BLOCK * (1 if path.is_dir() else -(-path.stat().st_size // BLOCK)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_a_store_takes_what_was_estimated_within_a_fifth(tmp_path: Path) -> None:
    prepared = plan_study(STUDY, store=tmp_path / "store")
    expected = estimate(prepared.plan, prepared.remaining, jobs=1).store_bytes
    run_study(prepared, preflight(prepared, tmp_path / "out"), jobs=1)
    steps = tmp_path / "store" / "steps"
    shelves = sum(BLOCK for _ in steps.iterdir())  # shared by many steps in a store of any size
    assert blocks(steps) - shelves == pytest.approx(expected, rel=0.2)
    again = plan_study(STUDY, store=tmp_path / "store")
    assert estimate(again.plan, again.remaining, jobs=1).store_bytes == 0
