"""Variants measured in turn: every round runs each of them once, and another one comes first every time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.findings import Comparison, Measured
from benchmarks.load import Reader, Watch, read_clocks


@dataclass(frozen=True)
class Options:
    """How a benchmark is to be run."""

    rounds: int
    quick: bool = False  # smallest sizes, to see that it runs
    root: str = ""  # the folder of CIFAR-10; else the cache, else synthetic images


@dataclass(frozen=True)
class Variant:
    """A name and the work of one round, which returns its sample."""

    name: str
    work: Callable[[], float]


def compare(
    title: str, unit: str, variants: Sequence[Variant], rounds: int, *, alike: bool = True, read: Reader = read_clocks
) -> Comparison:
    """Run every variant once to warm up, then `rounds` rounds.

    The first variant is the baseline, where all do the same thing (`alike`).
    """
    for variant in variants:
        variant.work()
    watch = Watch(read)
    samples: dict[str, list[float]] = {variant.name: [] for variant in variants}
    others = []
    watch.lap()
    for number in range(rounds):
        for variant in rotated(variants, number):
            samples[variant.name].append(variant.work())
        others.append(watch.lap())
    rows = tuple(Measured(name, tuple(found)) for name, found in samples.items())
    return Comparison(title, unit, variants[0].name if alike else None, rows, tuple(others))


def rotated(variants: Sequence[Variant], number: int) -> list[Variant]:
    """The variants in the order of round `number`, counted from 0."""
    first = number % len(variants)
    return [*variants[first:], *variants[:first]]
