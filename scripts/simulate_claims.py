"""How often *Paper and here* gives each answer to each ordering of the paper, in studies whose truth is known.

    python scripts/simulate_claims.py [--studies N] [--lead POINTS] [--seed S]

A study has the paper's settings, R_p as in the paper, and planted accuracies: five seeds, two rates, four arms, three
mask algorithms and three sparsities, each accuracy 90 points plus independent normal noise of standard deviation 0.12.
With no lead all arms are equal: a claim of superiority is then wrong, and agreeing with it more often than alpha would
be a fault of the rule; a claim of non-inferiority or equivalence is right. With a lead, every ordering is true by that
much a step or more, and `ticket ≈ reinit` is that much off. Prints a Markdown table, a row for each, in percent
of the studies.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.random import Generator

from prunetune.analysis.paper.check_claims import PaperRow, paper_rows
from prunetune.analysis.statistics import Rule
from prunetune.rows import Correlation, Results, Trial
from prunetune.spec.load import load_spec

SPREAD, SEEDS, LEVEL = 0.12, 5, 90.0
SPARSITIES = (0.5, 0.6, 0.7)
STEPS = 391 * 150
MASKS = ("admm", "iterative", "one_shot")
STARTS = ("finetune", "rewind", "ticket", "reinit")
ANSWERS = ("agrees", "undecided", "disagrees")
PRESET = "paper/fig2-resnet20-cifar10"


def level(arm: str, mask: str | None, rate: float, lead: float) -> float:
    """The true accuracy: every arm, mask algorithm and rate a lead over the next, dense between finetune and ticket."""
    if mask is None:
        return LEVEL + lead * (0.0 if rate == 0.1 else -40.0)
    below = 4.0 * MASKS.index(mask) + STARTS.index(arm)
    return LEVEL + lead * ((12.0 if arm == "finetune" else 11.0) - below if rate == 0.1 else -24.0 - below)


@cache
def paper_study() -> dict[str, Any]:
    """The resolved spec of a preset: the paper's settings."""
    return load_spec(PRESET).resolved()


def draw(generator: Generator, lead: float = 0.0) -> Results:
    """One study."""
    cells = [("dense", None, rate, 0.0) for rate in (0.01, 0.1)]
    cells += [(arm, mask, rate, at) for arm in STARTS for mask in MASKS for rate in (0.01, 0.1) for at in SPARSITIES]
    noise = generator.normal(0.0, SPREAD, size=(len(cells), SEEDS))
    trials = [
        _trial(*cell, seed, level(*cell[:3], lead) + float(noise[row, seed]))
        for row, cell in enumerate(cells)
        for seed in range(SEEDS)
    ]
    return Results(
        study=paper_study(),
        environment={},
        trials=tuple(trials),
        correlations=tuple(_correlations(generator)),
        missing=(),
        invariants=(),
        budget=(),
        layers=(),
        notes=(),
    )


def _trial(arm: str, mask: str | None, rate: float, sparsity: float, seed: int, accuracy: float) -> Trial:
    return Trial(
        key=f"{arm} {mask} {rate} {sparsity} {seed}",
        arm=arm,
        mask=mask,
        learning_rate=rate,
        sparsity=sparsity,
        density=1.0 - sparsity,
        seed=seed,
        epochs=150,
        steps=STEPS,
        test_accuracy=accuracy,
        test_loss=None,
        diverged=False,
        cached=False,
        seconds=0.0,
        start_digest="",
        mask_digest=None,
        data_order_digest="",
    )


def _correlations(generator: Generator) -> Iterator[Correlation]:
    """R_.2(θ0, θT) as in the paper: far above chance at the low rate, and at chance at the high one."""
    for rate, value in ((0.01, 0.6), (0.1, 0.2)):
        for seed in range(SEEDS):
            yield Correlation("theta_0/theta_T", rate, None, 0.0, seed, 0.2, value + generator.normal(0.0, 0.003), 0.2)


def orderings(results: Results) -> list[PaperRow]:
    """The rows of the orderings that the study can speak to."""
    rows = paper_rows(results, (), Rule.of(results.study))
    return [row for row in rows if row.kind == "ordering" and row.here is not None]


def count(studies: int, lead: float, generator: Generator) -> dict[tuple[str, str], Counter[str]]:
    """For each ordering, by its kind and words: how many studies came to each answer."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for _ in range(studies):
        for row in orderings(draw(generator, lead)):
            found.setdefault((str(row.published), row.claim), Counter())[row.answer] += 1
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="answers to the paper's orderings where the truth is known")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--lead", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = count(options.studies, options.lead, np.random.default_rng(options.seed))
    print(f"| kind | claim | {' | '.join(ANSWERS)} |")
    print(f"|---|---|{'---|' * len(ANSWERS)}")
    for (kind, claim), answers in found.items():
        shares = " | ".join(f"{100 * answers[answer] / options.studies:.1f}" for answer in ANSWERS)
        print(f"| {kind} | {claim} | {shares} |")


if __name__ == "__main__":
    main()
