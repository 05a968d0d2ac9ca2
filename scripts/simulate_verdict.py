"""How often a verdict says `holds`, by Monte-Carlo of the rule of docs/explanation/verdict.md, in three tables.

margin: the truth sits at the margin at every non-trivial sparsity (ticket - dense = -margin, the ticket far above
reinit), so every `holds` is false. The differences of a seed are correlated across sparsities and spread wider the
sparser the network.
gap: the ticket clearly matches the dense network, and leads reinit by so much at every sparsity: how often is that
called a winning ticket by the rule (lower bound above 0, mean of at least the gap), and how often by a lower bound
above the gap?
family: a study of several rates and masks, one verdict each: how often is any of its `holds` false, and how often is a
true one said, when Holm's correction runs within each verdict (`cell`) or over the whole study (`study`)?

Run `python scripts/simulate_verdict.py`; docs/evidence/error-rates.md quotes what it prints.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunetune.analysis.statistics import USUAL_RULE, plan_looks
from prunetune.core.limits import looks

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Method = Callable[[Floats], tuple[Floats, float]]
Family = Literal["study", "cell"]

ALPHA, MARGIN, GAP = USUAL_RULE.alpha, USUAL_RULE.margin, USUAL_RULE.gap


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
LEADS = (0.0, 0.25, 0.45, 0.5, 0.75, 1.0)  # ticket - reinit, in points
LEAD_WORLDS = tuple(
    World(5, (spread,) * sparsities, 0.0 if sparsities == 1 else 0.5)
    for sparsities in (1, 4)
    for spread in (0.1, 0.2, 0.4)
)
CELLS = 6  # two rates, three mask algorithms
CELL_SPREADS = (0.3, 0.45, 0.7, 1.1)
EFFECTS = (0.25, 0.5, 0.75, 1.0)  # points above the margin


def draw(world: World, studies: int, generator: np.random.Generator) -> Floats:
    """Differences ticket - dense of shape (studies, seeds, sparsities), with mean -margin."""
    count = len(world.spreads)
    mixing = np.full((count, count), world.correlation) + (1 - world.correlation) * np.eye(count)
    covariance = mixing * np.outer(world.spreads, world.spreads)
    return generator.multivariate_normal(np.full(count, -MARGIN), covariance, size=(studies, world.seeds))


def shrunk(differences: Floats) -> tuple[Floats, float]:
    """The rule's variances (…, sparsities) of differences (…, seeds, sparsities), and their degrees of freedom."""
    n, count = differences.shape[-2:]
    own = differences.var(axis=-2, ddof=1)
    pooled = own.mean(axis=-1, keepdims=True)
    return (2 * pooled + (n - 1) * own) / (n + 1), min(n + 1, count * (n - 1))


def pooled(differences: Floats) -> tuple[Floats, float]:
    """One variance for all sparsities, with (n - 1) degrees of freedom of each: what the rule does not do."""
    n, count = differences.shape[-2:]
    own = differences.var(axis=-2, ddof=1)
    return np.broadcast_to(own.mean(axis=-1, keepdims=True), own.shape), count * (n - 1)


def unshrunk(differences: Floats) -> tuple[Floats, float]:
    """Each sparsity's own variance: the ordinary paired t."""
    return differences.var(axis=-2, ddof=1), differences.shape[-2] - 1


METHODS: dict[str, Method] = {"shrunk": shrunk, "pooled": pooled, "own": unshrunk}


def tails(differences: Floats, null: float, method: Method = shrunk) -> tuple[Floats, Floats]:
    """One-sided p-values of "the mean is above `null`" and of "below", of shape (…, sparsities)."""
    variances, freedom = method(differences)
    t = (differences.mean(axis=-2) - null) / np.sqrt(variances / differences.shape[-2])
    return stats.t.sf(t, freedom), stats.t.cdf(t, freedom)


def holds(differences: Floats, method: Method) -> Bools:
    """Whether each study says `holds`: Holm rejects anywhere iff the smallest p is below alpha / sparsities."""
    above, _ = tails(differences, -MARGIN, method)
    return above.min(axis=1) < ALPHA / above.shape[1]


def rates(world: World, studies: int, generator: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The rate of false `holds` by method, with its standard error, all methods on the same draws."""
    differences = draw(world, studies, generator)
    found = {name: float(holds(differences, method).mean()) for name, method in METHODS.items()}
    return {name: (rate, (rate * (1 - rate) / studies) ** 0.5) for name, rate in found.items()}


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values along the last axis."""
    order = np.argsort(p_values, axis=-1)
    steps = np.take_along_axis(p_values, order, axis=-1) * np.arange(p_values.shape[-1], 0, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return adjusted


def leads(world: World, lead: float, studies: int, generator: np.random.Generator) -> tuple[float, float]:
    """How often `holds` is said of a ticket with this lead over reinit: by the rule, and by a bound above the gap."""
    differences = draw(world, studies, generator) + MARGIN + lead
    notable = differences.mean(axis=1) >= GAP
    by_rule = (holm(tails(differences, 0.0)[0]) < ALPHA) & notable
    by_bound = holm(tails(differences, GAP)[0]) < ALPHA
    return float(by_rule.any(axis=1).mean()), float(by_bound.any(axis=1).mean())


@dataclass(frozen=True)
class Course:
    """The answers of studies of several verdicts, of shape (studies, verdicts), and the seeds each verdict took."""

    holds: Bools
    fails: Bools
    seeds: NDArray[np.int_]


def course(differences: Floats, family: Family, seeds: Sequence[int], levels: Sequence[float]) -> Course:
    """Judge differences (studies, verdicts, most seeds, sparsities) at each number of seeds until they are decided.

    What an earlier look rejected stays so (p = 0); the other tests of decided verdicts are not asked again (p = 1).
    """
    studies, verdicts, _, sparsities = differences.shape
    rejected = np.zeros((studies, verdicts, sparsities), bool)
    fails = np.zeros((studies, verdicts), bool)
    taken = np.full((studies, verdicts), seeds[-1])
    for n, level in zip(seeds, levels, strict=True):
        closed = rejected.any(axis=2) | fails
        above, below = tails(differences[:, :, :n], -MARGIN)
        p_values = np.where(closed[:, :, None], np.where(rejected, 0.0, 1.0), above)
        together = p_values.reshape(studies, -1) if family == "study" else p_values
        now = (holm(together).reshape(p_values.shape) < level) & ~closed[:, :, None]
        fails |= ~closed & ~now.any(axis=2) & (below < level).all(axis=2)
        rejected |= now
        taken[~closed & (now.any(axis=2) | fails)] = n
    return Course(np.asarray(rejected.any(axis=2)), fails, taken)


def families(correlation: float, most: int, studies: int, generator: np.random.Generator) -> Floats:
    """Differences of CELLS verdicts at the margin; two verdicts' are correlated as two sparsities' are."""
    found = draw(World(most, CELL_SPREADS * CELLS, correlation), studies, generator)
    return found.reshape(studies, most, CELLS, len(CELL_SPREADS)).transpose(0, 2, 1, 3)


def margin_rows(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per world: false `holds` by method."""
    for world in WORLDS:
        row = rates(world, studies, generator)
        spreads = ", ".join(f"{spread:g}" for spread in world.spreads)
        cells = [f"{rate:.3f}" for rate, _ in row.values()]
        error = max(error for _, error in row.values())
        yield [str(world.seeds), spreads, f"{world.correlation:g}", *cells, f"{error:.4f}"]


def gap_rows(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per world and rule: `holds` by the true lead."""
    for world in LEAD_WORLDS:
        found = [leads(world, lead, studies, generator) for lead in LEADS]
        for column, rule in enumerate(("L > 0 and mean ≥ gap", "L > gap")):
            shares = [f"{pair[column]:.3f}" for pair in found]
            yield [str(len(world.spreads)), f"{world.spreads[0]:g}", rule, *shares]


def family_rows(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per plan of seeds, correlation and family: false `holds` and `fails` at the margin, `holds` above it."""
    for numbers in ((5,), looks(5, 20)):
        levels = [look.alpha for look in plan_looks(ALPHA, numbers)]
        for correlation in (0.0, 0.5, 0.9):
            nulls = families(correlation, numbers[-1], studies, generator)
            for family in ("cell", "study"):
                yield _family_row(nulls, family, numbers, levels, correlation)


def _family_row(
    nulls: Floats, family: Family, numbers: Sequence[int], levels: Sequence[float], correlation: float
) -> list[str]:
    at_margin = course(nulls, family, numbers, levels)
    false = [f"{found.any(axis=1).mean():.3f}" for found in (at_margin.holds, at_margin.fails)]
    true = []
    for effect in EFFECTS:
        moved = course(nulls + effect, family, numbers, levels)
        true.append(f"{moved.holds.mean():.3f}")
    one = nulls.copy()
    one[:, 0] += EFFECTS[-1]
    true.append(f"{course(one, family, numbers, levels).holds[:, 0].mean():.3f}")
    seeds = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    return [seeds, f"{correlation:g}", family, *false, *true]


TABLES: dict[str, tuple[str, Callable[[int, np.random.Generator], Iterator[list[str]]], int]] = {
    "margin": (
        "seeds | spreads (points) | correlation | shrunk | plainly pooled | own | standard error", margin_rows, 1
    ),
    "gap": ("sparsities | spread (points) | rule | " + " | ".join(f"lead {lead:g}" for lead in LEADS), gap_rows, 1),
    "family": (
        "seeds | correlation | family | some false holds | some false fails | "
        + " | ".join(f"+{effect:g}" for effect in EFFECTS)
        + f" | one at +{EFFECTS[-1]:g}",
        family_rows,
        10,
    ),
}  # fmt: skip


def table(header: str, rows: Iterator[list[str]]) -> str:
    """Markdown."""
    lines = [f"| {header} |", "|---" * len(header.split("|")) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown, each under its name and the number of studies in a row."""
    parser = argparse.ArgumentParser(description="how often a verdict says `holds`")
    parser.add_argument("--studies", type=int, default=200_000, help="in a row; of `family` a tenth of it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", choices=TABLES, help="this one alone")
    options = parser.parse_args(arguments)
    for name in [options.table] if options.table else TABLES:
        header, rows, fewer = TABLES[name]
        studies = max(1, options.studies // fewer)
        print(f"{name}, {studies} studies a row\n")
        print(table(header, rows(studies, np.random.default_rng(options.seed))), end="\n\n")


if __name__ == "__main__":
    main()
