"""What is left of the initial weights, in words, and whether the paper speaks of such trainings (docs/kappa.md)."""

from prunetune.analysis.paper.scale import FACTOR, KAPPA
from prunetune.training.recipe import RecipeSummary


def kappa_text(kappa: float) -> str:
    """κ with two decimals, and below 0.1 with two digits.

    >>> kappa_text(3.296), kappa_text(0.00494), kappa_text(0.0)
    ('3.30', '0.0049', '0.00')
    """
    return f"{kappa:.2g}" if 0 < kappa < 0.1 else f"{kappa:.2f}"


def retention_words(row: RecipeSummary) -> str:
    """κ with its meaning, in a sentence.

    >>> retention_words(RecipeSummary(0.1, 58_650, 3.2961, 0.0370))
    'kappa 3.30: weight decay by itself leaves 4 % of the initial weights (e^-kappa 0.04)'
    """
    if row.kappa is None or row.retention is None:
        return "kappa is not defined for adam, whose weight decay is scaled like its gradients"
    return (
        f"kappa {kappa_text(row.kappa)}: weight decay by itself leaves {_left(row.retention)} % of the initial weights "
        f"(e^-kappa {row.retention:.2f})"
    )


def _left(retention: float) -> str:
    """In percent; a rest is not rounded to nothing, nor a loss to none."""
    if retention < 0.01:
        return "less than 1"
    return "more than 99" if 0.995 < retention < 1 else f"{100 * retention:.0f}"


def off_paper(row: RecipeSummary) -> str | None:
    """Why this rate's trainings are none that the paper speaks of, in a sentence; None where κ gives no reason.

    The paper has κ at its own two rates only, and there with the weight decay of the recipe that it follows.
    """
    paper = KAPPA.get(row.learning_rate)
    if paper is None or row.kappa is None or paper / FACTOR <= row.kappa <= paper * FACTOR:
        return None
    return (
        f"the paper's trainings at rate {row.learning_rate:g} have kappa {paper:.2f} (150 epochs, weight decay 1e-4), "
        f"these {kappa_text(row.kappa)}: what it says of that rate is neither confirmed nor refuted by them"
    )
