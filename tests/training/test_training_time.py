"""Moments of a training."""

import pytest

from prunetune.training.recipe import TrainingTime


@pytest.mark.parametrize(
    ("text", "steps", "written"),
    [
        ("0ep", 0, "0ep"),
        ("10ep", 1570, "10ep"),
        ("0.5ep", 78, "0.5ep"),
        ("1.50ep", 236, "1.5ep"),
        ("500it", 500, "500it"),
    ],
)
def test_points(text: str, steps: int, written: str) -> None:
    assert TrainingTime.parse(text).step(157) == steps
    assert str(TrainingTime.parse(text)) == written
    assert TrainingTime.parse(f" {written} ") == TrainingTime.parse(text)


@pytest.mark.parametrize("text", ["", "10", "ep", "-1ep", "1.5it", "1epoch", "1e3ep"])
def test_what_is_no_point(text: str) -> None:
    with pytest.raises(ValueError, match="write epochs as '10ep' or steps as '500it'"):
        TrainingTime.parse(text)
