"""What a study is scored by: the metric's name, unit and direction, and which differences of it matter."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a score is read. `margin` and `gap` are the verdict's defaults, in the unit of a difference.

    >>> ACCURACY.text(91.234), ACCURACY.text_difference(-0.5), ACCURACY.oriented(91.2)
    ('91.23 %', '−0.50 points', 91.2)
    """

    name: str  # as it stands in a sentence: "accuracy"
    unit: str  # after a score: "%"; empty for none
    difference_unit: str  # after a difference of two scores: "points"; empty for none
    higher_is_better: bool
    margin: float  # below it two scores count as similar
    gap: float  # from it on a difference is worth calling notable

    def oriented(self, score: float) -> float:
        """The score, its sign turned where lower is better: more is then always better."""
        return score if self.higher_is_better else -score

    def text(self, score: float) -> str:
        """A score with its unit."""
        return f"{score:.2f} {self.unit}".rstrip()

    def text_difference(self, difference: float) -> str:
        """A signed difference of two scores with its unit."""
        sign = "−" if difference < 0 else "+"
        return f"{sign}{abs(difference):.2f} {self.difference_unit}".rstrip()


ACCURACY = Metric("accuracy", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)
