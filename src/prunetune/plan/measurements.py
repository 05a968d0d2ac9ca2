"""What a study measures besides accuracy: R_p, also along training, and lines between networks; what it leaves out."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from prunetune.core.seeding import derive
from prunetune.errors import ConfigError, counted
from prunetune.plan.context import StudyContext, training_steps
from prunetune.sparsity.scope import Scope
from prunetune.steps import graph
from prunetune.steps.mask_algorithms import MaskAt
from prunetune.steps.steps import Connect, DenseStates, Import, Measure, Step, Train, Weights
from prunetune.training.recipe import TrainingTime


@dataclass(frozen=True)
class PlannedTrial:
    """One row of the study's table and the step that measures it; a dense run has mask None and sparsity 0."""

    arm: str
    mask: str | None
    learning_rate: float
    sparsity: float
    seed: int
    step: Train | Import


@dataclass(frozen=True)
class PlannedConnection:
    """A line of the study: from the final of the trial at this place, `step.first`, to that of its sibling run."""

    arm: str
    mask: str | None
    learning_rate: float
    sparsity: float
    seed: int
    step: Connect

    def __str__(self) -> str:
        under = f" under {self.mask} at sparsity {self.sparsity:g}" if self.mask else ""
        return f"{self.arm}{under}, learning rate {self.learning_rate:g}, seed {self.seed}"

    @property
    def sibling_run(self) -> Step:
        """The training at the other end of the line."""
        return self.step.second.step


def connections(trials: Iterable[PlannedTrial], arms: Collection[str]) -> Iterator[PlannedConnection]:
    """A line for every trial of `arms`, in the order of the trials."""
    for trial in trials:
        step = trial.step
        if trial.arm in arms and isinstance(step, Train):
            first, second = Weights(step), Weights(sibling_run(step, trial.seed))
            yield PlannedConnection(
                arm=trial.arm,
                mask=trial.mask,
                learning_rate=trial.learning_rate,
                sparsity=trial.sparsity,
                seed=trial.seed,
                step=Connect(first, second, step.mask, data=step.data, recipe=step.recipe, device=step.device),
            )


def sibling_run(step: Train, seed: int) -> Train:
    """The same start, mask and recipe with another data order and augmentation: all of SGD's noise, and no more."""
    return replace(step, order_seed=derive(seed, "twin order"), augment_seed=derive(seed, "twin augment"))


def connection_notes(planned: Sequence[PlannedConnection]) -> tuple[str, ...]:
    """What sibling runs cost, which no row of the budget holds; none without connections."""
    if not planned:
        return ()
    runs = {connection.sibling_run for connection in planned}
    arms = ", ".join(dict.fromkeys(connection.arm for connection in planned))
    count, epochs = graph.trainings(runs), graph.total_epochs(runs)
    siblings, length = counted(count, "sibling run"), counted(epochs, "epoch")
    return (f"connectivity: {siblings} of {arms} train {length}, which are in no row of the budget",)


DENSE_P = (0.1, 0.2, 0.3, 0.4, 0.5)
SPARSE_P = 0.2
DENSE_PAIR = "theta_0/theta_T"
WITHIN = {"ticket": "ticket_0/finetune_T", "reinit": "reinit_0/finetune_T"}  # start of the arm against θT ⊙ m trained
AGAINST_DENSE = ("finetune_T/theta_0", "finetune_T/theta_T")


@dataclass(frozen=True)
class PlannedCorrelation:
    """One R_p of the study: `step` measures it, for this `p` among others; `mask` names the mask algorithm."""

    pair: str
    learning_rate: float
    mask: str | None
    sparsity: float
    seed: int
    p: float
    step: Measure


def dense_pair(states: DenseStates, scope: Scope) -> Iterator[PlannedCorrelation]:
    """R_p(θ0, θT) at p = .1 … .5: is pre-training sufficient? Nothing where the user gave no θ0."""
    if states.initial is None:
        return
    step = Measure(states.theta_0, states.theta_t, None, DENSE_P, scope)
    for p in DENSE_P:
        yield PlannedCorrelation(DENSE_PAIR, states.recipe.learning_rate, None, 0.0, states.trainer.seed, p, step)


def sparse_pairs(
    states: DenseStates, scope: Scope, mask: MaskAt, trained: Mapping[str, Train]
) -> Iterator[PlannedCorrelation]:
    """The pairs of one mask whose arms are among `trained`, at p = .2.

    Sparse against sparse within the mask; sparse against dense over all weights, while p < 1 − sparsity.
    """
    if "finetune" not in trained:
        return
    final = Weights(trained["finetune"])
    steps = {
        pair: Measure(trained[arm].start, final, mask.prune, (SPARSE_P,), scope)
        for arm, pair in WITHIN.items()
        if arm in trained
    }
    if allowed(mask.sparsity):
        known = zip(AGAINST_DENSE, (states.initial, states.theta_t), strict=True)
        steps |= {pair: Measure(final, dense, None, (SPARSE_P,), scope) for pair, dense in known if dense}
    rate, seed = states.recipe.learning_rate, states.trainer.seed
    for pair, step in steps.items():
        yield PlannedCorrelation(pair, rate, mask.label, mask.sparsity, seed, SPARSE_P, step)


def allowed(sparsity: float) -> bool:
    """Whether R_.2 of sparse against dense has a meaning: only while p < 1 − sparsity."""
    return round(1 - sparsity, 12) > SPARSE_P


def left_out(arms: Iterable[str], sparsities: Sequence[float], has_theta_0: bool = True) -> tuple[str, ...]:
    """Notes on what of the correlations a study does not measure."""
    notes = () if has_theta_0 else ("correlations with theta_0 are left out: pretrained.theta_0 is not given",)
    if "finetune" not in arms:
        return (*notes, "correlations with finetune_T are left out: the arm `finetune` is not in the study")
    high = [f"{sparsity:g}" for sparsity in sparsities if not allowed(sparsity)]
    if not high:
        return notes
    pairs = " and ".join(AGAINST_DENSE)
    return (*notes, f"{pairs} at p = {SPARSE_P} need p < 1 − sparsity: left out at {', '.join(high)}")


@dataclass(frozen=True)
class PlannedMoment:
    """R_p(θ0, θ_t) of one dense run after `epoch` epochs: `step` measures it, for this `p` and perhaps for others."""

    learning_rate: float
    seed: int
    epoch: float
    p: float
    step: Measure


def require_moments(context: StudyContext) -> None:
    """ConfigError where a study asks for more moments than its trainings have optimizer steps."""
    asked, steps = context.spec.along_training, training_steps(context.spec, context.facts)
    if asked > steps:
        raise ConfigError(f"along_training: {asked}; must be at most {steps}, the optimizer steps of a training")


def moments(states: DenseStates, scope: Scope, count: int) -> Iterator[PlannedMoment]:
    """The moments k * T / count epochs, k = 1 … count, of a dense run of T epochs.

    The last one is the final state itself, which needs no snapshot and which the study's own R_p(θ0, θT) measures.
    """
    dense, recipe = states.theta_t.step, states.recipe
    for k in range(1, count + 1):
        at = TrainingTime(float(f"{k * recipe.epochs / count:.12g}"), "ep")  # as the snapshot's file is named
        state, p = (Weights(dense, at), (SPARSE_P,)) if k < count else (states.theta_t, DENSE_P)
        step = Measure(states.theta_0, state, None, p, scope)
        yield PlannedMoment(recipe.learning_rate, states.trainer.seed, at.value, SPARSE_P, step)
