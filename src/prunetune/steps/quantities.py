"""Steps that measure what later work asks of networks besides accuracy: movement, barriers, curvature, sensitivity."""

from dataclasses import dataclass, field

from prunetune.core.references import KEYED_WHERE_SET, Ref
from prunetune.sparsity.scope import Scope
from prunetune.steps.steps import Prune, Step, Weights
from prunetune.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class MeasureMovement(Step):
    """Sign flips, distance and cosine from `first` to `second`, over the weights that `mask` keeps, or all of them."""

    first: Weights
    second: Weights
    mask: Prune | None
    scope: Scope


@dataclass(frozen=True, eq=False)
class MeasureBarrier(Step):
    """Test loss and accuracy on the straight line between two networks, each with its own zeros, ends included.

    Error barriers of Frankle et al. 2020 (arXiv 1912.05671); between levels of pruning of Paul et al. 2023
    (arXiv 2210.03044).
    """

    first: Weights
    second: Weights
    data: Ref
    recipe: Recipe  # for its loss, metric and precision, with which the line is measured
    points: int = 11
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class MeasureCurvature(Step):
    """The loss's largest Hessian eigenvalue and trace at a final, over its kept trainable parameters."""

    weights: Weights
    mask: Prune | None
    data: Ref
    recipe: Recipe  # for its loss and batch size
    images: int  # of the training images, as many of each class, drawn by `seed`, as the vectors are
    seed: int
    iterations: int = 20
    probes: int = 10
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class MeasureSensitivity(Step):
    """Accuracy on held-out images with one layer pruned by magnitude at a time, without retraining."""

    weights: Weights
    sparsities: tuple[float, ...]
    scope: Scope
    pattern: str  # `unstructured`: a layer at a time; `channel`: a group of coupled channels at a time
    data: Ref
    recipe: Recipe  # for its loss, metric and precision
    device: str = "cpu"
    heads: bool | None = field(default=None, metadata=KEYED_WHERE_SET)  # True where attention heads can go


@dataclass(frozen=True, eq=False)
class MeasureBlocks(Step):
    """Score on held-out or on test data, whole and with one block of the examples left out at a time.

    There are about `blocks` of them, as equal as can be: the delete-a-group jackknife says by them what the choice of
    the examples does to a score (Shao & Tu 1995, The Jackknife and Bootstrap, sec. 2.3).
    """

    weights: Weights
    part: str  # `validation` or `test`
    data: Ref
    recipe: Recipe  # for its loss, metric and precision
    blocks: int = 50
    device: str = "cpu"


Quantity = MeasureMovement | MeasureBarrier | MeasureCurvature | MeasureSensitivity | MeasureBlocks


def states_read(step: Quantity) -> tuple[Weights, ...]:
    """The states that such a step reads."""
    if isinstance(step, MeasureMovement | MeasureBarrier):
        return step.first, step.second
    return (step.weights,)
