"""A Connect step done: both finals read, the line between them walked, and what must hold of it checked."""

from typing import Any

from torch import nn

from prunetune.run import invariants
from prunetune.run.disk import finite
from prunetune.run.inputs import Inputs
from prunetune.study.steps import Connect
from prunetune.train.connect import walk
from prunetune.train.data import load


def connect(step: Connect, inputs: Inputs, model: nn.Module) -> dict[str, Any]:
    """The step's metrics; `model` is a network of the finals' kind, and is overwritten.

    DivergedSourceError when an end diverged, BreachError when the ends are no twins or a pruned weight is not zero.
    """
    first, second, mask = inputs.state(step.first), inputs.state(step.second), inputs.mask(step.mask)
    ends = [inputs.store.metrics(weights.step.key) for weights in (step.first, step.second)]
    held = [invariants.ends_are_twins(step, *ends)]
    line = walk(model, first, second, mask, load(step.data), step.recipe, step.points, step.device)
    held += [invariants.zeros_on_the_line(step, line)] if mask is not None else []
    return {
        "alpha": list(line.alpha),
        "test_loss": [finite(score.loss) for score in line.test],
        "test_accuracy": [finite(score.accuracy) for score in line.test],
        "loss_barrier": finite(line.loss_barrier),
        "accuracy_barrier": finite(line.accuracy_barrier),
        "invariants": held,
    }
