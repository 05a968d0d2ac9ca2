"""How often a verdict says `holds` where nothing holds: Monte-Carlo of the rule of DESIGN section 5 at the margin.

The truth sits at the margin at every non-trivial sparsity (ticket - dense = -margin, the ticket far above reinit), so
every `holds` is false. The differences of a seed are correlated across sparsities and spread wider the sparser the
network. Run `python scripts/simulate_verdict.py`; docs/verdict.md quotes what it prints.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunetune.analysis.statistics import USUAL_RULE

Floats = NDArray[np.float64]
Method = Callable[[Floats], tuple[Floats, float]]


@dataclass(frozen=True)
class World:
    """A truth to draw studies from."""

    seeds: int
    spreads: tuple[float, ...]  # standard deviation of ticket - dense at each sparsity, in points
    correlation: float  # between the differences of one seed at two sparsities


WORLDS = tuple(
    World(seeds, spreads, correlation)
    for seeds in (2, 3, 5, 10)
    for spreads in ((0.5,), (0.4, 0.8), (0.3, 0.45, 0.7, 1.1), (0.5, 0.5, 0.5, 0.5))
    for correlation in ((0.0,) if len(spreads) == 1 else (0.0, 0.5, 0.9))
)


def draw(world: World, studies: int, generator: np.random.Generator) -> Floats:
    """Differences ticket - dense of shape (studies, seeds, sparsities), with mean -margin."""
    count = len(world.spreads)
    mixing = np.full((count, count), world.correlation) + (1 - world.correlation) * np.eye(count)
    covariance = mixing * np.outer(world.spreads, world.spreads)
    means = np.full(count, -USUAL_RULE.margin)
    return generator.multivariate_normal(means, covariance, size=(studies, world.seeds))


def shrunk(differences: Floats) -> tuple[Floats, float]:
    """The rule's variances (studies, sparsities) and their degrees of freedom."""
    _, n, count = differences.shape
    own = differences.var(axis=1, ddof=1)
    pooled = own.mean(axis=1, keepdims=True)
    return (2 * pooled + (n - 1) * own) / (n + 1), min(n + 1, count * (n - 1))


def pooled(differences: Floats) -> tuple[Floats, float]:
    """One variance for all sparsities, with (n - 1) degrees of freedom of each: what the rule does not do."""
    _, n, count = differences.shape
    own = differences.var(axis=1, ddof=1)
    return np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape), count * (n - 1)


def unshrunk(differences: Floats) -> tuple[Floats, float]:
    """Each sparsity's own variance: the ordinary paired t."""
    return differences.var(axis=1, ddof=1), differences.shape[1] - 1


METHODS: dict[str, Method] = {"shrunk": shrunk, "pooled": pooled, "own": unshrunk}


def holds(differences: Floats, method: Method) -> NDArray[np.bool_]:
    """Whether each study says `holds`: Holm rejects anywhere iff the smallest p is below alpha / sparsities."""
    variances, freedom = method(differences)
    _, n, count = differences.shape
    t = (differences.mean(axis=1) + USUAL_RULE.margin) / np.sqrt(variances / n)
    return stats.t.sf(t, freedom).min(axis=1) < USUAL_RULE.alpha / count


def rates(world: World, studies: int, generator: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The rate of false `holds` by method, with its standard error, all methods on the same draws."""
    differences = draw(world, studies, generator)
    found = {name: float(holds(differences, method).mean()) for name, method in METHODS.items()}
    return {name: (rate, (rate * (1 - rate) / studies) ** 0.5) for name, rate in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row per world."""
    parser = argparse.ArgumentParser(description="false `holds` at the margin")
    parser.add_argument("--studies", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    generator = np.random.default_rng(options.seed)
    print("| seeds | spreads (points) | correlation | shrunk | plainly pooled | own | standard error |")
    print("|---|---|---|---|---|---|---|")
    for world in WORLDS:
        row = rates(world, options.studies, generator)
        spreads = ", ".join(f"{spread:g}" for spread in world.spreads)
        cells = " | ".join(f"{rate:.3f}" for rate, _ in row.values())
        error = max(error for _, error in row.values())
        print(f"| {world.seeds} | {spreads} | {world.correlation:g} | {cells} | {error:.4f} |")


if __name__ == "__main__":
    main()
