"""The steps that a study compiles to, and the key under which each is done once and stored.

A step is a frozen value whose parents are steps. Its key is the SHA-256 of its canonical JSON: every field, defaults
included, with each parent replaced by the parent's key. Equal keys mean the same computation. A field that came after
stores were filled is left out where it is None (`KEYED_WHERE_SET`), so that what they hold keeps its name.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from typing import Any, cast

from prunetune.core.references import KEYED_WHERE_SET, NOT_KEYED, Ref
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError, given
from prunetune.sparsity.scope import Scope
from prunetune.training.admm import Penalty
from prunetune.training.recipe import Recipe, TrainingTime

KEY_VERSION = 1


class Step:
    """Base of the steps: equality and hash are the key's, so a deep chain of rounds costs no more than a flat one."""

    def __post_init__(self) -> None:
        _ = self.key  # parents come first, so no key is ever computed through more than one level of a deep chain

    @cached_property
    def key(self) -> str:
        """64 hexadecimal digits that name this computation."""
        text = json.dumps(describe(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """As messages name it, by its kind and the first digits of its key: `Train 3f2a9c01d2e4`."""
        return f"{type(self).__name__} {self.key[:12]}"

    @cached_property
    def parents(self) -> tuple["Step", ...]:
        """The steps whose stored results this one reads, without repeats."""
        return tuple(dict.fromkeys(step for value in self._values() for step in _steps_of(value)))

    @property
    def states(self) -> tuple["Weights", ...]:
        """The stored states that this step reads."""
        return tuple(state for value in self._values() if isinstance(value, Weights) for state in value.states)

    def _values(self) -> Iterator[Any]:
        """The values of the fields, in their order."""
        return (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class Init(Step):
    """Draw a network's initial weights (theta_0, or theta_0' with another seed)."""

    model: Ref
    input_shape: tuple[int, ...]  # one example's: (channels, height, width)
    outputs: int
    seed: int


@dataclass(frozen=True, eq=False)
class Import(Step):
    """Take a state of the user's in place of a step of ours, and measure its test accuracy."""

    model: Ref
    input_shape: tuple[int, ...]
    outputs: int
    data: Ref
    content: str  # SHA-256 of the file
    recipe: Recipe  # for its loss, metric and batch size, with which the accuracy is measured
    path: str = field(metadata=NOT_KEYED)
    device: str = "cpu"
    weights_key: str | None = field(default=None, metadata=KEYED_WHERE_SET)  # of a file that holds several states


@dataclass(frozen=True)
class Transform:
    """A registered change of the start weights (controls such as `shuffle`): its seed, second state and settings."""

    name: str
    seed: int = 0  # for those that draw
    second: "Weights | None" = field(default=None, metadata=KEYED_WHERE_SET)  # for those that mix two, as it was stored
    arguments: str | None = field(default=None, metadata=KEYED_WHERE_SET)  # settings, in JSON as those of a Ref

    @classmethod
    def of(cls, name: str, seed: int = 0, second: "Weights | None" = None, **settings: Any) -> "Transform":
        """Build a Transform from plain settings (JSON values)."""
        return cls(name, seed, second, json.dumps(settings, sort_keys=True) if settings else None)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as keyword arguments."""
        return json.loads(self.arguments or "{}")


@dataclass(frozen=True)
class Weights:
    """A state that a step left behind: its final one or a Train's earlier one (theta_k), perhaps transformed."""

    step: "Init | Import | Train"
    at: TrainingTime | None = None
    transform: Transform | None = None

    @property
    def states(self) -> tuple["Weights", ...]:
        """The stored states that these weights are made of: their own, and the transform's second if there is one."""
        second = self.transform.second if self.transform else None
        return (self, second) if second else (self,)


@dataclass(frozen=True, eq=False)
class Train(Step):
    """Train start weights under a fixed mask (or none) by a recipe, and measure the final test accuracy."""

    start: Weights
    mask: "Prune | None"
    recipe: Recipe
    data: Ref
    order_seed: int
    augment_seed: int
    penalty: Penalty | None = None
    device: str = "cpu"
    devices: int | None = field(default=None, metadata=KEYED_WHERE_SET)  # ranks that share every batch; None is one
    teacher: Weights | None = field(default=None, metadata=KEYED_WHERE_SET)  # where the recipe has a part for one


@dataclass(frozen=True)
class Probe:
    """What a criterion that reads gradients is shown: training images, as many of each class, and by which loss."""

    data: Ref
    images: int
    batch_size: int
    seed: int
    loss: Ref | None
    device: str = "cpu"
    task: Ref | None = field(default=None, metadata=KEYED_WHERE_SET)  # None is classification


@dataclass(frozen=True, eq=False)
class Prune(Step):
    """Choose the weights to keep: `density` is the kept share of the original number of weights of the scope."""

    source: Weights
    density: float
    within: "Prune | None"  # only weights that this mask keeps may be kept
    criterion: Ref
    allocation: str
    pattern: str
    scope: Scope
    seed: int = 0  # for criteria that draw
    like: "Prune | None" = field(default=None, metadata=KEYED_WHERE_SET)  # its layer counts, not the allocation's
    probe: Probe | None = field(default=None, metadata=KEYED_WHERE_SET)  # None for criteria that look at no data
    sequences: bool | None = field(default=None, metadata=KEYED_WHERE_SET)  # True where channels of (N, L, C) can go
    heads: bool | None = field(default=None, metadata=KEYED_WHERE_SET)  # True where attention heads can go
    round_to: int | None = field(default=None, metadata=KEYED_WHERE_SET)  # widths are multiples of it
    losses: Step | None = field(default=None, metadata=KEYED_WHERE_SET)  # MeasureSensitivity, of that allocation


@dataclass(frozen=True, eq=False)
class Measure(Step):
    """R_p between two states at several p: of the weights that `mask` keeps, or of all weights without it."""

    first: Weights
    second: Weights
    mask: Prune | None
    p: tuple[float, ...]
    scope: Scope


@dataclass(frozen=True, eq=False)
class Connect(Step):
    """Test loss and accuracy on the straight line between two finals, at `points` equal distances, ends included."""

    first: Weights
    second: Weights
    mask: Prune | None  # of both
    data: Ref
    recipe: Recipe  # for its loss, metric and precision, with which the line is measured
    points: int = 11
    device: str = "cpu"


def device_of(step: Step) -> str:
    """The device on which a step does its work: the CPU, for those that say nothing."""
    return getattr(getattr(step, "probe", None) or step, "device", "cpu")


def describe(value: Any) -> Any:
    """The canonical JSON form of a step, its parents given by key: what is hashed, and what `step.json` holds."""
    if isinstance(value, Step):
        return {"step": type(value).__name__, "version": KEY_VERSION, **_keyed_fields(value)}
    return _refer(value)


def _refer(value: Any) -> Any:
    if isinstance(value, Step):
        return value.key
    if is_dataclass(value):
        return _keyed_fields(value)
    if isinstance(value, tuple | list):
        return [_refer(item) for item in cast(Sequence[Any], value)]
    return value


def _keyed_fields(value: object) -> dict[str, Any]:
    found = ((name, getattr(value, name), where_set) for name, where_set in _keyed(type(value)))
    return {name: _refer(own) for name, own, where_set in found if not (where_set and own is None)}


@cache
def _keyed(kind: type) -> tuple[tuple[str, bool], ...]:
    """The names of the fields that are in a key, and whether only where they are set."""
    known = ((of.name, of.metadata) for of in fields(kind))
    return tuple((name, about.get("keyed_where_set", False)) for name, about in known if about.get("keyed", True))


def _steps_of(value: object) -> tuple[Step, ...]:
    """The steps that the value of a field refers to."""
    if isinstance(value, Weights):
        return tuple(state.step for state in value.states)
    return (value,) if isinstance(value, Step) else ()


@dataclass(frozen=True)
class Trainer:
    """The part of a training that all trainings of a seed share, the dense run too: data, their order, the devices.

    Those by a recipe with `distill`, all but the dense ones, share the teacher too.
    """

    data: Ref
    seed: int
    device: str
    devices: int
    teacher: Weights | None = None  # θT, once there is one; for recipes that have a part for it

    def train(self, recipe: Recipe, start: Weights, mask: Prune | None = None, penalty: Penalty | None = None) -> Train:
        """The step that trains `start` under `mask` (None: dense) by `recipe`."""
        return Train(
            start,
            mask,
            recipe,
            data=self.data,
            order_seed=derive(self.seed, "order"),
            augment_seed=derive(self.seed, "augment"),
            penalty=penalty,
            device=self.device,
            devices=self.devices if self.devices > 1 else None,
            teacher=given(self.teacher, "a recipe with a teacher's part is trained once there is a teacher")
            if recipe.distill
            else None,
        )


@dataclass(frozen=True)
class DenseStates:
    """The states that masks are found from and arms start from, at one seed and one learning rate."""

    initial: Weights | None  # θ0; None when the trained state is the user's and no theta_0 came with it
    theta_0_prime: Weights  # the independent second draw
    early: Weights | None  # θk; None when the trained state is the user's and no theta_k came with it
    theta_t: Weights  # θT, the dense run's final state
    recipe: Recipe
    trainer: Trainer
    mask: Prune | None = None  # the study's mask, once there is one: an arm may start from what it was chosen from

    @property
    def theta_0(self) -> Weights:
        """θ0, for whoever cannot do without it; ConfigError where the user gave none."""
        if self.initial is None:
            raise ConfigError(
                "pretrained.theta_0: missing, and a mask or an arm of the study goes back to the initial weights; give "
                "their file, or only masks that start from trained weights (one_shot, gradual, admm) and arm finetune"
            )
        return self.initial

    @property
    def theta_k(self) -> Weights:
        """θk, for whoever cannot do without it; ConfigError where the user gave none."""
        if self.early is None:
            raise ConfigError(
                "pretrained.theta_k: missing, and a mask or an arm of the study goes back to the rewind moment; give "
                "its file, or leave out the arm rewind and masks with reset: rewind"
            )
        return self.early

    @property
    def mask_source(self) -> Weights:
        """The state that the study's mask was chosen from: θT, or for masks found in rounds a later one."""
        return given(self.mask, "an arm is asked for its start under a mask").source

    def train(self, start: Weights, mask: Prune) -> Train:
        """The sparse training (start ⊙ mask)_T by the study's recipe."""
        return self.trainer.train(self.recipe, start, mask)
