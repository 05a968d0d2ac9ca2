"""Which R_p a study measures (PAPER.md section 3), and which it must leave out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunetune.sparsity.scope import Scope
from prunetune.study.ground import Ground
from prunetune.study.masks import MaskAt
from prunetune.study.steps import Measure, Train, Weights

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


def dense_pair(ground: Ground, scope: Scope) -> Iterator[PlannedCorrelation]:
    """R_p(θ0, θT) at p = .1 … .5: is pre-training sufficient? Nothing where the user gave no θ0."""
    if ground.initial is None:
        return
    step = Measure(ground.theta_0, ground.theta_t, None, DENSE_P, scope)
    for p in DENSE_P:
        yield PlannedCorrelation(DENSE_PAIR, ground.recipe.learning_rate, None, 0.0, ground.trainer.seed, p, step)


def sparse_pairs(
    ground: Ground, scope: Scope, found: MaskAt, trained: Mapping[str, Train]
) -> Iterator[PlannedCorrelation]:
    """The pairs of one mask whose arms are among `trained`, at p = .2.

    Sparse against sparse within the mask; sparse against dense over all weights, while p < 1 − sparsity.
    """
    if "finetune" not in trained:
        return
    final = Weights(trained["finetune"])
    steps = {
        pair: Measure(trained[arm].start, final, found.prune, (SPARSE_P,), scope)
        for arm, pair in WITHIN.items()
        if arm in trained
    }
    if allowed(found.sparsity):
        known = zip(AGAINST_DENSE, (ground.initial, ground.theta_t), strict=True)
        steps |= {pair: Measure(final, dense, None, (SPARSE_P,), scope) for pair, dense in known if dense}
    rate, seed = ground.recipe.learning_rate, ground.trainer.seed
    for pair, step in steps.items():
        yield PlannedCorrelation(pair, rate, found.label, found.sparsity, seed, SPARSE_P, step)


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
