"""How often `seeds: auto` answers falsely although it looks several times; what it decides, and by how many seeds.

First table: the truth sits at the margin at every non-trivial sparsity (ticket - dense = -margin, the ticket far above
reinit), so that every `holds` and every `fails` is false. Beside it stands looking as often at alpha itself, which is
what spending prevents. Second table: the same studies with the truth moved off the margin, beside fixed numbers of
seeds. Run `python scripts/simulate_sequential.py`; docs/evidence/error-rates.md quotes what it prints.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from simulate_verdict import Floats, World, draw, shrunk

from prunetune.analysis.statistics import USUAL_RULE, plan_looks
from prunetune.core.limits import looks

ALPHA, MARGIN = USUAL_RULE.alpha, USUAL_RULE.margin
RANGES = ((5, 20), (3, 12), (2, 20))  # the first is `auto`
SPREADS = ((0.5,), (0.4, 0.8), (0.3, 0.45, 0.7, 1.1), (0.5, 0.5, 0.5, 0.5))
EFFECTS = (-1.0, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)  # points above the margin
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Course:
    """How a batch of studies went: the answers they stopped with, and the seeds that each of them took."""

    holds: Bools
    fails: Bools
    seeds: NDArray[np.int_]

    @property
    def rates(self) -> list[str]:
        """The shares of both answers."""
        return [f"{self.holds.mean():.3f}", f"{self.fails.mean():.3f}"]


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


def spending(differences: Floats, least: int, most: int) -> Course:
    """What `seeds: {min: least, max: most}` does."""
    numbers = looks(least, most)
    return course(differences, numbers, [look.alpha for look in plan_looks(ALPHA, numbers)])


def _tails(differences: Floats) -> tuple[Floats, Floats]:
    """One-sided p-values of "above" and "below the margin" by the rule's variances."""
    variances, freedom = shrunk(differences)
    t = (differences.mean(axis=1) + MARGIN) / np.sqrt(variances / differences.shape[1])
    return stats.t.sf(t, freedom), stats.t.cdf(t, freedom)


def nulls(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per range of seeds and truth: false answers by the rule and when peeking at alpha, and seeds taken."""
    for least, most in RANGES:
        for spreads in SPREADS:
            for correlation in (0.0,) if len(spreads) == 1 else (0.0, 0.9):
                differences = draw(World(most, spreads, correlation), studies, generator)
                found = spending(differences, least, most)
                numbers = looks(least, most)
                peeking = course(differences, numbers, [ALPHA] * len(numbers))
                world = [f"{least} to {most}", ", ".join(f"{spread:g}" for spread in spreads), f"{correlation:g}"]
                yield [*world, *found.rates, *peeking.rates, f"{found.seeds.mean():.1f}"]


def powers(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per distance from the margin: answers of `auto` and the seeds it took, answers of fixed numbers."""
    least, most = RANGES[0]
    differences = draw(World(most, SPREADS[2], 0.9), studies, generator)
    for effect in EFFECTS:
        moved = differences + effect
        found = spending(moved, least, most)
        fixed = [course(moved[:, :n], [n], [ALPHA]).rates for n in (least, most)]
        yield [f"{effect:+g}", *found.rates, f"{found.seeds.mean():.1f}", *fixed[0], *fixed[1]]


def table(header: str, rows: Iterator[list[str]]) -> str:
    """Markdown."""
    lines = [f"| {header} |", "|---" * len(header.split("|")) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="false answers of a study that adds seeds where it is undecided")
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    generator = np.random.default_rng(options.seed)
    print(f"{options.studies} studies a row; the standard error of a rate of {ALPHA:g} is ", end="")
    print(f"{(ALPHA * (1 - ALPHA) / options.studies) ** 0.5:.4f}\n")
    header = "seeds | spreads (points) | correlation | holds | fails | peeking: holds | peeking: fails | seeds taken"
    print(table(header, nulls(options.studies, generator)), end="\n\n")
    header = "above the margin | holds | fails | seeds taken | 5 seeds: holds | fails | 20 seeds: holds | fails"
    print(table(header, powers(options.studies, generator)))


if __name__ == "__main__":
    main()
