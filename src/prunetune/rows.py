"""The rows that a study yields: `run` collects them from the store, `report` draws them, `results.json` holds them."""

import math
from dataclasses import dataclass, field
from typing import Any

from prunetune.training.recipe import RecipeSummary

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)
DENSE, DENSE_LONGER = "dense", "dense_longer"  # arms without a mask: the dense run, and the longer one that tests it


@dataclass(frozen=True)
class Trial:
    """One training as the study's reader sees it. The dense run is arm `dense`, mask None, sparsity 0.

    So is the dense run of more epochs, arm `dense_longer`, where the study has one. Of a classification the scores are
    the accuracies; another task has scores in its metric's unit and no accuracies.
    """

    key: str
    arm: str
    mask: str | None
    learning_rate: float
    sparsity: float  # nominal
    density: float  # measured after the last optimizer step, over the prunable weights
    seed: int
    epochs: int
    steps: int  # optimizer steps taken
    test_accuracy: float | None  # percent, final epoch
    test_loss: float | None
    diverged: bool
    cached: bool  # existed before this command started
    seconds: float
    start_digest: str
    mask_digest: str | None
    data_order_digest: str
    validation_accuracy: float | None = None  # percent, of training images that were held out; None where none were
    score: float | None = None  # of the study's metric on the test data
    validation_score: float | None = None  # on the training data that were held out; None where none were

    def __post_init__(self) -> None:
        """Give a row with accuracies, such as one of a file of before there were scores, their scores."""
        for score, accuracy in (("score", "test_accuracy"), ("validation_score", "validation_accuracy")):
            if getattr(self, accuracy) is not None:
                object.__setattr__(self, score, getattr(self, accuracy))


@dataclass(frozen=True)
class Correlation:
    """R_p of one pair of states (docs/reference/design.md); `expected` is what independent weights would give."""

    pair: str  # theta_0/theta_T, ticket_0/finetune_T, reinit_0/finetune_T, finetune_T/theta_0, finetune_T/theta_T
    learning_rate: float
    mask: str | None
    sparsity: float
    seed: int
    p: float
    value: float
    expected: float


@dataclass(frozen=True)
class Residuals:
    """ADMM's primal residual ‖W − Z‖ / ‖W‖ while one mask was found: at the start, then at every update of Z."""

    learning_rate: float  # of the arms under the mask
    mask: str
    sparsity: float
    seed: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Connectivity:
    """Test loss and score on the line from an arm's final (alpha 0) to its sibling run's (1), of another data order.

    A barrier is the most by which the network on the line is worse than the straight line between both ends has it.
    Of a classification the scores are the accuracies; another task has no accuracies, and NaN for their barrier.
    """

    arm: str
    learning_rate: float
    mask: str | None
    sparsity: float
    seed: int
    alpha: tuple[float, ...]
    test_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]  # percent
    loss_barrier: float
    accuracy_barrier: float  # points
    score: tuple[float, ...] = ()
    score_barrier: float = math.nan

    def __post_init__(self) -> None:
        """Give a row with accuracies its scores."""
        if self.test_accuracy:
            object.__setattr__(self, "score", self.test_accuracy)
            object.__setattr__(self, "score_barrier", self.accuracy_barrier)


@dataclass(frozen=True)
class MomentOverlap:
    """R_p(θ0, θ_t) of a dense run after `epoch` epochs of its training."""

    learning_rate: float
    seed: int
    epoch: float
    p: float
    value: float
    expected: float

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the rows."""
        return self.learning_rate, self.seed, self.epoch, self.p


@dataclass(frozen=True)
class LayerOverlap:
    """R_p of one pair in one layer: the mean over `n` seeds, and of what independent weights would give there."""

    pair: str
    learning_rate: float
    mask: str | None
    sparsity: float
    p: float
    layer: str
    n: int
    value: float
    expected: float

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the rows; the layers of each place stand in the model's order."""
        return self.pair, self.learning_rate, self.mask or "", self.sparsity, self.p


@dataclass(frozen=True)
class MaskOverlap:
    """Jaccard index of masks by two algorithms at the same seed; with first == second, of one algorithm's seeds."""

    learning_rate: float
    sparsity: float
    first: str
    second: str
    same_seed: bool
    n: int  # pairs of masks
    value: float  # the mean
    low: float
    high: float
    expected: float  # of independent masks with the same layer counts

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the rows."""
        return self.learning_rate, self.sparsity, self.first, self.second


@dataclass(frozen=True)
class Quantity:
    """Figures of a network, or between two, that the spec's `measure` asks for (docs/reference/store.md)."""

    kind: str  # movement, barriers, curvature, masks, sensitivity
    of: str  # theta_0/theta_T, ticket_0/ticket_T, theta_T/ticket_T, previous ticket_T/ticket_T, ticket_T, theta_T
    learning_rate: float
    mask: str | None
    sparsity: float
    seed: int
    values: dict[str, float | None]
    by_layer: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the rows."""
        return self.kind, self.of, self.learning_rate, self.mask or "", self.sparsity, self.seed


@dataclass(frozen=True)
class Missing:
    """A planned trial that has no result, and why."""

    arm: str
    mask: str | None
    learning_rate: float
    sparsity: float
    seed: int
    why: str  # "diverged source: ..." or "failed: ..." or "not run"
    failed: bool  # True for an error, False where nothing could be run because a source diverged


@dataclass(frozen=True)
class Invariant:
    """A rule of the experiment that was checked at run time, and how often."""

    name: str
    meaning: str
    checked: int
    breaches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spent:
    """A row of the ledger: epochs that one arm at one rate, mask and sparsity needs, summed over seeds.

    Pre-training and mask finding are shared between arms; `shared` says with which.
    """

    learning_rate: float
    mask: str | None
    sparsity: float
    arm: str
    pretraining_epochs: int
    mask_epochs: int
    training_epochs: int
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """One parameter of the model and whether it may be pruned."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    reason: str
    kept: dict[str, float] = field(default_factory=dict)  # "mask @ sparsity" -> mean kept share over rates and seeds


@dataclass(frozen=True)
class Results:
    """Everything a report shows: `results.json` minus what the report itself computes (verdicts, recommendation)."""

    study: dict[str, Any]  # the resolved spec, the verdict rule included, and what its metric is
    environment: dict[str, Any]
    trials: tuple[Trial, ...]
    correlations: tuple[Correlation, ...]
    missing: tuple[Missing, ...]
    invariants: tuple[Invariant, ...]
    budget: tuple[Spent, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]  # what the plan left out and why, and what is to be known of the data
    controls: tuple[str, ...] = ("shuffle",)  # arms that are controls; a file of before it said so knows this one
    residuals: tuple[Residuals, ...] = ()  # one row for every mask that was found under the ADMM penalty
    connectivity: tuple[Connectivity, ...] = ()  # where the study asks for it
    along_training: tuple[MomentOverlap, ...] = ()
    overlap_by_layer: tuple[LayerOverlap, ...] = ()
    mask_overlap: tuple[MaskOverlap, ...] = ()
    recipes: tuple[RecipeSummary, ...] = ()  # by learning rate
    quantities: tuple[Quantity, ...] = ()  # where the study asks for them
