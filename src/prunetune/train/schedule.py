"""The learning rate over a training, as a factor on the initial rate, set anew before every optimizer step."""

import math

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
