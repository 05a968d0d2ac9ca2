"""What is left of the initial weights, in words, and whether the paper speaks of such trainings (docs/kappa.md)."""

from prunetune.analysis.paper.scale import FACTOR, KAPPA
from prunetune.study.results import RecipeSummary


def retention_words(row: RecipeSummary) -> str:
    """κ with its meaning, in a sentence.

    >>> retention_words(RecipeSummary(0.1, 58_650, 3.2961, 0.0370))
    'kappa 3.30: weight decay by itself leaves 4 % of the initial weights (e^-kappa 0.04)'
    """
    if row.kappa is None or row.retention is None:
        return "kappa is not defined for adam, whose weight decay is scaled like its gradients"
    left = f"{100 * row.retention:.0f}" if row.retention >= 0.01 else "less than 1"
    return (
        f"kappa {row.kappa:.2f}: weight decay by itself leaves {left} % of the initial weights "
        f"(e^-kappa {row.retention:.2f})"
    )


def off_paper(row: RecipeSummary) -> str | None:
    """Why this rate's trainings are none that the paper speaks of, in a sentence; None where κ gives no reason.

    The paper has κ at its own two rates only, and there with the weight decay of the recipe that it follows.
    """
    paper = KAPPA.get(row.learning_rate)
    if paper is None or row.kappa is None or paper / FACTOR <= row.kappa <= paper * FACTOR:
        return None
    return (
        f"the paper's trainings at rate {row.learning_rate:g} have kappa {paper:.2f} (150 epochs, weight decay 1e-4), "
        f"these {row.kappa:.2f}: what it says of that rate is neither confirmed nor refuted by them"
    )
