"""How often pre-training is labelled falsely: Monte-Carlo of the rule (docs/explanation/verdict.md, *Pre-training*).

Studies of two rates, of which the higher is the better, are drawn with a known truth and judged by the tool's own code
at the lower rate: how far its dense accuracy lies below the best rate's, what a longer dense training gains, and how
far R_p of start and end lies above chance. Run `python scripts/simulate_pretraining.py`.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunetune.analysis.pairing import Evidence
from prunetune.analysis.pretraining import Pretraining, pretraining
from prunetune.analysis.statistics import USUAL_RULE
from prunetune.rows import DENSE, DENSE_LONGER, Correlation, Trial

LOW, HIGH = 0.01, 0.1  # learning rates; the lower one is judged
MARGIN = USUAL_RULE.margin
SPREAD = 0.3  # standard deviation of each difference over seeds, in points
OVERLAP_SPREAD = 0.01  # of R_p
LABELS = ("sufficient", "converged, still correlated", "insufficient", "inconclusive")


@dataclass(frozen=True)
class World:
    """A truth to draw studies from."""

    says: str
    seeds: int
    below: float  # points by which dense accuracy lies below that of the best rate
    gain: float  # points, by the longer training
    excess: float  # of R_p over chance


WORLDS = tuple(
    World(says, seeds, below, gain, excess)
    for seeds in (3, 5)
    for says, below, gain, excess in (
        ("gain at the margin", 0.0, MARGIN, 0.0),
        ("excess at the limit", 0.0, 0.0, 0.05),
        ("both rates and gain at the margin", MARGIN, MARGIN, 0.0),
        ("all three fine", 0.0, 0.0, 0.0),
        ("still correlated", 0.0, 0.0, 0.3),
        ("gain of 1 point", 0.0, 1.0, 0.0),
    )
)


def draw(world: World, generator: np.random.Generator) -> tuple[list[Trial], list[Correlation]]:
    """The dense trainings of one study, and R_.2 at the lower rate; the best rate stands at 90 % and gains nothing."""
    below, gain = (mean + SPREAD * generator.standard_normal(world.seeds) for mean in (world.below, world.gain))
    excess = world.excess + OVERLAP_SPREAD * generator.standard_normal(world.seeds)
    trials, overlaps = [], []
    for seed in range(world.seeds):
        low = 90.0 - below[seed]
        trials += [_trial(DENSE, LOW, seed, low), _trial(DENSE_LONGER, LOW, seed, low + gain[seed])]
        trials += [_trial(DENSE, HIGH, seed, 90.0), _trial(DENSE_LONGER, HIGH, seed, 90.0)]
        overlaps.append(Correlation("theta_0/theta_T", LOW, None, 0.0, seed, 0.2, 0.2 + excess[seed], 0.2))
    return trials, overlaps


def _trial(arm: str, rate: float, seed: int, accuracy: float) -> Trial:
    epochs = 12 if arm == DENSE_LONGER else 6
    measured = {"test_accuracy": accuracy, "test_loss": None, "diverged": False, "cached": False, "seconds": 0.0}
    digests = {"start_digest": "", "mask_digest": None, "data_order_digest": ""}
    return Trial(f"{arm}{rate}{seed}", arm, None, rate, 0.0, 1.0, seed, epochs, epochs, **measured, **digests)  # type: ignore[arg-type]


def judged(world: World, generator: np.random.Generator) -> Pretraining:
    """What the tool says of the lower rate in one study drawn from a world."""
    trials, overlaps = draw(world, generator)
    return pretraining(Evidence(trials), USUAL_RULE, overlaps)[LOW]


def shares(world: World, studies: int, generator: np.random.Generator) -> list[float]:
    """How often each label is given; then how often `converged`, and `forgotten`, is answered yes."""
    found = [judged(world, generator) for _ in range(studies)]
    answers = Counter(one.answer for one in found)
    yes = [sum(one.checks[i].answer == "yes" for one in found) for i in (1, 2)]
    return [count / studies for count in (*(answers[label] for label in LABELS), *yes)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, a row per world."""
    parser = argparse.ArgumentParser(description="labels of pre-training where the truth is known")
    parser.add_argument("--studies", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    generator = np.random.default_rng(options.seed)
    error = (0.05 * 0.95 / options.studies) ** 0.5
    print(f"{options.studies} studies a row; the standard error of a share of .05 is {error:.4f}.\n")
    print(f"| the truth | seeds | {' | '.join(LABELS)} | converged: yes | forgotten: yes |")
    print("|---|---|---|---|---|---|---|---|")
    for world in WORLDS:
        cells = " | ".join(f"{share:.3f}" for share in shares(world, options.studies, generator))
        print(f"| {world.says} | {world.seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
