"""One step done: its inputs read from the store, the work, the invariants, the results written back."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from prunetune.core.environment import fingerprint
from prunetune.core.seeding import OrderDigest
from prunetune.data import Batch, load_examples
from prunetune.data.examples import Nest
from prunetune.errors import ConfigError
from prunetune.execution import invariants
from prunetune.execution.events import Event, Notice, Progress
from prunetune.execution.inputs import Inputs, origin, transformed
from prunetune.execution.measure_quantities import QUANTITIES, finite, line_metrics, named_groups
from prunetune.models import build, draw
from prunetune.sparsity.allocation import LayerLosses
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups
from prunetune.sparsity.correlation import TooSparseError, correlation
from prunetune.sparsity.criteria import Criterion
from prunetune.sparsity.gradients import Gathered, gather
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_files import load_weights, read_state
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.patterns import CHANNEL, scored, weights_with
from prunetune.sparsity.prune import GatherEvidence, choose
from prunetune.sparsity.scope import prunable
from prunetune.spec.mask_fields import criterion_of
from prunetune.steps.steps import Connect, Import, Init, Measure, Probe, Prune, Step, Train, device_of
from prunetune.store.checkpoints import EVERY, Partial, Shared, discard
from prunetune.store.store import StoreWriter
from prunetune.training.batches import probe_batches, shown_indices, trial_inputs
from prunetune.training.distributed import SINGLE, World
from prunetune.training.evaluate import Score, evaluate, score_path
from prunetune.training.loop import EpochEnd, Trained, train
from prunetune.training.numerics import reproducible
from prunetune.training.objective import loss_by, training_inputs
from prunetune.training.recipe import Recipe, TrainingTime


def evidence_gatherer(
    probe: Probe | None, model: nn.Module, beginning: Init | Import, names: Sequence[str]
) -> GatherEvidence:
    """What gathers evidence of `model` for a criterion, by the probe's images and loss.

    Without a probe, by the shape of an input alone.
    """
    device = torch.device(probe.device if probe else "cpu")
    model.to(device)
    batches = _batches(probe) if probe else [(torch.zeros(1, *beginning.input_shape), torch.zeros(1))]
    loss, seed = (loss_by(probe.loss, probe.task), probe.seed) if probe else (loss_by(None, None), 0)

    def gather_evidence(criterion: Criterion, mask: Mask | None) -> Gathered:
        with reproducible(device):
            return gather(model, names, criterion, batches, loss, mask, seed)

    return gather_evidence


def probe_metrics(probe: Probe | None) -> dict[str, str]:
    """The digest of the training images that the criterion was shown; nothing without a probe."""
    if probe is None:
        return {}
    digest = OrderDigest()
    digest.update(_shown(probe))
    return {"probe_digest": digest.hexdigest()}


def _batches(probe: Probe) -> list[tuple[Nest, Batch]]:
    found = probe_batches(load_examples(probe.data), _shown(probe), probe.batch_size, probe.device)
    return [(training_inputs(probe.task, batch), batch) for _, batch in found]


def _shown(probe: Probe) -> Tensor:
    return shown_indices(load_examples(probe.data), probe.images, probe.seed)


def connect(step: Connect, inputs: Inputs, model: nn.Module) -> dict[str, Any]:
    """The step's metrics; `model` is a network of the finals' kind, and is overwritten.

    DivergedSourceError when an end diverged, InvariantError when the ends are no sibling runs or a
    pruned weight is not zero.
    """
    first, second, mask = inputs.state(step.first), inputs.state(step.second), inputs.mask(step.mask)
    ends = [inputs.store.metrics(weights.step.key) for weights in (step.first, step.second)]
    held = [invariants.ends_are_siblings(step, *ends)]
    line = score_path(model, first, second, mask, load_examples(step.data), step.recipe, step.points, step.device)
    held += [invariants.zeros_on_the_line(step, line)] if mask is not None else []
    return {
        **line_metrics(line, step.recipe),
        "invariants": held,
    }


Tell = Callable[[Event], None]
State = Mapping[str, Tensor]


class Finished(NamedTuple):
    """What a step measured, and how long it took (a training: itself, without reading, checking and writing)."""

    metrics: dict[str, Any]
    seconds: float


class StepContext(NamedTuple):
    """What is wanted of a step beside its result."""

    points: Collection[TrainingTime]  # moments of a training whose states are kept
    tell: Tell  # what happens on the way
    checkpoint_every: float  # seconds
    stopping: Callable[[], bool]  # whether a training should end with its epoch and a checkpoint
    ranks: World  # that do it together


@dataclass(frozen=True)
class StepResult:
    """A step's results before they are stored."""

    metrics: dict[str, Any]
    state: State | None = None
    mask: Mask | None = None
    snapshots: Mapping[TrainingTime, State] = field(default_factory=dict)
    seconds: float | None = None  # where it is not all that the step took


def execute(
    step: Step,
    store: StoreWriter,
    points: Collection[TrainingTime] = (),
    tell: Tell = lambda event: None,
    checkpoint_every: float = EVERY,
    stopping: Callable[[], bool] = lambda: False,
    ranks: World = SINGLE,
) -> Finished:
    """Do one step whose parents are stored, keep a training's states at `points`, check the invariants, store all.

    A training goes on from the checkpoint that a killed attempt left, if there is one; it leaves one of its own at the
    end of an epoch when `checkpoint_every` seconds have passed. `tell` gets Progress and Notice on the way. Once
    `stopping` says so, a training leaves a checkpoint at the end of its epoch and raises StoppedError. A training on
    several devices is done with all `ranks`, of which this is the first; the others call `take_part`.

    Raises DivergedSourceError when a source diverged, InvariantError when an invariant does not hold or a stored result
    cannot be reproduced, CorruptionError when a parent's file is damaged, ConfigError for what the user can mend.
    """
    began = time.perf_counter()
    inputs = Inputs(store)
    product = _WORK[type(step)](step, inputs, StepContext(points, tell, checkpoint_every, stopping, ranks))
    seconds = product.seconds if product.seconds is not None else time.perf_counter() - began
    store.write(
        step,
        product.metrics,
        state=product.state,
        mask=product.mask,
        snapshots=product.snapshots,
        inputs=inputs.read,
        environment=_environment(step),
        seconds=seconds,
    )
    discard(store.root, step.key)
    return Finished(product.metrics, seconds)


def take_part(step: Train, store: StoreWriter, points: Collection[TrainingTime], ranks: World) -> None:
    """Do this rank's share of a training that the first rank executes: all but to tell of it and to store it."""
    _train(step, Inputs(store), StepContext(points, lambda event: None, EVERY, lambda: False, ranks))


def _init(step: Init, inputs: Inputs, asked: StepContext) -> StepResult:
    first, again, other = (_draw(step, seed) for seed in (step.seed, step.seed, step.seed ^ 1))
    held = [invariants.initialiser_seeded(step, first, again, other)]
    return StepResult({"digest": digest_tensors(first), "invariants": held}, state=first)


def _import(step: Import, inputs: Inputs, asked: StepContext) -> StepResult:
    path = Path(step.path)
    state = read_state(path, "pretrained", step.weights_key)
    if hashlib.sha256(path.read_bytes()).hexdigest() != step.content:
        raise ConfigError(f"pretrained: '{path}' has changed since the study was planned; start the command again")
    model = build(step.model, step.input_shape, step.outputs)
    load_weights(model, state, path, "pretrained")
    data = load_examples(step.data)
    score = evaluate(model.to(step.device), data.test, data, step.recipe, step.device)
    final = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    about = {"diverged": False, "digest": digest_tensors(final), "invariants": []}
    return StepResult({**_scored(score, step.recipe), **about}, state=final)


def _train(step: Train, inputs: Inputs, asked: StepContext) -> StepResult:
    if asked.ranks.count != (step.devices or 1):
        raise ConfigError(f"devices: {step.devices}; only the local executor trains on several devices at once")
    mask = inputs.mask(step.mask)
    model = _model(step)
    counted = prunable(model, step.mask.scope) if step.mask else None
    start = transformed(step.start, inputs.state(step.start), mask, inputs.second(step.start))
    model.load_state_dict(start, strict=True)

    def report(end: EpochEnd) -> None:
        asked.tell(Progress(step.key, end.epoch, end.epochs, end.train_loss))

    def notice(text: str) -> None:
        asked.tell(Notice(step.key, f"{step.label} {text}"))

    basis = {"inputs": inputs.read, "environment": _environment(step)}
    kept = Partial(inputs.store.root, step, basis, notice, asked.checkpoint_every, asked.stopping)
    trained = train(
        model,
        load_examples(step.data),
        step.recipe,
        order_seed=step.order_seed,
        augment_seed=step.augment_seed,
        device=step.device,
        mask=mask,
        counted=counted,
        penalty=step.penalty,
        teacher=_teacher(step, inputs),
        snapshots=asked.points,
        on_epoch=report,
        on_notice=notice,
        checkpoints=Shared(kept, asked.ranks),
        ranks=asked.ranks,
    )
    held = _check_training(step, trained, mask, inputs, asked.points, model)
    metrics = _measured(trained, step.recipe) | {"mask_digest": mask.digest if mask else None, "invariants": held}
    return StepResult(metrics, state=trained.state, snapshots=trained.snapshots, seconds=trained.seconds)


def _prune(step: Prune, inputs: Inputs, asked: StepContext) -> StepResult:
    state, within = inputs.state(step.source), inputs.mask(step.within)
    model = _model(step)
    names, groups = prunable(model, step.scope), _groups(step, model)
    weights = {name: state[name] for name in scored(names, groups or ())}
    held = [invariants.source_is_finite(step, weights)]
    densities = _group_densities(groups, inputs.losses(step), step.density)
    criterion = criterion_of(step.criterion)
    generator = Generator().manual_seed(step.seed)
    model.load_state_dict(state)
    mask = choose(
        weights,
        step.density,
        criterion,
        allocation=inputs.allocation(step),
        pattern=step.pattern,
        parent_mask=within,
        generator=generator,
        gather_evidence=evidence_gatherer(step.probe, model, origin(step), tuple(weights)),
        groups=groups,
        round_to=step.round_to,
        group_densities=densities,
    )
    held.append(invariants.mask_counts(step, mask, groups, densities, inputs.losses(step)))
    held += [invariants.mask_is_nested(step, mask, within)] if within else []
    layers = {name: {"kept": int(kept.sum()), "total": kept.numel()} for name, kept in mask.items()}
    metrics = {"density": mask.subset(names).density, "digest": mask.digest, "layers": layers, "invariants": held}
    return StepResult(metrics | probe_metrics(step.probe), mask=mask)


def _groups(step: Prune, model: nn.Module) -> tuple[ChannelGroup, ...] | None:
    """What is coupled in the model, where the pattern asks for it."""
    if step.pattern != CHANNEL:
        return None
    shape = origin(step).input_shape
    shown = trial_inputs(step.probe.data, shape) if step.probe else torch.zeros(1, *shape)
    return channel_groups(model, shown, step.scope)


def _group_densities(
    groups: Sequence[ChannelGroup] | None, losses: LayerLosses | None, density: float
) -> list[float] | None:
    """What each group keeps of its channels, where that goes by its losses; a group counts by the weights that go."""
    if groups is None or losses is None:
        return None
    free = named_groups(groups)
    shares = losses.shares({name: weights_with(group) for name, group in free.items()}, density)
    by_group = {group: shares[name] for name, group in free.items()}
    return [by_group.get(group, 1.0) for group in groups]


def _measure(step: Measure, inputs: Inputs, asked: StepContext) -> StepResult:
    first, second, mask = inputs.state(step.first), inputs.state(step.second), inputs.mask(step.mask)
    names = prunable(_model(step), step.scope)
    rows = [_overlap(first, second, p, mask, names) for p in step.p]
    return StepResult({"correlations": rows, "invariants": []})


def _connect(step: Connect, inputs: Inputs, asked: StepContext) -> StepResult:
    return StepResult(connect(step, inputs, _model(step)))


def _quantity(step: Step, inputs: Inputs, asked: StepContext) -> StepResult:
    return StepResult(QUANTITIES[type(step)](step, inputs, _model(step)))


_WORK: dict[type[Step], Callable[..., StepResult]] = {
    Init: _init,
    Import: _import,
    Train: _train,
    Prune: _prune,
    Measure: _measure,
    Connect: _connect,
    **dict.fromkeys(QUANTITIES, _quantity),
}


def _teacher(step: Train, inputs: Inputs) -> nn.Module | None:
    """The network that the training is taught by; it may be another kind than the one that is trained."""
    if step.teacher is None:
        return None
    model = _model(step.teacher.step)
    model.load_state_dict(inputs.state(step.teacher))
    return model


def _check_training(
    step: Train, trained: Trained, mask: Mask | None, inputs: Inputs, points: Collection[TrainingTime], model: nn.Module
) -> list[str]:
    """The rules of a training, with the start weights read from their file once more. Returns the names that held."""
    plain, second = inputs.state(step.start), inputs.second(step.start)
    start = transformed(step.start, plain, mask, second)
    # The names are part of the metrics, which must not depend on the snapshots asked for: no rule may either.
    held = [
        invariants.starts_as_stored(step, trained.start_digest, start, mask, model),
        invariants.snapshots_are_copies(step, trained, [] if trained.diverged else points, model),
    ]
    if step.devices is not None:
        held.append(invariants.ranks_agree(step, trained))
    if mask is not None and step.mask is not None:
        held.append(invariants.zeros_stay(step, trained, mask))
        held.append(invariants.density_is_the_masks(step, trained, mask.subset(prunable(model, step.mask.scope))))
        held.extend(_check_transform(step, plain, start, mask, second))
    return held


def _check_transform(step: Train, plain: State, start: State, mask: Mask, second: State | None) -> Iterator[str]:
    """The rule of the control that the start was changed for, if one was."""
    transform = step.start.transform
    if transform is not None and transform.name == "shuffle":
        yield invariants.shuffle_permutes(step, plain, start, mask)
    if transform is not None and transform.name == "sign_reinit" and second is not None:
        yield invariants.signs_are_kept(step, plain, start, second)
    if transform is not None and transform.name == "mixed" and second is not None:
        yield invariants.mixed_as_asked(step, plain, start, second, transform.settings["alpha"])


def _model(step: Step) -> nn.Module:
    beginning = origin(step)
    return build(beginning.model, beginning.input_shape, beginning.outputs)


def _environment(step: Step) -> dict[str, Any]:
    return fingerprint(device_of(step), step.recipe.precision if isinstance(step, Train | Connect) else None)


def _draw(step: Init, seed: int) -> dict[str, Tensor]:
    return dict(draw(step.model, step.input_shape, step.outputs, seed).state_dict())


def _overlap(first: State, second: State, p: float, mask: Mask | None, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = correlation(first, second, p, mask=mask, names=names)
    except TooSparseError as error:  # an allocation may take from one layer what it leaves to another
        return {"p": p, "value": None, "expected": None, "per_layer": {}, "why": str(error)}
    layers = {name: finite(layer.value) for name, layer in found.per_layer.items()}
    return {"p": p, "value": found.value, "expected": found.expected, "per_layer": layers}


def _measured(trained: Trained, recipe: Recipe) -> dict[str, Any]:
    return {
        **_scored(trained.test, recipe),
        **_held_out(trained.validation, recipe),
        "epochs": trained.epochs,
        "steps": trained.steps,
        "diverged": trained.diverged,
        "density": 1.0 if trained.density is None else trained.density,
        "revived": trained.revived,
        "start_digest": trained.start_digest,
        "data_order_digest": trained.data_order_digest,
        "train_loss": [finite(loss) for loss in trained.train_loss],
        "residuals": [finite(residual) for residual in trained.residuals],
    }


def _scored(score: Score, recipe: Recipe) -> dict[str, Any]:
    """The test score: as accuracy of classification, in the metric's unit of every other task."""
    if recipe.task is None:
        return {"test_accuracy": finite(score.value), "test_loss": finite(score.loss)}
    return {"test_accuracy": None, "score": finite(score.value), "test_loss": finite(score.loss)}


def _held_out(score: Score | None, recipe: Recipe) -> dict[str, Any]:
    value = finite(score.value) if score else None
    if recipe.task is None:
        return {"validation_accuracy": value}
    return {"validation_accuracy": None, "validation_score": value}
