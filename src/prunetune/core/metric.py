"""What a study is scored by: the metric's name, unit and direction, and which differences of it matter."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetune.errors import ConfigError, shown

METRIC_KEYS = ("metric", "unit", "difference_unit", "higher_is_better")  # of the `study` of results.json


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

    def __post_init__(self) -> None:
        """ConfigError for a name or unit that is no text of one line, an empty name, a direction that is none."""
        for field in METRIC_KEYS[1:3]:
            if not isinstance(found := getattr(self, field), str) or not found.isprintable():
                raise ConfigError(f"metric.{field}: {shown(found)}; want a text of one line, '' for none")
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise ConfigError(f"metric.name: {shown(self.name)}; want a text of one line")
        if not isinstance(self.higher_is_better, bool):
            raise ConfigError(f"metric.higher_is_better: {shown(self.higher_is_better)}; want true or false")

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> "Metric":
        """The metric that the `study` of results.json says; accuracy where it says none.

        Margin and gap are those of its verdict. ConfigError for a name or unit that is no text, and a direction that is
        not true or false.
        """
        name, unit, difference_unit = (_text(study, key) for key in METRIC_KEYS[:3])
        higher = study.get("higher_is_better", True)
        if not isinstance(higher, bool):
            raise ConfigError(f"study.higher_is_better: is {higher!r}; it must be true or false")
        if (name or ACCURACY.name, unit or ACCURACY.unit, higher) == (ACCURACY.name, ACCURACY.unit, True):
            return ACCURACY
        rule = study.get("verdict") or {}
        margin, gap = (rule.get(key, getattr(ACCURACY, key)) for key in ("margin", "gap"))
        return cls(name, unit, difference_unit, higher, margin, gap)

    def described(self) -> dict[str, Any]:
        """What the `study` of results.json says of it."""
        return dict(zip(METRIC_KEYS, (self.name, self.unit, self.difference_unit, self.higher_is_better), strict=True))

    @property
    def is_accuracy(self) -> bool:
        """Whether scores are accuracies in percent, which have a ceiling and a level of guessing."""
        return (self.name, self.unit, self.higher_is_better) == (ACCURACY.name, ACCURACY.unit, True)

    @property
    def title(self) -> str:
        """The name as a heading; one such as mAP stays as it is."""
        return self.name if self.name[1:2].isupper() else f"{self.name[0].upper()}{self.name[1:]}"

    @property
    def column(self) -> str:
        """The title of a column of scores: `Accuracy %`."""
        return f"{self.title} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """The name with its unit, and which scores are better where that is not to be expected.

        >>> ACCURACY.axis, Metric("perplexity", "", "", False, 0.5, 0.5).axis
        ('accuracy, %', 'perplexity (lower is better)')
        """
        return f"{self.name}{f', {self.unit}' if self.unit else ''}{'' if self.higher_is_better else f' ({LOWER})'}"

    @property
    def better(self) -> str:
        """Where better scores lie."""
        return "above" if self.higher_is_better else "below"

    @property
    def worse(self) -> str:
        """Where worse scores lie."""
        return "below" if self.higher_is_better else "above"

    @property
    def exceeds(self) -> str:
        """What a score does that is surely better than another."""
        return "exceeds" if self.higher_is_better else "outdoes"

    @property
    def in_unit(self) -> str:
        """What follows "a difference": ` in points`, or nothing."""
        return f" in {self.difference_unit}" if self.difference_unit else ""

    @property
    def digits(self) -> int:
        """After the point: at least two, and enough to show a tenth of the margin."""
        fine = 0.0 < self.margin < math.inf and not self.is_accuracy
        return max(2, 1 - math.floor(math.log10(self.margin))) if fine else 2

    def oriented(self, score: float) -> float:
        """The score, or difference, its sign turned where lower is better: more is then always better."""
        return score if self.higher_is_better else 0.0 - score

    def text(self, score: float) -> str:
        """A score with its unit, and with a true minus where it is below 0.

        >>> ACCURACY.text(84), Metric("R²", "", "", True, 0.01, 0.01).text(-0.125)
        ('84.00 %', '−0.125')
        """
        number = f"{score:.{self.digits}f}".replace("-", "−")
        return f"{number} {self.unit}".rstrip()

    def text_difference(self, difference: float) -> str:
        """A signed difference of two scores with its unit."""
        sign = "−" if difference < 0 else "+"
        return f"{sign}{abs(difference):.{self.digits}f} {self.difference_unit}".rstrip()

    def amount(self, size: float) -> str:
        """The size of a difference, such as a margin, with its unit.

        >>> ACCURACY.amount(0.5), ACCURACY.amount(1), Metric("MAE", "kg", "kg", False, 0.2, 0.2).amount(1)
        ('0.5 points', '1 point', '1 kg')
        """
        unit = "point" if self.difference_unit == "points" and f"{size:g}" == "1" else self.difference_unit
        return f"{size:g} {unit}".rstrip()


def _text(study: Mapping[str, Any], key: str) -> str:
    value = study.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"study.{key}: is {value!r}; it must be a text")
    return value.strip()


LOWER = "lower is better"
ACCURACY = Metric("accuracy", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)
