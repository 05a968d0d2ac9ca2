"""The recipe of the preset `quick`, chosen on dense networks alone: no ticket and no reinit is trained here.

The rule, fixed before this was first run:

1. A candidate is a batch size, a number of epochs and a weight decay with a κ at rate 0.1 out of KAPPAS. All have
   the network, data (a tenth of the training images held out), rates and schedule of `quick`.
2. It is *affordable* when the whole study, 5 seeds at both rates with `ticket`, `reinit`, `rewind` and `finetune` at
   two sparsities or three and a dense training of twice the epochs, costs at most BUDGET epochs of 10,000 images at
   batch size 64: 5 minutes on two idle cores, with room for evaluation. Processor time is measured, and the time of
   such an epoch is that of the candidates at batch size 64. It gets three sparsities if they are affordable, else two.
3. It *shows both sides* when in every seed R_.2(θ0, θT) is at most 0.25, chance + 0.05, at rate 0.1, and at least
   0.35, chance + 0.15, at rate 0.01.
4. Of those that are affordable and show both sides, the ones whose dense accuracy at rate 0.1 on the held-out images is
   within 0.5 points (the verdict's margin) of the best are alike; of these the lowest mean R_.2 at rate 0.1 is chosen.

    python scripts/choose_quick.py [--seeds 2]
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from prunetune.data import load
from prunetune.models import draw
from prunetune.plan.context import StudyContext
from prunetune.sparsity.correlation import correlation
from prunetune.sparsity.scope import prunable
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Init, Train
from prunetune.training.loop import train
from prunetune.training.recipe import decay_exponent

LOW, HIGH = 0.01, 0.1
P = 0.2
KAPPAS = (2.0, 2.5, 3.0, 4.0)  # at rate HIGH
LENGTHS = ((32, 3), (32, 4), (64, 4), (64, 5), (128, 6))  # batch size, epochs
REFERENCE_BATCH, REFERENCE_IMAGES = 64, 10_000
BUDGET = 550.0  # epochs of REFERENCE_IMAGES at REFERENCE_BATCH
SEEDS, ARMS, LONGER = 5, 4, 2  # of the study
AT_MOST, AT_LEAST = 0.25, 0.35
ALIKE = 0.5  # points


@dataclass(frozen=True)
class Measured:
    """One dense training: held-out accuracy in percent, R_.2(θ0, θT), processor seconds."""

    rate: float
    accuracy: float
    overlap: float
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A recipe and its dense trainings."""

    batch_size: int
    epochs: int
    kappa: float
    weight_decay: float
    images: int
    trainings: tuple[Measured, ...]

    def at(self, rate: float, name: str) -> list[float]:
        """What of each training at a rate, by seed."""
        return [getattr(one, name) for one in self.trainings if one.rate == rate]

    def mean(self, rate: float, name: str) -> float:
        """The mean over seeds."""
        return fmean(self.at(rate, name))

    @property
    def shows_both_sides(self) -> bool:
        """Part 3 of the rule."""
        return max(self.at(HIGH, "overlap")) <= AT_MOST and min(self.at(LOW, "overlap")) >= AT_LEAST

    def cost(self, sparsities: int, epoch: float) -> float:
        """Of the whole study, in epochs of the reference that take `epoch` seconds each."""
        per_seed = 1 + LONGER + ARMS * sparsities  # in trainings of the recipe's length
        return SEEDS * per_seed * sum(self.mean(rate, "seconds") for rate in (LOW, HIGH)) / epoch

    def sparsities(self, epoch: float) -> int:
        """How many are affordable; 0 where not even two are."""
        return next((count for count in (3, 2) if self.cost(count, epoch) <= BUDGET), 0)


def measured(batch_size: int, epochs: int, kappa: float, seeds: int) -> Candidate:
    """Train the dense networks of a candidate."""
    spec = load_spec("quick", [f"epochs={epochs}", f"batch_size={batch_size}", "data_args={validation: 0.1}"])
    context = StudyContext.of(spec, "cpu")
    unit = decay_exponent(context.dense_states(0, HIGH).recipe, -(-context.facts.train // batch_size))
    assert unit  # SGD with a weight decay
    decay = float(f"{spec.recipe.weight_decay * kappa / unit:.2g}")
    context = StudyContext.of(load_spec(spec, [f"weight_decay={decay}"]), "cpu")
    found = tuple(_dense(context, seed, rate) for seed in range(seeds) for rate in (LOW, HIGH))
    return Candidate(batch_size, epochs, kappa, decay, context.facts.train, found)


def _dense(context: StudyContext, seed: int, rate: float) -> Measured:
    step = context.dense_states(seed, rate).theta_t.step
    assert isinstance(step, Train)
    start = step.start.step
    assert isinstance(start, Init)
    model = draw(start.model, start.input_shape, start.outputs, start.seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    began = time.process_time()
    trained = train(model, load(step.data), step.recipe, order_seed=step.order_seed, augment_seed=step.augment_seed)
    seconds = time.process_time() - began
    overlap = correlation(before, dict(trained.state), P, names=prunable(model, context.scope))
    assert trained.validation is not None
    return Measured(rate, trained.validation.value, overlap.value, seconds)


def reference_epoch(found: Sequence[Candidate]) -> float:
    """Processor seconds of an epoch of the reference, evaluation included, by the candidates of its batch size."""
    own = [one for one in found if one.batch_size == REFERENCE_BATCH]
    seconds = sum(training.seconds for one in own for training in one.trainings)
    images = sum(one.images * one.epochs * len(one.trainings) for one in own)
    return seconds / images * REFERENCE_IMAGES


def choice(found: Sequence[Candidate], epoch: float) -> Candidate | None:
    """Parts 2 to 4 of the rule; None where no candidate passes."""
    eligible = [one for one in found if one.sparsities(epoch) and one.shows_both_sides]
    best = max((one.mean(HIGH, "accuracy") for one in eligible), default=0.0)
    alike = [one for one in eligible if one.mean(HIGH, "accuracy") >= best - ALIKE]
    return min(alike, key=lambda one: one.mean(HIGH, "overlap"), default=None)


def lines(found: Sequence[Candidate], epoch: float) -> Iterator[str]:
    """The table as Markdown, the chosen candidate marked, and what was chosen."""
    chosen = choice(found, epoch)
    heads = ["batch", "epochs", "κ at 0.1", "weight decay", "accuracy 0.01", "0.1", "R_.2 0.01", "0.1"]
    yield f"| {' | '.join([*heads, 'cost, 2 / 3 sparsities', ''])} |"
    yield f"|{'---|' * (len(heads) + 2)}"
    for one in found:
        accuracies, overlaps = ([one.mean(rate, name) for rate in (LOW, HIGH)] for name in ("accuracy", "overlap"))
        costs = " / ".join(f"{one.cost(count, epoch):.0f}" for count in (2, 3))
        remark = "chosen" if one is chosen else "" if one.shows_both_sides else "not both sides"
        cells = [one.batch_size, one.epochs, f"{one.kappa:.1f}", f"{one.weight_decay:g}"]
        cells += [f"{value:.2f}" for value in accuracies] + [f"{value:.3f}" for value in overlaps] + [costs, remark]
        yield f"| {' | '.join(map(str, cells))} |"
    yield f"\nAn epoch of {REFERENCE_IMAGES:,} images at batch size {REFERENCE_BATCH}: {epoch:.2f} s of one core."
    if chosen is None:
        yield "No candidate is affordable and shows both sides."
    else:
        what = f"batch_size {chosen.batch_size}, epochs {chosen.epochs}, weight_decay {chosen.weight_decay:g}"
        yield f"Chosen: {what}, with {chosen.sparsities(epoch)} sparsities."


def main() -> None:
    """Measure every candidate, a line each, then print the table and the choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    found = []
    for (batch_size, epochs), kappa in itertools.product(LENGTHS, KAPPAS):
        found.append(measured(batch_size, epochs, kappa, seeds))
        print(found[-1], flush=True)
    print("\n".join(lines(found, reference_epoch(found))))


if __name__ == "__main__":
    main()
