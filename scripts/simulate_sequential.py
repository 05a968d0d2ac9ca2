"""How often `seeds: auto` answers falsely although it looks several times, and how many seeds it takes.

The truth sits at the margin at every non-trivial sparsity (ticket - dense = -margin, the ticket far above reinit), so
that every `holds` and every `fails` is false. Beside it stands looking as often at alpha itself, which is what spending
prevents; and the same studies where the tickets are as good as the dense network, so that `holds` is true.
Run `python scripts/simulate_sequential.py`; docs/verdict.md quotes what it prints.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from simulate_verdict import Floats, World, draw, shrunk

from prunetune.report.sequential import plan_looks
from prunetune.report.statistics import USUAL_RULE
from prunetune.study.seeds import looks

RANGES = ((5, 20), (3, 12), (2, 20))
SPREADS = ((0.5,), (0.4, 0.8), (0.3, 0.45, 0.7, 1.1), (0.5, 0.5, 0.5, 0.5))
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Course:
    """How a batch of studies went: the answers they stopped with, and the seeds that each of them took."""

    holds: Bools
    fails: Bools
    seeds: NDArray[np.int_]


def course(differences: Floats, seeds: Sequence[int], levels: Sequence[float]) -> Course:
    """Judge studies (studies, most seeds, sparsities) at each number of seeds until they are decided."""
    count = len(differences)
    holds, fails, taken = np.zeros(count, bool), np.zeros(count, bool), np.full(count, seeds[-1])
    for n, level in zip(seeds, levels, strict=True):
        going = ~(holds | fails)
        above, below = _tails(differences[:, :n])
        now = going & (above.min(axis=1) < level / above.shape[1])  # Holm rejects anywhere iff the smallest does
        holds |= now
        fails |= going & ~now & (below < level).all(axis=1)
        taken[going & (holds | fails)] = n
    return Course(holds, fails, taken)


def _tails(differences: Floats) -> tuple[Floats, Floats]:
    """One-sided p-values of "above" and "below the margin" by the rule's variances."""
    variances, freedom = shrunk(differences)
    t = (differences.mean(axis=1) + USUAL_RULE.margin) / np.sqrt(variances / differences.shape[1])
    return stats.t.sf(t, freedom), stats.t.cdf(t, freedom)


def row(least: int, most: int, spreads: tuple[float, ...], correlation: float, studies: int, seed: int) -> list[float]:
    """False `holds` and `fails` by the rule, either when peeking at alpha, seeds at the margin and away from it."""
    differences = draw(World(most, spreads, correlation), studies, np.random.default_rng(seed))
    numbers = looks(least, most)
    levels = [look.alpha for look in plan_looks(USUAL_RULE.alpha, numbers)]
    null, peeking = (course(differences, numbers, at) for at in (levels, [USUAL_RULE.alpha] * len(numbers)))
    true = course(differences + USUAL_RULE.margin, numbers, levels)
    rates = [null.holds, null.fails, peeking.holds, peeking.fails, true.holds]
    return [float(found.mean()) for found in [*rates, null.seeds, true.seeds]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row per range of seeds and truth."""
    parser = argparse.ArgumentParser(description="false answers of a study that adds seeds where it is undecided")
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(
        "| seeds | spreads (points) | correlation | false holds | false fails | peeking: holds | fails "
        "| true holds | seeds at the margin | seeds where it holds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for least, most in RANGES:
        for spreads in SPREADS:
            for correlation in (0.0,) if len(spreads) == 1 else (0.0, 0.9):
                *rates, null, true = row(least, most, spreads, correlation, options.studies, options.seed)
                cells = " | ".join(f"{rate:.3f}" for rate in rates)
                named = ", ".join(f"{spread:g}" for spread in spreads)
                print(f"| {least} to {most} | {named} | {correlation:g} | {cells} | {null:.1f} | {true:.1f} |")
    print(f"\nStandard error of a rate of .05: {(0.05 * 0.95 / options.studies) ** 0.5:.4f}")


if __name__ == "__main__":
    main()
