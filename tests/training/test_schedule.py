"""The learning rate, step by step."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from prunetune.training.recipe import Schedule, factor


def factors(schedule: Schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    return [factor(schedule, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def by_torch(scheduler: type[LRScheduler], steps: int, **options: object) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = scheduler(optimizer, **options)  # type: ignore[arg-type]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant"), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule("step", (1.0,)), [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        (Schedule("step", (0.5, 1.75), gamma=0.5), [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]),
        (Schedule("step", (0.6,)), [1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),  # step 2.4, rounded
        (Schedule("step", (0.0,)), [0.1] * 8),
        (Schedule("step", (1.5,), warmup=1.0), [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1]),
        (Schedule("constant", warmup=0.5), [0.5, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule("step", (0.5,), warmup=1.0), [0.25, 0.5, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1]),
        (Schedule("constant", milestones=(1.0,)), [1] * 8),
    ],
)
def test_two_epochs_of_four_steps(schedule: Schedule, expected: list[float]) -> None:
    assert factors(schedule, 4, 2) == pytest.approx(expected, rel=1e-12)


def test_cosine_by_hand() -> None:
    half = 0.5**0.5
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert factors(Schedule("cosine"), 2, 2) == pytest.approx(expected, rel=1e-12)
    assert factors(Schedule("cosine", warmup=1.0), 2, 2) == pytest.approx([0.5, *expected[1:]], rel=1e-12)


def test_against_torch() -> None:
    steps = by_torch(MultiStepLR, 150 * 7, milestones=[80 * 7, 120 * 7], gamma=0.1)
    assert factors(Schedule("step", (80, 120)), 7, 150) == pytest.approx(steps, rel=1e-9)
    cosine = by_torch(CosineAnnealingLR, 5 * 31, T_max=5 * 31)
    assert factors(Schedule("cosine"), 31, 5) == pytest.approx(cosine, rel=1e-9, abs=1e-12)


def test_the_default_study_drops_within_its_epochs() -> None:
    rates = factors(Schedule("step", (3.2, 4.8)), 157, 6)  # 8/15 and 12/15 of 6 epochs: steps 502.4 and 753.6
    assert rates == pytest.approx([1.0] * 502 + [0.1] * 252 + [0.01] * 188)
