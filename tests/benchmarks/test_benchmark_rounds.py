"""The order of the rounds, and variants in processes of their own."""

import os
from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks.rounds import Variant, compare
from benchmarks.serving import PRODUCT, USUAL, served
from tests.support.benchmark_records import clocks


def counting(start: int) -> Callable[[], tuple[int, int]]:
    """Counts calls in its process, which the third one ends."""
    calls = [start]

    def call() -> tuple[int, int]:
        calls[0] += 1
        if calls[0] > start + 2:
            os._exit(3)
        return calls[0], os.getpid()

    return call


def setting() -> Callable[[], tuple[int, str | None]]:
    """Threads and allocator setting of its process, found after something was printed."""
    print("libraries print what they like")
    return lambda: (torch.get_num_threads(), os.environ.get("MALLOC_TRIM_THRESHOLD_"))


def test_every_round_starts_with_another_variant_after_one_warm_up_each() -> None:
    called: list[str] = []

    def work(name: str) -> Callable[[], float]:
        def run() -> float:
            called.append(name)
            return float(len(called))

        return run

    read = clocks([(0, 0, 0), (0, 0, 0), (10, 5, 5), (20, 10, 9), (30, 15, 14)])
    found = compare("t", "s", [Variant(name, work(name)) for name in "abc"], 3, read=read)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"
    assert {row.name: row.samples for row in found.rows} == {"a": (4, 9, 11), "b": (5, 7, 12), "c": (6, 8, 10)}
    assert found.others == pytest.approx((0.0, 0.1, 0.0))
    assert found.baseline == "a"


def test_a_served_variant_keeps_its_state_in_a_process_of_its_own_whose_death_is_an_error() -> None:
    with served(partial(counting, 5)) as call:
        (first, pid), (second, again) = call(), call()
        assert (first, second) == (6, 7)
        assert pid == again != os.getpid()
        with pytest.raises(RuntimeError, match="status 3"):
            call()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_served_variant_has_the_settings_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    with served(setting, USUAL) as usual, served(setting, PRODUCT) as product:
        assert usual() == (1, None)
        assert product() == (1, str(2**31))
