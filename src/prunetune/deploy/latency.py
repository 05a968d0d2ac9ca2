"""How long models take on this machine: measured in turns, so that what disturbs one disturbs all."""

import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import nn

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_module, require_type
from prunetune.sparsity.enforce import is_held
from prunetune.sparsity.forward_pass import Arguments, ExampleInputs, arguments, evaluating
from prunetune.sparsity.torch_prune import masks_in

_THREADS = 1  # as a CPU training uses: several make times depend on what else the machine does
_WARM_UP = 3  # calls that are not timed: first calls choose kernels and fill caches
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Latency:
    """Seconds per call, one sample per round; sample i of all models measured together is from the same round."""

    samples: tuple[float, ...]
    threads: int  # intra-op threads of the CPU

    @property
    def rounds(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def median(self) -> float:
        """The median of the samples."""
        return median(self.samples)

    @property
    def low(self) -> float:
        """The lower quartile."""
        return quantiles(self.samples, n=4, method="inclusive")[0]

    @property
    def high(self) -> float:
        """The upper quartile."""
        return quantiles(self.samples, n=4, method="inclusive")[2]


class Speedup(NamedTuple):
    """How many times as fast, and the interval of at least 95 % confidence for it."""

    ratio: float
    low: float
    high: float


def latencies(
    models: Mapping[str, nn.Module], inputs: ExampleInputs, *, rounds: int = 30, threads: int = _THREADS
) -> dict[str, Latency]:
    """Time one call of every model in every round, in an order that is shuffled anew each time.

    All models lie on the device of `inputs`, for which the clock waits. They are called in evaluation mode and
    inference mode, on `threads` CPU threads, three times before the first round; modes and threads are put back.

    ConfigError for no model, fewer than 2 rounds, inputs without a batch, and a model that is held, or in the form of
    `torch.nn.utils.prune`: the masking in each of its forward passes would be timed, which what ships does not do.
    """
    call = arguments(inputs, "inputs")
    _require_measurable(models, rounds)
    samples: dict[str, list[float]] = {name: [] for name in models}
    with evaluating(*models.values()), torch.inference_mode(), _on_threads(threads):
        for model in models.values():
            for _ in range(_WARM_UP):
                call.given_to(model)
        for name in _turns(list(models), rounds):
            samples[name].append(_seconds(models[name], call))
    return {name: Latency(tuple(found), threads) for name, found in samples.items()}


def speedup(base: Latency, other: Latency) -> Speedup:
    """The median over rounds of base / other seconds: above 1, `other` is faster. Both from one call of `latencies`.

    The interval lies between the k-th smallest and the k-th largest ratio, k the largest for which the true median of
    the ratios is between them with a probability of 95 % at least, whatever their distribution, when rounds are
    independent: 1 - 2 P(B < k) with B binomial(n, 1/2) (Thompson 1936, Ann. Math. Statist. 7, pp. 122-128). That
    takes 6 rounds; ConfigError for fewer, and for different numbers of them.
    """
    if base.rounds != other.rounds:
        raise ConfigError(f"rounds: {base.rounds} and {other.rounds} are not pairs; measure both in one call")
    ratios = sorted(mine / theirs for mine, theirs in zip(base.samples, other.samples, strict=True))
    k = _order(len(ratios))
    return Speedup(median(ratios), ratios[k - 1], ratios[-k])


def _order(n: int) -> int:
    """The k of `speedup`'s interval for `n` ratios."""
    within = [k for k in range(1, n // 2 + 1) if _coverage(n, k) >= _CONFIDENCE]
    if not within:
        raise ConfigError(f"rounds: {n} are too few for an interval of {_CONFIDENCE:.0%}; at least 6")
    return max(within)


def _coverage(n: int, k: int) -> float:
    return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n


def require_rounds(rounds: int) -> None:
    """ConfigError for rounds that have no spread."""
    require_type("rounds", rounds, int, "a number of rounds, such as 30")
    if rounds < 2:
        raise ConfigError(f"rounds: {rounds} has no spread; at least 2")


def _require_measurable(models: Mapping[str, nn.Module], rounds: int) -> None:
    require_type("models", models, Mapping, "a dict of names to models")
    require_rounds(rounds)
    if not models:
        raise ConfigError("models: none to measure")
    for name, model in models.items():
        require_module(model, f"models: '{name}'")
        if is_held(model):
            raise ConfigError(f"models: '{name}' is held, and its zeroing would be timed; call remove_mask first")
        if masks_in(model):
            raise ConfigError(f"models: '{name}' is masked by torch.nn.utils.prune in every call; prune.remove first")


def _turns(names: list[str], rounds: int) -> Iterator[str]:
    order = random.Random(0)
    for _ in range(rounds):
        order.shuffle(names)
        yield from names


def _seconds(model: nn.Module, inputs: Arguments) -> float:
    _wait(inputs.first.device)
    start = time.perf_counter()
    inputs.given_to(model)
    _wait(inputs.first.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
