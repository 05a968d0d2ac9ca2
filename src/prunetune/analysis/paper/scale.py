"""How a study differs from the paper's settings: what a published number needs before it can be compared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EPOCHS, SEEDS = 150, 5
MODELS, DATA = ("resnet20", "vgg11", "mobilenetv2"), ("cifar10", "cifar100")
_RECIPE = {"batch_size": 128, "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "loss": None, "metric": None}
_SCHEDULE = {"kind": "step", "gamma": 0.1, "warmup": 0.0}
_MOMENTS = (80 / EPOCHS, 120 / EPOCHS)
_REWIND = 10 / EPOCHS


@dataclass(frozen=True)
class Scale:
    """A study's network and data, and in which settings it is not the paper's, one phrase each."""

    model: str | None
    data: str | None
    differs: tuple[str, ...]  # all but the number of seeds
    seeds: int

    @classmethod
    def of(cls, study: Mapping[str, Any], seeds: int) -> "Scale":
        """Compare a resolved spec with the paper's settings; `seeds` are those that have results."""
        return cls(study.get("model"), study.get("data"), tuple(_differences(study)), seeds)

    def matches(self, model: str | None, data: str | None) -> bool:
        """Whether this is the network on the data, at the paper's settings but for the number of seeds."""
        return (self.model, self.data) == (model, data) and not self.differs

    @property
    def is_papers(self) -> bool:
        """Whether this is one of the paper's networks at the paper's settings."""
        return not self.differs

    @property
    def phrases(self) -> tuple[str, ...]:
        """What differs, the number of seeds included."""
        few = () if self.seeds == SEEDS else (f"{self.seeds} seeds instead of {SEEDS}",)
        return (*self.differs, *few)


def _differences(study: Mapping[str, Any]) -> Iterator[str]:
    recipe = study.get("recipe") or {}
    epochs = recipe.get("epochs")
    if study.get("model") not in MODELS:
        yield f"model {study.get('model')}, which the paper does not have"
    if study.get("data") not in DATA:
        yield f"data {study.get('data')}, which the paper does not have"
    yield from _arguments(study)
    if epochs != EPOCHS:
        yield f"{epochs} epochs instead of {EPOCHS}"
    yield from _recipe(recipe, epochs or 1)
    if not _near(_epochs_of(study.get("rewind")), _REWIND * (epochs or 1)):
        yield f"rewind to {study.get('rewind')} instead of {_REWIND * (epochs or 1):g}ep"


def _arguments(study: Mapping[str, Any]) -> Iterator[str]:
    cuts = {name: value for name, value in (study.get("data_args") or {}).items() if name != "root"}
    scope = {name: value for name, value in (study.get("scope") or {}).items() if value}
    for what, given in (("model_args", study.get("model_args")), ("data_args", cuts), ("scope", scope)):
        if given:
            yield f"{what} {', '.join(f'{name} {value}' for name, value in sorted(given.items()))}"
    if study.get("pretrained"):
        yield "imported states in place of the dense run"


def _recipe(recipe: Mapping[str, Any], epochs: int) -> Iterator[str]:
    schedule = recipe.get("schedule") or {}
    for given, usual in ((recipe, _RECIPE), (schedule, _SCHEDULE)):
        for name, value in usual.items():
            if given.get(name, value) != value:
                yield f"{name} {given[name]} instead of {value}"
    moments = schedule.get("milestones") or ()
    if len(moments) != len(_MOMENTS) or not all(map(_near, moments, (share * epochs for share in _MOMENTS))):
        yield f"milestones {', '.join(f'{moment:g}' for moment in moments) or 'none'} of {epochs} epochs"
    augment = recipe.get("augment") or ()
    if sorted(augment) != ["crop", "flip"]:
        yield f"augmentation {', '.join(augment) or 'none'} instead of crop, flip"


def _epochs_of(moment: object) -> float | None:
    text = str(moment)
    return float(text.removesuffix("ep")) if text.endswith("ep") else None


def _near(first: float | None, second: float) -> bool:
    return first is not None and abs(first - second) < 1e-3
