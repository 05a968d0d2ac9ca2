"""The learning rate over a training, as a factor on the initial rate, set anew before every optimizer step."""

import functools
import math
from itertools import pairwise

from prunetune.train.recipe import Schedule


def factor(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The factor in [0, 1] for the optimizer step `step`, counted from 0, of a training of `epochs` epochs.

    A milestone m is in force from step round(m * steps_per_epoch) on. A warm-up of W = round(warmup * steps_per_epoch)
    steps multiplies step t < W by (t + 1) / W: it rises linearly from 0, and no step is spent at rate 0. Cosine is
    (1 + cos(pi * t / steps)) / 2, which would reach 0 with the step after the last (Loshchilov & Hutter 2017, eq. 5).
    """
    if schedule.part is not None:
        before, epochs = schedule.part
        step += before * steps_per_epoch
    return _decay(schedule, step, steps_per_epoch, epochs) * _warmup(schedule, step, steps_per_epoch)


def factor_sum(schedule: Schedule, steps_per_epoch: int, epochs: int) -> float:
    """The sum of `factor` over all steps of a training of `epochs` epochs, in closed form: its cost knows no epochs.

    Between two milestones the factor of `step` and `constant` is linear in the step, under a warm-up too, so that a
    stretch sums to its length times the mean of its first and last. The sums of the cosine are those of Dirichlet's
    kernel.
    """
    before, whole = schedule.part or (0, epochs)
    first, last = before * steps_per_epoch, (before + epochs) * steps_per_epoch
    if schedule.kind == "cosine":
        up_to = functools.partial(_cosine_sum, round(schedule.warmup * steps_per_epoch), steps_per_epoch * whole)
        return up_to(last) - up_to(first)
    bends = [round(moment * steps_per_epoch) for moment in (schedule.warmup, *schedule.milestones)]
    cuts = sorted({first, last, *(bend for bend in bends if first < bend < last)})
    ends = ((factor(schedule, step - first, steps_per_epoch, epochs) for step in (a, b - 1)) for a, b in pairwise(cuts))
    return math.fsum((b - a) * sum(two) / 2 for (a, b), two in zip(pairwise(cuts), ends, strict=True))


def _cosine_sum(warmup: int, steps: int, end: int) -> float:
    """The sum of the cosine's factors over the steps 0 to `end` − 1 of `steps`, the first `warmup` of them ramped."""
    ramped, half = min(warmup, end), math.pi / steps / 2
    twice = 2 * math.sin(half)  # the sum of cos(t x) over t < n is 1/2 + sin((n − 1/2) x) / (2 sin(x/2))
    flat = (end - ramped) + (math.sin((2 * end - 1) * half) - math.sin((2 * ramped - 1) * half)) / twice
    if not ramped:
        return flat / 2
    tails = math.sin(ramped * half) * math.sin((ramped - 2) * half) / math.sin(half)
    ramp = ramped * (ramped + 1) / 2 + (ramped * math.sin((2 * ramped - 1) * half) - tails) / twice
    return (flat + ramp / warmup) / 2


def _decay(schedule: Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * step / (steps_per_epoch * epochs))) / 2
    if schedule.kind == "step":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in schedule.milestones)
        return schedule.gamma**passed
    return 1.0


def _warmup(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    steps = round(schedule.warmup * steps_per_epoch)
    return min(1.0, (step + 1) / steps) if steps else 1.0
