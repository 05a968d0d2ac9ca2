"""How much better than it is the best of several equally good arms looks, by the images that it was chosen on.

An arm's accuracy in a seed is its true mean, the same for all arms, plus what the seed does to the network and what
the choice of images does to its measured accuracy; the best is that of the highest mean over five seeds. Chosen on the
test images it is reported on, both flatter it; chosen on other images, the seeds do still, but not the images: then the
figure is right for the very networks that were trained, and not for the arm. Run `python scripts/simulate_choice.py`;
docs/evidence/error-rates.md quotes what it prints.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SEEDS = 5
ARMS = (2, 4, 8, 24)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of one training's accuracy, in points: over seeds, over test images, over held-out ones."""

    seed: float
    test: float
    held_out: float


NOISES = (Noise(0.3, 0.2, 0.2), Noise(0.3, 0.2, 0.4), Noise(0.1, 0.3, 0.6))


def inflation(arms: int, noise: Noise, studies: int, generator: np.random.Generator) -> dict[str, float]:
    """Mean of the chosen arm's reported accuracy minus the truth: for the arm, and for the networks trained."""
    seeds, test, held_out = (
        deviation / SEEDS**0.5 * generator.standard_normal((studies, arms))
        for deviation in (noise.seed, noise.test, noise.held_out)
    )
    on_test, on_held_out = (np.argmax(seeds + images, axis=1)[:, None] for images in (test, held_out))
    return {
        "test, arm": _mean(seeds + test, on_test),
        "held out, arm": _mean(seeds + test, on_held_out),
        "test, networks": _mean(test, on_test),
        "held out, networks": _mean(test, on_held_out),
    }


def _mean(values: Floats, chosen: NDArray[np.intp]) -> float:
    return float(np.take_along_axis(values, chosen, axis=1).mean())


def rows(studies: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """A row per noise and number of arms."""
    for noise in NOISES:
        for arms in ARMS:
            found = inflation(arms, noise, studies, generator)
            world = [f"{value:g}" for value in (noise.seed, noise.test, noise.held_out)]
            yield [*world, str(arms), *(f"{value:+.3f}" for value in found.values())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description="how much the best of equal arms is flattered")
    parser.add_argument("--studies", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(
        "| spread of seeds | of test images | of held-out images | arms | chosen on the test: over the arm's mean ",
        end="",
    )
    print("| on held-out images | chosen on the test: over these networks | on held-out images |")
    print("|---" * 8 + "|")
    for row in rows(options.studies, np.random.default_rng(options.seed)):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
