"""How often a store's files are opened and its folders listed: so many times a step, however many there are."""

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.store.store import Store
from tests.support.toy_study import init

Count = Callable[[Callable[[], object]], Counter[str]]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch, store: Store) -> Count:
    """Counts what a call opens and lists of the store; other threads of the process may open other files meanwhile."""
    seen: Counter[str] = Counter()
    for module, name in ((io, "open"), (os, "scandir"), (os, "listdir")):
        found: Callable[..., Any] = getattr(module, name)

        def counting(*args: Any, _of: Callable[..., Any] = found, _name: str = name, **options: Any) -> Any:
            seen[_name] += Path(args[0]).is_relative_to(store.root) if isinstance(args[0], str | Path) else 1
            return _of(*args, **options)

        monkeypatch.setattr(module, name, counting)

    def counted(work: Callable[[], object]) -> Counter[str]:
        seen.clear()
        work()
        return seen.copy()

    return counted


def planned(seeds: int) -> Plan:
    sparsities = {"per_round": 0.15, "rounds": 4}
    return plan(load_spec({"model": "small", "data": "fashion-mini", "seeds": seeds, "sparsities": sparsities}))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_plan_is_looked_up_with_one_look_a_step(seeds: int, store: Store, count: Count) -> None:
    made = planned(seeds)
    assert count(lambda: made.remaining(store)) == {"open": len(made.steps)}
    for step in made.steps[::2]:
        store.write(step, {"diverged": False})
    assert count(lambda: made.remaining(store)) == {"open": len(made.steps)}
    lacking = [step for i, step in enumerate(made.steps) if i % 2 or step.key in made.snapshots]
    assert made.remaining(store).left == tuple(lacking)


def test_a_list_opens_as_many_files_a_step_and_lists_no_more_than_the_shelves(store: Store, count: Count) -> None:
    counted = []
    for seeds in (range(300), range(300, 600)):
        for seed in seeds:
            store.write(init(seed), {"diverged": False})
        counted.append(count(lambda: list(store.ls())))
    first, second = counted
    assert second["open"] == 2 * first["open"] == 3 * 600
    assert second["scandir"] + second["listdir"] <= 2 * 257  # of two hexadecimal digits, and the folder that holds them
