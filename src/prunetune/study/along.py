"""R_p along the dense training: at which of its moments a study measures it, and by which steps."""

from collections.abc import Iterator
from dataclasses import dataclass

from prunetune.errors import RequestError
from prunetune.sparsity.scope import Scope
from prunetune.study.bench import Bench, training_steps
from prunetune.study.correlations import DENSE_P, SPARSE_P
from prunetune.study.ground import Ground
from prunetune.study.steps import Measure, Weights
from prunetune.train.recipe import Point


@dataclass(frozen=True)
class PlannedMoment:
    """R_p(θ0, θ_t) of one dense run after `epoch` epochs: `step` measures it, for this `p` and perhaps for others."""

    learning_rate: float
    seed: int
    epoch: float
    p: float
    step: Measure


def require_moments(bench: Bench) -> None:
    """RequestError where a study asks for more moments than its trainings have optimizer steps."""
    asked, steps = bench.spec.along_training, training_steps(bench.spec, bench.facts)
    if asked > steps:
        raise RequestError(f"along_training: {asked}; must be at most {steps}, the optimizer steps of a training")


def moments(ground: Ground, scope: Scope, count: int) -> Iterator[PlannedMoment]:
    """The moments k * T / count epochs, k = 1 … count, of a dense run of T epochs.

    The last one is the final state itself, which needs no snapshot and which the study's own R_p(θ0, θT) measures.
    """
    dense, recipe = ground.theta_t.step, ground.recipe
    for k in range(1, count + 1):
        at = Point(float(f"{k * recipe.epochs / count:.12g}"), "ep")  # as the snapshot's file is named
        state, p = (Weights(dense, at), (SPARSE_P,)) if k < count else (ground.theta_t, DENSE_P)
        step = Measure(ground.theta_0, state, None, p, scope)
        yield PlannedMoment(recipe.learning_rate, ground.trainer.seed, at.value, SPARSE_P, step)
