"""A spec's names resolved to things: the model, the data, and the dense states of each seed and learning rate."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from prunetune import data, models
from prunetune.core.references import Ref
from prunetune.core.seeding import derive
from prunetune.data import Batch, Examples, ExampleSets, Facts, TrainingData
from prunetune.data.examples import class_labels, leaves
from prunetune.data.resolve import TABLE_PREFIX
from prunetune.errors import ConfigError, given, shown
from prunetune.sparsity.channel_blocks import blocks_of
from prunetune.sparsity.channel_coupling import channel_groups
from prunetune.sparsity.channel_trace import reads_sequences
from prunetune.sparsity.forward_pass import call
from prunetune.sparsity.patterns import CHANNEL, require_channels, require_layers
from prunetune.sparsity.scope import Scope, list_parameters, written_out
from prunetune.spec.mask_fields import criterion_label, criterion_of
from prunetune.spec.recipe_fields import steps_per_epoch, task_ref
from prunetune.spec.study import Spec
from prunetune.steps.steps import DenseStates, Import, Init, Trainer, Weights
from prunetune.tasks import task_of
from prunetune.tasks.task import CLASSIFICATION
from prunetune.training.batches import trial_inputs
from prunetune.training.objective import Objective, objective_of, training_inputs, user_errors
from prunetune.training.recipe import Recipe, TrainingTime


@dataclass(frozen=True)
class StudyContext:
    """What all steps of a study share."""

    spec: Spec
    device: str
    data: Ref
    facts: Facts
    model: Ref
    scope: Scope
    sequences: bool | None  # whether the pattern `channel` meets linear layers on (N, L, C), where it is asked for
    heads: bool | None  # whether it meets attention heads
    rewind: TrainingTime

    @classmethod
    def of(cls, spec: Spec, device: str) -> "StudyContext":
        """Look up the data, the model, the scope's patterns and the rewind moment; ConfigError says what is wrong."""
        dataset = data.identify(spec.data, spec.data_args)
        facts = facts_for(spec, dataset)
        model = models.identify(
            spec.model, spec.model_args, facts.input_shape, facts.outputs, trial_of(spec, device, dataset, facts)
        )
        network = models.draw(model, facts.input_shape, facts.outputs, seed=0)
        scope = written_out(network, Scope(spec.scope.include, spec.scope.exclude))  # refuses one without a match
        by_channel = any(mask.pattern == CHANNEL for mask in spec.masks)
        sequences = (by_channel and reads_sequences(network, trial_inputs(dataset, facts.input_shape))) or None
        heads = meets_heads(network) if by_channel else None
        return cls(spec, device, dataset, facts, model, scope, sequences, heads, _rewind(spec, facts))

    def dense_states(self, seed: int, learning_rate: float) -> DenseStates:
        """The states that exist before any mask does, at one seed and learning rate."""
        recipe = self.spec.recipe.at(learning_rate, self.device, task_ref(self.spec.task))
        trainer = Trainer(self.data, seed, self.device, self.spec.devices)
        again = self._draw(seed, "reinit")
        if self.spec.pretrained is None:
            first = self._draw(seed, "init")
            dense = trainer.train(recipe.without_teacher, first)
            then = Weights(dense, self.rewind) if self.rewind.value else first
            return DenseStates(first, again, then, Weights(dense), recipe, replace(trainer, teacher=Weights(dense)))
        first, then, last = (self._import(field, seed, recipe) for field in ("theta_0", "theta_k", "theta_T"))
        end = given(last, "theta_T is the only state that a user must give")
        trainer = replace(trainer, teacher=end)
        return DenseStates(first, again, then if self.rewind.value else first, end, recipe, trainer)

    def _draw(self, seed: int, purpose: str) -> Weights:
        return Weights(Init(self.model, self.facts.input_shape, self.facts.outputs, derive(seed, purpose)))

    def _import(self, field: str, seed: int, recipe: Recipe) -> Weights | None:
        """The user's state, if there is one. Its key holds only what its accuracy is measured with, not our recipe."""
        pattern = getattr(self.spec.pretrained, field)
        if pattern is None:
            return None
        named = pattern.replace("{seed}", str(seed)).replace("{learning_rate}", f"{recipe.learning_rate:g}")
        path = Path(named).expanduser()
        imported = Import(
            model=self.model,
            input_shape=self.facts.input_shape,
            outputs=self.facts.outputs,
            data=self.data,
            content=_sha256(path, f"pretrained.{field}"),
            recipe=Recipe(
                epochs=0,
                batch_size=recipe.batch_size,
                learning_rate=0.0,
                precision=recipe.precision,
                loss=recipe.loss,
                metric=recipe.metric,
                task=recipe.task,
            ),
            path=str(path),
            device=self.device,
            weights_key=self.spec.pretrained.key if self.spec.pretrained else None,
        )
        return Weights(imported)


def facts_for(spec: Spec, dataset: Ref) -> Facts:
    """The facts of the data, the number of outputs that the study's task needs among them.

    ConfigError where the targets do not fit the task.
    """
    found = data.facts(dataset)
    if found.images and spec.task == CLASSIFICATION:
        return found
    loaded, task = data.load_examples(dataset), task_of(spec.task)
    if spec.devices > 1 and not loaded.train.resident:
        what = "data that are read example by example are not shared by several"
        raise ConfigError(f"devices: {spec.devices}; {what}; give tensors, or devices: 1")
    if declared := loaded.outputs if isinstance(loaded, ExampleSets) else None:
        return found._replace(outputs=declared)  # of data too large to be read through
    parts = [part for part in (loaded.train, loaded.test, loaded.validation) if len(part)]
    if spec.task == CLASSIFICATION and spec.data.startswith(TABLE_PREFIX) and class_labels(loaded.train) is None:
        what = "whose target is a column of numbers; want task: regression, or data_args.classes: true"
        raise ConfigError(f"task: classification of '{spec.data}', {what} where they name classes")
    with user_errors(f"task: '{spec.task}': its outputs(examples)"):
        counts = [task.outputs(part) for part in parts]
    for count in counts:
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"task: '{spec.task}': its outputs(examples) gives {shown(count)}; want 1 or more")
    chance_of(spec.task, dataset)  # refused here, and not when everything is trained
    return found._replace(outputs=max(counts))


def chance_of(task: str, dataset: Ref) -> float | None:
    """What the task says that guessing scores on the test part; ConfigError for neither a finite number nor None."""
    with user_errors(f"task: '{task}': its guessing(examples)"):
        found = task_of(task).guessing(data.load_examples(dataset).test)
    if found is None or (isinstance(found, int | float) and math.isfinite(found)):
        return found
    raise ConfigError(f"task: '{task}': its guessing(examples) gives {shown(found)}; want a number or None")


def require_patterns_fit(context: StudyContext) -> None:
    """Refuse a pattern that a layer's shape does not have, before anything is trained for it."""
    named = {mask.pattern for mask in context.spec.masks} - {"unstructured"}
    if not named:
        return
    model = models.draw(context.model, context.facts.input_shape, context.facts.outputs, seed=0)
    for pattern in sorted(named):
        require_layers(pattern, list_parameters(model, context.scope))
    if CHANNEL in named:
        require_channels(channel_groups(model, trial_inputs(context.data, context.facts.input_shape), context.scope))


def require_inputs_fit(context: StudyContext) -> None:
    """Refuse a criterion that feeds ones to the network where an input is no floating tensor."""
    for i, mask in enumerate(context.spec.masks):
        if "flow" not in criterion_of(mask.criterion).needs:
            continue
        inputs = leaves(trial_inputs(context.data, context.facts.input_shape))
        if odd := [tensor.dtype for tensor in inputs if not tensor.is_floating_point()]:
            kind = str(odd[0]).removeprefix("torch.")
            what = f"it feeds the network ones, and an input is {kind}; all must be floating"
            raise ConfigError(f"masks.{i}.criterion: '{criterion_label(mask.criterion)}'; {what}")


def meets_heads(network: nn.Module) -> bool | None:
    """True where the pattern `channel` meets attention heads; else None, so that other steps keep their keys."""
    return bool(blocks_of(network)) or None


def trial_of(spec: Spec, device: str, dataset: Ref, facts: Facts) -> Callable[[nn.Module], None] | None:
    """Two examples of every part through a network, the loss and the score; None where images are to be classified."""
    if facts.images and spec.task == CLASSIFICATION:
        return None
    recipe = spec.recipe.at(spec.learning_rates[0], device, task_ref(spec.task))
    return _Trial(recipe.task, objective_of(recipe), data.load_examples(dataset))


@dataclass(frozen=True)
class _Trial:
    """Tries a network in evaluation mode; ConfigError says what does not go together."""

    task: Ref | None
    objective: Objective
    data: TrainingData

    def __call__(self, model: nn.Module) -> None:
        self._learn(model)
        self._score(model, self.data.train)
        for name, part in (("test", self.data.test), ("validation", self.data.validation)):
            if len(part):
                what = f"data: two examples of {name}, unlike those of train, cannot go through the network: it"
                with user_errors(what):
                    self._score(model, part)

    def _learn(self, model: nn.Module) -> None:
        """Where a network in training is called otherwise than in evaluation."""
        batch = self._two_of(self.data.train)
        inputs = training_inputs(self.task, batch)
        if inputs is batch.inputs:
            return
        outputs = call(model.train(), inputs)
        model.eval()
        with user_errors(f"task: '{self._name}': of two examples its loss"):
            self.objective.loss(outputs, batch)

    def _score(self, model: nn.Module, part: Examples) -> None:
        batch = self._two_of(part)
        outputs = call(model, batch.inputs)
        with user_errors(f"task: '{self._name}': of two examples its loss or statistics"):
            loss, statistics = self.objective.loss(outputs, batch), self.objective.statistics(outputs, batch)
            sound = isinstance(loss, Tensor) and not loss.dim() and isinstance(statistics, Tensor)
            if not sound or not statistics.is_floating_point():
                what = "its loss must be a scalar tensor and its statistics floating ones"
                raise ConfigError(f"task: '{self._name}'; {what}")

    def _two_of(self, part: Examples) -> Batch:
        stored = part.gather(torch.arange(min(2, len(part))))
        return Batch(self.data.preparation(torch.device("cpu"))(stored.inputs), stored.targets)

    @property
    def _name(self) -> str:
        return self.task.name if self.task else CLASSIFICATION


def training_steps(spec: Spec, facts: Facts) -> int:
    """Optimizer steps of every training of the study."""
    return spec.recipe.epochs * steps_per_epoch(spec.recipe, facts.train)


def _rewind(spec: Spec, facts: Facts) -> TrainingTime:
    point = TrainingTime.parse(spec.rewind)
    steps = training_steps(spec, facts)
    if point.unit == "it" and point.value >= steps:
        length = f"{steps} steps ({steps // spec.recipe.epochs} an epoch)"
        right = f"must come before the end of a training of {length}: a fraction such as '1/5', or 0ep for θ0"
        raise ConfigError(f"rewind: '{point}'; {right}")
    return point


def _sha256(path: Path, field: str) -> str:
    try:
        if path.is_char_device():  # without an end
            raise ConfigError(f"{field}: '{path}' is a device; must be a checkpoint's file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{field}: '{path}': {error.strerror}; must be a checkpoint's file") from error
