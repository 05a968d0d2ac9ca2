"""`store gc --study` is refused for all of a prune, also where no step is being done, as between rounds of a search."""

from pathlib import Path
from typing import Any, NoReturn

import pytest

from prunetune.compression import budget_search, compress_models
from prunetune.compression.budget_plan import plan_search, preflight_search
from prunetune.compression.budget_search import run_search
from prunetune.compression.compress_models import plan_compression, preflight_compression, run_compression
from prunetune.execution.progress import Progress
from prunetune.spec.compression import CompressionRequest
from prunetune.spec.compression_budget import Budget
from prunetune.store.store import Store
from tests.support.refusals import refused

ASKED = CompressionRequest(model="small", data="fashion-mini", epochs=1, sparsities=(0.5,), mask="one_shot")


class ReachedError(Exception):
    """The prune came to where it is asked to give up its study."""


def removing(store: Path) -> Any:
    """In the place of what trains: the study cannot be removed."""

    def refuse(*_: object) -> NoReturn:
        with refused("--study", "small-fashion-mini", "under way"):
            Store(store).remove_study("small-fashion-mini")
        raise ReachedError

    return refuse


def test_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(compress_models, "run_steps", removing(store))
    prepared = plan_compression(None, (), ASKED, store=store)
    with pytest.raises(ReachedError):
        run_compression(prepared, preflight_compression(prepared, out=tmp_path / "out"))
    Store(store).remove_study("small-fashion-mini")


def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(budget_search._Tried, "run", removing(store))
    search = plan_search(None, (), ASKED, Budget(1.0), store=store)
    folder = preflight_search(search, out=tmp_path / "out")
    with pytest.raises(ReachedError):
        run_search(search, folder, follow=lambda part: Progress(part.plan, part.remaining))
    assert len(Store(store).studies()) == 1  # of the same digest, whoever writes it down
    Store(store).remove_study("small-fashion-mini")
