"""Latency by a clock that only the models move: what is timed, in which order, and what is put back."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from prunetune.deploy import latency
from prunetune.deploy.latency import Latency, latencies, speedup
from prunetune.sparsity.enforce import apply_mask, remove_mask
from tests.support.refusals import refused

INPUT = torch.ones(2, 3)


class Clock:
    """Seconds that pass only when somebody says so, and who was called when."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []


class Takes(nn.Module):
    """A model whose n-th call takes `seconds[n]`, the last of them ever after."""

    def __init__(self, clock: Clock, name: str, *seconds: float) -> None:
        super().__init__()
        self.clock, self.name, self.seconds = clock, name, list(seconds)
        self.inner = nn.Dropout()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[bool, bool, int]] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.clock.calls.append(self.name)
        self.seen.append((self.inner.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return sum(inputs, torch.zeros(()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: fake.now)
    return fake


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_each_model_s_own_time(clock: Clock) -> None:
    found = latencies({"slow": Takes(clock, "slow", 0.5), "fast": Takes(clock, "fast", 0.125)}, INPUT, rounds=4)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].samples == (0.5,) * 4
    assert found["fast"].samples == (0.125,) * 4
    assert (found["fast"].median, found["fast"].low, found["fast"].high, found["fast"].rounds) == (0.125,) * 3 + (4,)


def test_first_calls_are_not_timed(clock: Clock) -> None:
    found = latencies({"cold": Takes(clock, "cold", 64.0, 32.0, 16.0, 1.0, 2.0, 3.0, 4.0)}, INPUT, rounds=4)["cold"]
    assert found.samples == (1.0, 2.0, 3.0, 4.0)


def test_median_and_quartiles_are_numpy_s(clock: Clock) -> None:
    seconds = [7.0, 1.0, 4.0, 9.0, 2.0, 16.0]
    found = latencies({"a": Takes(clock, "a", *[1.0] * 3, *seconds)}, INPUT, rounds=6)["a"]
    assert [found.low, found.median, found.high] == np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()


def test_every_round_has_every_model_in_an_order_that_changes(clock: Clock) -> None:
    names = ["a", "b", "c"]
    latencies({name: Takes(clock, name, 1.0) for name in names}, INPUT, rounds=30)
    timed = clock.calls[9:]
    rounds = [tuple(timed[at : at + 3]) for at in range(0, len(timed), 3)]
    assert len(rounds) == 30
    assert all(sorted(turn) == names for turn in rounds)
    assert len(set(rounds)) == 6  # all orders, so that none always runs in another's wake
    assert {first for first, *_ in rounds} == set(names)
    assert any(turn != later for turn, later in pairwise(rounds))


def test_called_in_evaluation_and_inference_on_one_thread_and_all_is_put_back(
    clock: Clock, three_threads: None
) -> None:
    model = Takes(clock, "a", 1.0).train()
    model.inner.eval()
    found = latencies({"a": model}, (INPUT, INPUT), rounds=2)["a"]
    assert set(model.seen) == {(False, True, 1)}
    assert found.threads == 1
    assert (model.training, model.inner.training, torch.get_num_threads()) == (True, False, 3)


def test_on_as_many_threads_as_asked_for(clock: Clock, three_threads: None) -> None:
    model = Takes(clock, "a", 1.0)
    found = latencies({"a": model}, INPUT, rounds=2, threads=2)
    assert {threads for _, _, threads in model.seen} == {2}
    assert found["a"].threads == 2
    assert torch.get_num_threads() == 3


def test_put_back_after_a_failure(three_threads: None) -> None:
    model = nn.Linear(4, 2).train()
    with pytest.raises(RuntimeError):
        latencies({"a": model}, INPUT)
    assert (model.training, torch.get_num_threads(), torch.is_inference_mode_enabled()) == (True, 3, False)


def test_a_real_model_takes_time() -> None:
    found = latencies({"a": nn.Linear(3, 2)}, INPUT, rounds=3)["a"]
    assert found.rounds == 3
    assert min(found.samples) > 0


def test_inputs_by_name() -> None:
    inputs = {"input2": torch.ones(5, 4), "input1": torch.ones(5, 3)}
    assert latencies({"bilinear": nn.Bilinear(3, 4, 2)}, inputs, rounds=2)["bilinear"].median > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_waits_for_the_device() -> None:
    """A product that takes the device milliseconds is queued in microseconds: its time shows only when waited for."""
    big = nn.Linear(8192, 8192, device="cuda")
    x = torch.ones(8192, 8192, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = latencies({"a": big}, x, rounds=5)["a"]
    with torch.inference_mode():
        start.record()
        big(x)
        end.record()
    torch.cuda.synchronize()
    assert found.median > 0.5 * start.elapsed_time(end) / 1000


def test_speedup_is_the_median_of_the_rounds_ratios() -> None:
    """Six rounds: ratios 2, 2, 2, 4, 4, 1. Drift common to both cancels; the interval is from least to most."""
    other = Latency((1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 1)
    base = Latency((2.0, 4.0, 8.0, 32.0, 64.0, 32.0), 1)
    assert speedup(base, other) == (2.0, 1.0, 4.0)
    assert speedup(other, base) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    ("n", "k"),
    # Of 95 %, as in tables of the sign test, e.g. Conover, Practical Nonparametric Statistics (3rd ed.), table A3.
    [(6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (15, 4), (17, 5), (20, 6), (25, 8), (30, 10), (50, 18)],
)
def test_the_order_of_the_interval(n: int, k: int) -> None:
    samples = tuple(float(value) for value in range(1, n + 1))
    found = speedup(Latency(samples, 1), Latency((1.0,) * n, 1))
    assert (found.low, found.high) == (k, n + 1 - k)


@pytest.mark.parametrize("n", [6, 9, 30])
def test_the_interval_covers_the_true_median(n: int) -> None:
    """Ratios e^z of skewed z with median 0, so that the true median is 1: in 4000 measurements, at least 95 %."""
    generator = np.random.default_rng(0)
    z = generator.exponential(size=(4000, n)) - math.log(2)
    covered = 0
    for row in np.exp(z):
        low, high = speedup(Latency(tuple(row), 1), Latency((1.0,) * n, 1))[1:]
        covered += low <= 1 <= high
    assert covered / 4000 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_refusals() -> None:
    with refused("rounds", "5", "6", "few"):
        speedup(Latency((1.0,) * 5, 1), Latency((1.0,) * 5, 1))
    with refused("rounds", "6", "7", "pairs"):
        speedup(Latency((1.0,) * 6, 1), Latency((1.0,) * 7, 1))
    with refused("models"):
        latencies({}, INPUT)
    with refused("rounds", "1"):
        latencies({"a": nn.Linear(3, 2)}, INPUT, rounds=1)
    with refused("inputs", "tensor"):
        latencies({"a": nn.Linear(3, 2)}, ())


def test_a_held_model_is_refused_until_it_is_released() -> None:
    model = nn.Linear(3, 2)
    apply_mask(model, {"weight": torch.eye(2, 3)})
    with refused("models", "sparse", "held"):
        latencies({"sparse": model}, INPUT, rounds=2)
    remove_mask(model)
    assert latencies({"sparse": model}, INPUT, rounds=2)["sparse"].rounds == 2
    torch_prune.l1_unstructured(model, "weight", 0.5)
    with refused("models", "sparse", "torch.nn.utils.prune", "masked"):
        latencies({"sparse": model}, INPUT, rounds=2)
