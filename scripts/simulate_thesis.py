"""How often `prunetune compare` says that the paper's explanation holds, or fails, where it should not.

Draws whole sets of studies (dense runs of several lengths whose R_p is as in a plan of regimes, three sparsities, a few
seeds) from a known truth and judges each by `prunetune.analysis.thesis`. Run `python scripts/simulate_thesis.py`;
docs/how-to/compare.md quotes what it prints.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prunetune.analysis.pairing import Pairs
from prunetune.analysis.regimes import LEAD, LEADS, Regime
from prunetune.analysis.statistics import USUAL_RULE
from prunetune.analysis.thesis import judge_thesis

SPARSITIES = (0.5, 0.8, 0.9)
LENGTHS = (4, 12, 24)
RATES = (0.01, 0.1)
EXCESS = {  # by length: of the dense runs, from the least weight decay to the most
    4: (0.55, 0.4, 0.25, 0.1, 0.3, 0.18, 0.09, 0.04),
    12: (0.45, 0.3, 0.15, 0.06, 0.2, 0.1, 0.04, 0.01),
    24: (0.35, 0.2, 0.1, 0.03, 0.12, 0.06, 0.02, 0.0),
}
NEVER_ABOUT_SHORT = {4: (0.55, 0.5, 0.45, 0.4), 12: (0.3, 0.25, 0.2, 0.15), 24: (0.08, 0.04, 0.02, 0.0)}

Truth = Callable[[float, int, int], float]  # R_p's excess, epochs, number among those about chance -> the lead


@dataclass(frozen=True)
class World:
    """A truth to draw sets of studies from, and which verdict would be false in it."""

    name: str
    lead: Truth
    false: str  # holds, fails, both or none
    plan: dict[int, tuple[float, ...]]


def _rising(most: float, at_zero: float = 0.0) -> Truth:
    return lambda excess, epochs, chance: at_zero + most * max(0.0, excess - 0.05) / 0.5


def _by_length(leads: dict[int, float]) -> Truth:
    return lambda excess, epochs, chance: leads.get(epochs, 0.0)


def _one_at_gap(excess: float, epochs: int, chance: int) -> float:
    return USUAL_RULE.gap if chance == 1 else _rising(2.0)(excess, epochs, chance)


GAP = USUAL_RULE.gap
WORLDS = (
    World("no lead anywhere", lambda *_: 0.0, "both", EXCESS),
    World("the same lead everywhere, half the gap", lambda *_: GAP / 2, "both", EXCESS),
    World("goes with length alone, as R_p mostly does", _by_length({4: 1.5, 12: 0.6}), "both", NEVER_ABOUT_SHORT),
    World("goes with length alone, R_p varies within", _by_length({4: 0.3, 12: 0.15}), "both", EXCESS),
    World("rises with R_p, at chance just the gap", _rising(2.0, GAP), "both", EXCESS),
    World("rises with R_p, one dense run at chance at the gap", _one_at_gap, "both", EXCESS),
    World("rises with R_p to 1 point, none at chance", _rising(1.0), "fails", EXCESS),
    World("rises with R_p to 2 points, none at chance", _rising(2.0), "fails", EXCESS),
    World("the same lead everywhere, three gaps", lambda *_: 3 * GAP, "holds", EXCESS),
    World("goes with length alone, 3 to 1.5 points", _by_length({4: 3.0, 12: 2.0, 24: 1.5}), "holds", EXCESS),
)


def draw(world: World, seeds: int, spread: float, between: float, random: np.random.Generator) -> list[Regime]:
    """One set of studies: `spread` is the standard deviation over seeds, `between` that of regimes about the truth."""
    rows: list[Regime] = []
    chance = 0
    for epochs in LENGTHS:
        for place, excess in enumerate(world.plan[epochs]):
            chance += excess < 0.05
            lead = world.lead(excess, epochs, chance if excess < 0.05 else 0)
            common = random.normal(0, between)
            for at in SPARSITIES:
                differences = lead + common + spread * (0.6 + at / 2) * random.normal(size=seeds)
                rows.append(_regime(epochs, place, excess, at, differences.tolist(), random))
    return rows


def _regime(
    epochs: int, place: int, excess: float, at: float, differences: list[float], random: np.random.Generator
) -> Regime:
    seeds = len(differences)
    pairs = Pairs("ticket", "reinit", tuple(range(seeds)), tuple(differences))
    return Regime(
        study=f"{epochs}ep-{place}",
        task="drawn",
        learning_rate=RATES[place % 2],
        mask="iterative",
        sparsity=at,
        epochs=epochs,
        kappa=None,
        p=0.2,
        excess={seed: excess + 0.005 * random.normal() for seed in range(seeds)},
        dense={seed: 85 + 0.2 * random.normal() for seed in range(seeds)},
        leads={name: pairs if name == LEAD else Pairs("", "", (), ()) for name in LEADS},
        arms={},
        keys=frozenset({f"{epochs}{place}{at}"}),
        winning=None,
        shortfall=0.0,
        dense_matches=True,
    )


def rates(
    world: World, studies: int, seeds: int, spread: float, between: float, resamples: int, seed: int
) -> dict[str, float]:
    """Shares of the verdicts over so many sets of studies."""
    random = np.random.default_rng(seed)
    sets = (draw(world, seeds, spread, between, random) for _ in range(studies))
    found = [judge_thesis(rows, USUAL_RULE, resamples=resamples, brief=True).explanation for rows in sets]
    return {word: found.count(word) / studies for word in ("holds", "fails", "not decided")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row per world and number of seeds."""
    parser = argparse.ArgumentParser(description="verdicts on the explanation in worlds where the truth is known")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print("| truth | seeds | regimes' own spread | holds | fails | not decided | false |")
    print("|---|---|---|---|---|---|---|")
    for seeds, between in ((5, 0.0), (5, 0.2), (3, 0.0)):
        for world in WORLDS if between == 0.0 and seeds == 5 else WORLDS[:6]:
            row = rates(world, options.studies, seeds, 0.35, between, options.resamples, options.seed)
            cells = " | ".join(f"{rate:.3f}" for rate in row.values())
            print(f"| {world.name} | {seeds} | {between:g} | {cells} | {world.false} |", flush=True)


if __name__ == "__main__":
    main()
