"""The one training loop: every training of a study, dense, sparse or penalised, runs through here."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.core.seeding import derive
from prunetune.data import Batch, TrainingData
from prunetune.data.examples import Nest, first_tensor
from prunetune.errors import ConfigError
from prunetune.sparsity.enforce import apply_mask
from prunetune.sparsity.forward_pass import call
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.training.admm import Admm, Penalty
from prunetune.training.batches import BatchIndices, TrainingBatches, example_inputs, heartbeat
from prunetune.training.cuda_graphs import GraphedStep, recorder_for
from prunetune.training.distributed import SINGLE, World
from prunetune.training.evaluate import Score, evaluate
from prunetune.training.numerics import (
    autocast,
    choose_layout,
    enough_memory,
    own_stream,
    reproducible,
    seeded,
    strided_depthwise_in_float32,
)
from prunetune.training.objective import build_optimizer, in_parts, training_inputs, training_loss, user_errors
from prunetune.training.recipe import Recipe, TrainingTime, factor
from prunetune.training.training_state import Checkpoints, State, TrainingState, copied_state
from prunetune.training.zero_check import PrunedZeroCheck


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch is over."""

    epoch: int  # 1 after the first
    epochs: int  # of the whole training
    train_loss: float  # mean over the epoch's examples, each under the weights of its step


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves behind.

    A training diverges when an epoch's loss or a final weight is not finite. It ends with the epoch in which that was
    seen; `steps`, `epochs`, `train_loss` and `snapshots` reach no further, and `test` is what the remains score.
    """

    state: State  # after the last step
    snapshots: Mapping[TrainingTime, State]
    steps: int  # optimizer steps taken
    epochs: int  # begun and ended
    diverged: bool
    test: Score
    validation: Score | None  # None where the data hold nothing out
    train_loss: tuple[float, ...]  # per epoch, as in EpochEnd
    density: float | None  # share of non-zero weights in the mask's counted tensors at the end; None without mask
    revived: int  # pruned positions that were not zero after some optimizer step: 0, or something is broken
    diverged_ranks: (
        int  # of the other ranks, those whose weights after the last step are not the first's: 0, or it is broken
    )
    start_digest: str  # digest_tensors of the live state dict right before the first step, the mask in force
    data_order_digest: str  # OrderDigest over the training images in the order in which they were used
    residuals: tuple[float, ...]  # ADMM's ‖W − Z‖ / ‖W‖, at the start and at every update; empty without penalty
    seconds: float  # that it took, an earlier part before an interruption included


def train(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    order_seed: int,
    augment_seed: int,
    device: str = "cpu",
    mask: Mask | None = None,
    counted: Collection[str] | None = None,
    penalty: Penalty | None = None,
    teacher: nn.Module | None = None,
    snapshots: Collection[TrainingTime] = (),
    on_epoch: Callable[[EpochEnd], None] | None = None,
    on_notice: Callable[[str], None] = lambda notice: None,
    checkpoints: Checkpoints | None = None,
    ranks: World = SINGLE,
) -> Trained:
    """Train `model` in place by `recipe`, from the weights that it has, and score it on the test examples at the end.

    Epoch e sees the examples in the order that (order_seed, e) fixes, whatever else differs; augmentation and dropout
    draw from `augment_seed`. No generator of the caller's is touched. With a `mask`, pruned weights are zero from
    before the first step on, and the model stays held; `counted` are the mask's tensors over which density is measured,
    by default all. A `teacher` is the trained network that the recipe's `distill` asks for. A snapshot is the state
    after `point.step(steps_per_epoch)` optimizer steps. On the CPU one intra-op thread is used, whatever the caller has
    set. On CUDA the steps are replayed as a graph, or run as they are where that cannot be, and `on_notice` is told
    why. `on_epoch` is called after every epoch. With `checkpoints` the training goes on from the state that they have,
    and offers them its own after every epoch but the last. Several `ranks` call this with equal arguments, each on a
    share of every batch; the first one's result is the training's.

    Raises ConfigError for a snapshot after the end, a mask that does not fit the model, a recipe that cannot be set
    up, a batch that the ranks cannot share, a loss or metric of the user's that returns a wrong shape, and batches that
    need more memory than there is.
    """
    where = torch.device(device)
    with reproducible(where), own_stream(where):
        training = _Training(
            model,
            data,
            recipe,
            order_seed=order_seed,
            augment_seed=augment_seed,
            device=where,
            mask=mask,
            counted=counted,
            penalty=penalty,
            teacher=teacher,
            snapshots=snapshots,
            ranks=ranks,
            on_notice=on_notice,
        )
        with (
            seeded(where, derive("model", augment_seed)),
            enough_memory(*_memory(recipe)),
            strided_depthwise_in_float32(model, recipe, where),
        ):
            training.run(on_epoch, checkpoints)
        return training.result(data)


class _Training:
    """A training under way: its state, and the step that is repeated on it."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        recipe: Recipe,
        *,
        order_seed: int,
        augment_seed: int,
        device: torch.device,
        mask: Mask | None,
        counted: Collection[str] | None,
        penalty: Penalty | None,
        teacher: nn.Module | None,
        snapshots: Collection[TrainingTime],
        ranks: World,
        on_notice: Callable[[str], None],
    ) -> None:
        began = time.perf_counter()
        self.model = model.to(device)
        self.recipe = recipe
        self.device = device
        self.ranks = ranks
        self.augment_seed = augment_seed
        self.batches = TrainingBatches(
            data, recipe, order_seed=order_seed, augment_seed=augment_seed, device=device, ranks=ranks
        )
        due = _by_step(snapshots, self.batches.steps_per_epoch, recipe.epochs)
        self.layout = choose_layout(model, example_inputs(data, device))
        self.optimizer = build_optimizer(model.parameters(), recipe)
        if teacher is not None:
            choose_layout(teacher.to(device).eval(), example_inputs(data, device))
        self.loss = training_loss(recipe, teacher)
        self.counted = mask if mask is None or counted is None else mask.subset(counted)
        if mask is not None:
            clips = recipe.clip_norm is not None  # by a norm, which must count what is kept alone
            apply_mask(model, mask, self.optimizer, gradients=clips)
        self.zero_check = PrunedZeroCheck(model, mask) if mask is not None else None
        self.admm = Admm(model, penalty, self.batches.steps_per_epoch, recipe.epochs) if penalty else None
        self.state = TrainingState(
            model=self.model,
            optimizer=self.optimizer,
            device=device,
            batches=self.batches,
            zero_check=self.zero_check,
            admm=self.admm,
            due=due,
            began=began,
        )
        self.network = ranks.replicated(model, self.weight)
        recorder = recorder_for(device, ranks) if self.batches.resident else None
        self.graphed = GraphedStep(self.step, recorder, on_notice) if recorder is not None else None
        self.rate = torch.zeros((), device=device) if recorder is not None else None  # where a replay reads it
        self.total = torch.zeros((), device=device)  # of the losses of an epoch's images
        self.start_digest = digest_tensors(model.state_dict())
        self.state.keep_snapshots()

    def run(self, on_epoch: Callable[[EpochEnd], None] | None, checkpoints: Checkpoints | None) -> None:
        """All epochs that are left, or until one whose loss is not finite."""
        if checkpoints is not None and (saved := checkpoints.load()) is not None:
            self.state.load_state_dict(saved)
        losses = self.state.train_loss
        for epoch in range(len(losses), self.recipe.epochs):
            losses.append(self.epoch(epoch))
            if on_epoch is not None:
                on_epoch(EpochEnd(epoch + 1, self.recipe.epochs, losses[-1]))
            if not math.isfinite(losses[-1]):
                break
            if checkpoints is not None and epoch + 1 < self.recipe.epochs:
                checkpoints.offer(self.state.state_dict)

    def epoch(self, epoch: int) -> float:
        """One pass over the training images; the mean loss, the only thing for which the device is waited for."""
        if self.ranks.count > 1:  # begun anew, a checkpoint needs no generator but the first rank's
            torch.manual_seed(derive("model", self.augment_seed, epoch, self.ranks.rank))
        self.model.train()
        self.total.zero_()
        advance = self.graphed or self.step
        for batch in self.batches.epoch(epoch):
            self.set_rate()
            advance(batch)
            self.after_step()
            heartbeat()
        return float(self.ranks.sum(self.total)) / len(self.batches)

    def set_rate(self) -> None:
        """Bring the learning rate up to date for the next step."""
        rate = self.recipe.learning_rate
        rate *= factor(self.recipe.schedule, self.state.steps, self.batches.steps_per_epoch, self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self.rate is None else self.rate.fill_(rate)

    def step(self, batch: BatchIndices) -> None:
        """One optimizer step, the check of the zeros right after it, and the batch's loss: all on the device."""
        inputs, targets = self.batches.gather(batch)
        if isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=self.layout)
        self.optimizer.zero_grad()
        self.backward(Batch(inputs, targets))
        if self.admm is not None:
            self.admm.add_gradient()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.zero_check is not None:
            self.zero_check.check()

    def backward(self, batch: Batch) -> None:
        """The gradient of the batch's loss, as a whole or as the sum over its parts. Adds the loss to the epoch's."""
        count = len(first_tensor(batch.inputs))
        for part, share in in_parts(self.recipe, batch) if self.recipe.accumulate else [(batch, None)]:
            with autocast(self.recipe, self.device):
                loss = self.batch_loss(self.outputs(training_inputs(self.recipe.task, part)), part)
            loss = loss if share is None else loss * share
            loss.backward()
            self.total += loss.detach() * count

    def outputs(self, inputs: Nest) -> Any:
        """What the network gives in training mode; its own errors as one line, where no other rank has a part in it."""
        if self.ranks.count > 1:
            return call(self.network, inputs)
        first = first_tensor(inputs)
        with user_errors(f"model: cannot be trained on a batch of {len(first)}: it", first):
            return call(self.network, inputs)

    def batch_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The loss, what goes wrong in it told as `outputs` does; ConfigError where nothing can be learned by it."""
        if self.ranks.count > 1:
            return self.loss(outputs, batch)
        first = first_tensor(batch.inputs)
        with user_errors(f"task: the loss of a batch of {len(first)}: it", first):
            loss = self.loss(outputs, batch)
        if not loss.requires_grad:
            raise ConfigError("task: its loss has no gradient; it must be computed from the outputs by torch")
        return loss

    def after_step(self) -> None:
        """What the host does at the new weights."""
        self.state.steps += 1
        if self.admm is not None and self.admm.after_step() and self.graphed is not None:
            self.graphed.forget()
        self.state.keep_snapshots()

    def weight(self) -> float:
        """This rank's share of the batch of the step under way."""
        return self.batches.shares[self.state.steps % self.batches.steps_per_epoch].weight

    def result(self, data: TrainingData) -> Trained:
        """Score the model and read what was gathered."""
        self.graphed = None  # its graphs hold memory
        final, losses = copied_state(self.model), self.state.train_loss
        finite = all(bool(tensor.isfinite().all()) for tensor in final.values())
        return Trained(
            state=final,
            snapshots=self.state.snapshots,
            steps=self.state.steps,
            epochs=len(losses),
            diverged=not (finite and all(map(math.isfinite, losses))),
            test=evaluate(self.model, data.test, data, self.recipe, self.device),
            validation=self.held_out(data),
            train_loss=tuple(losses),
            density=_density(final, self.counted) if self.counted is not None else None,
            revived=int(self.ranks.sum(torch.tensor(self.zero_check.count()))) if self.zero_check is not None else 0,
            diverged_ranks=self.diverged_ranks(final),
            start_digest=self.start_digest,
            data_order_digest=self.batches.used.hexdigest(),
            residuals=self.admm.residuals if self.admm is not None else (),
            seconds=self.state.seconds,
        )

    def held_out(self, data: TrainingData) -> Score | None:
        """What the model scores on the examples held out, if there are any."""
        return evaluate(self.model, data.validation, data, self.recipe, self.device) if len(data.validation) else None

    def diverged_ranks(self, final: State) -> int:
        """How many ranks' weights are not the first's, bit for bit; running statistics are each rank's own."""
        if self.ranks.count == 1:
            return 0
        own = digest_tensors({name: final[name] for name, _ in self.model.named_parameters()})
        return int(self.ranks.sum(torch.tensor(int(own != self.ranks.from_first(own)))))


def _memory(recipe: Recipe) -> tuple[str, str]:
    """What needs the memory of a training, and what to do where there is too little."""
    size = recipe.batch_size
    smaller = f"set a smaller one, such as recipe.batch_size={size // 2}, or " if size > 1 else ""
    return f"recipe.batch_size: {size} images at a time", f"{smaller}run fewer trainings at once with --jobs"


def _by_step(points: Collection[TrainingTime], steps_per_epoch: int, epochs: int) -> dict[int, list[TrainingTime]]:
    """The points by the number of optimizer steps taken; ConfigError for one after the end."""
    by_step: dict[int, list[TrainingTime]] = {}
    for point in points:
        step = point.step(steps_per_epoch)
        if not 0 <= step <= steps_per_epoch * epochs:
            raise ConfigError(
                f"snapshots: {point} is step {step}; the training ends at {epochs}ep, step {steps_per_epoch * epochs}"
            )
        by_step.setdefault(step, []).append(point)
    return by_step


def _density(state: State, mask: Mask) -> float:
    return sum(int(state[name].count_nonzero()) for name in mask) / mask.total
