"""How often a search within a budget returns a network that loses too much, by the tool's own test.

A study has chains of candidates from gentle to strong. The held-out drop of a candidate in a seed is its true drop,
plus what the seed does to it, plus what the choice of the held-out examples does, which is the same in all seeds but
for a part of each seed's own. The dense network of a seed is the same for all its candidates: their drops go together.
A chain is tried up to the first candidate that is not shown to be within, and the strongest that was is returned. An
answer is false where the true drop of the network that is returned is the most or more: at the boundary every answer
is. Run `python scripts/simulate_budget.py`; docs/explanation/budget.md quotes what it prints.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunetune.analysis.noninferiority import Drop, chain_level

Floats = NDArray[np.float64]
ALPHA, MAX_DROP = 0.05, 0.5
LENGTH, BLOCKS = 6, 50  # candidates of a chain; blocks of the held-out examples
FLIPS = 0.02  # the share of the examples that pruning turns from right to wrong, and that from wrong to right
BOUNDARY = (MAX_DROP,) * LENGTH
RISING = (0.0, 0.1, 0.25, 0.5, 1.0, 2.5)
TRAP = (0.5, 0.0, 0.0, 0.0, 0.0, 0.0)  # a gentle candidate at the boundary keeps the good ones behind it from a look
NONE = (0.0,) * LENGTH


@dataclass(frozen=True)
class World:
    """What is true: the drops of a chain, the spreads of seeds from gentle to strong, and the correlation of drops.

    `choice` is the spread of what the choice of the examples does to a drop in all seeds alike; what it does besides
    to a single seed's has the same spread. With `images`, so many are held out instead, drops are counts of them, and
    lost and gained ones are each a fiftieth of all. `tails` are the degrees of freedom of the noise's t distribution, 0
    for a normal one.
    """

    name: str
    drops: tuple[float, ...]
    spreads: tuple[float, float]
    correlation: float = 0.7
    choice: float = 0.0
    images: int = 0
    tails: int = 0


EVEN, GROWING = (0.3, 0.3), (0.2, 1.0)
WORLDS = (
    World("boundary", BOUNDARY, EVEN, correlation=0.0),
    World("boundary", BOUNDARY, GROWING),
    World("boundary", BOUNDARY, GROWING, choice=0.2),
    World("boundary, 900 images", BOUNDARY, GROWING, images=900),
    World("boundary, t noise of 3 degrees", BOUNDARY, GROWING, choice=0.2, tails=3),
    World("rising", RISING, GROWING, choice=0.05),
    World("a trap", TRAP, EVEN, choice=0.05),
    World("no drop", NONE, GROWING, choice=0.05),
)
SEEDS, CHAINS = (3, 10), (1, 4)


class Study:
    """Draws the held-out drops of one study, a candidate at a time."""

    def __init__(self, world: World, seeds: int, generator: np.random.Generator) -> None:
        self._world, self._seeds, self._generator = world, seeds, generator
        self._dense = generator.standard_normal(seeds)

    def candidate(self, place: int) -> tuple[Floats, Floats]:
        """By seed, the drops; and the mean drops without each block of the examples, none where they add nothing."""
        world = self._world
        own = self._noise()
        mixed = world.correlation**0.5 * self._dense + (1 - world.correlation) ** 0.5 * own
        drops = world.drops[place] + np.linspace(*world.spreads, LENGTH)[place] * mixed
        if not world.choice and not world.images:
            return drops, np.empty(0)
        by_block = self._counted(drops) if world.images else self._normal(drops)
        total = by_block.sum(1, keepdims=True)
        return by_block.mean(1), ((total - by_block) / (BLOCKS - 1)).mean(0)

    def _normal(self, drops: Floats) -> Floats:
        """By seed and block, the drop with what its examples add, in all seeds alike and in each its own."""
        alike = self._generator.standard_normal((1, BLOCKS))
        apart = self._generator.standard_normal((self._seeds, BLOCKS))
        return drops[:, None] + self._world.choice * BLOCKS**0.5 * (alike + apart)

    def _counted(self, drops: Floats) -> Floats:
        """The drop as a count: examples that are lost less those that are gained, some blocks being harder for all."""
        each, generator = self._world.images / BLOCKS, self._generator
        harder = generator.gamma(2.0, 0.5, (2, 1, BLOCKS))
        lost = generator.poisson(each * np.clip(FLIPS + drops[:, None] / 200, 0, None) * harder[0])
        gained = generator.poisson(each * np.clip(FLIPS - drops[:, None] / 200, 0, None) * harder[1])
        return 100 * (lost - gained) / each

    def _noise(self) -> Floats:
        if not self._world.tails:
            return self._generator.standard_normal(self._seeds)
        tails = self._world.tails
        return self._generator.standard_t(tails, self._seeds) / (tails / (tails - 2)) ** 0.5


def returned(study: Study, chains: int, *, of_examples: bool = True) -> int | None:
    """How strong the network is that a search returns: its place in its chain; None where none is.

    Without `of_examples` the bound is that of the seeds alone.
    """
    level, best = chain_level(ALPHA, chains), -1
    for _ in range(chains):
        for place in range(LENGTH):
            drops, left_out = study.candidate(place)
            if not Drop.of(drops.tolist(), level, left_out.tolist() if of_examples else ()).within(MAX_DROP):
                break
            best = max(best, place)
    return None if best < 0 else best


def error_rates(
    world: World, seeds: int, chains: int, studies: int, generator: np.random.Generator, *, of_examples: bool = True
) -> tuple[float, float]:
    """Shares of studies that return a network which loses too much, and that return one at all."""
    drawn = (Study(world, seeds, generator) for _ in range(studies))
    places = [place for study in drawn if (place := returned(study, chains, of_examples=of_examples)) is not None]
    return sum(world.drops[place] >= MAX_DROP for place in places) / studies, len(places) / studies


def rows(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per world, numbers of seeds and of chains."""
    for world in WORLDS:
        for seeds in SEEDS:
            for chains in CHAINS:
                false, some = error_rates(world, seeds, chains, studies, generator)
                seeds_alone, _ = error_rates(world, seeds, chains, studies, generator, of_examples=False)
                spreads = " to ".join(f"{spread:g}" for spread in dict.fromkeys(world.spreads))
                given = [world.name, spreads, f"{world.correlation:g}", f"{world.choice:g}", str(seeds), str(chains)]
                yield [*given, f"{false:.3f}", f"{some:.3f}", f"{seeds_alone:.3f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description="how often a search within a budget returns what loses too much")
    parser.add_argument("--studies", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print("| the truth | spread of seeds | correlation | of examples | seeds | chains ", end="")
    print("| returned, and loses too much | returned | seeds alone: loses too much |")
    print("|---" * 9 + "|")
    for row in rows(options.studies, np.random.default_rng(options.seed)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
