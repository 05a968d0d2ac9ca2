"""How a study, above all its κ, differs from the paper's: what keeps a claim from being compared, and what a number.

A claim needs the paper's network, data, optimizer and loss, and of weight decay's exponent κ (Σ η λ / (1 − μ) over the
steps) no more than a factor of two from the paper's at each learning rate that it names; epochs, batches, schedule,
augmentation and the share of the training images may differ. A published number needs all of the settings. What κ
means is in docs/explanation/kappa.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunetune.errors import counted
from prunetune.rows import Results
from prunetune.training.recipe import Recipe, RecipeSummary, Schedule, decay_exponent

EPOCHS, SEEDS = 150, 5
MODELS, DATA = ("resnet20", "vgg11", "mobilenetv2"), ("cifar10", "cifar100")
KAPPA = {0.01: 0.33, 0.1: 3.30}  # by rate: 150 epochs of 391 steps at weight decay 1e-4, which the paper leaves open
FACTOR = 2.0  # by how much κ may differ
_FUNCTIONS = {"optimizer": "sgd", "loss": None, "metric": None}
_RECIPE = {"batch_size": 128, "momentum": 0.9, "nesterov": False}
_SCHEDULE = {"kind": "step", "gamma": 0.1, "warmup": 0.0}
_MOMENTS = (80 / EPOCHS, 120 / EPOCHS)
_REWIND = 10 / EPOCHS


@dataclass(frozen=True)
class Scale:
    """A study's network and data, and how it is not the paper's, one phrase for each difference."""

    model: str | None
    data: str | None
    network: tuple[str, ...]  # what keeps every claim from being compared: model, data, optimizer, loss
    settings: tuple[str, ...]  # what keeps a number from being compared, and no claim
    kappas: Mapping[float, str]  # by learning rate: how κ is another than the paper's there
    seeds: int

    @classmethod
    def of(cls, results: Results) -> "Scale":
        """Compare a study, and the κ of its dense trainings, with the paper's; its seeds are those with results."""
        study = results.study
        found = {rate: _kappa_phrase(rate, value) for rate, value in kappas(results).items() if rate in KAPPA}
        return cls(
            model=study.get("model"),
            data=study.get("data"),
            network=tuple(_network(study)),
            settings=tuple(_settings(study)),
            kappas={rate: phrase for rate, phrase in found.items() if phrase},
            seeds=len({trial.seed for trial in results.trials}),
        )

    def bars(self, rates: Sequence[float]) -> tuple[str, ...]:
        """Why a claim at these learning rates is not compared; empty where it may be."""
        return (*self.network, *(self.kappas[rate] for rate in rates if rate in self.kappas))

    @property
    def differs(self) -> tuple[str, ...]:
        """All differences but the number of seeds."""
        return (*self.network, *self.settings, *self.kappas.values())

    @property
    def is_papers(self) -> bool:
        """Whether this is one of the paper's networks at the paper's settings; the number of seeds may differ."""
        return not self.differs

    @property
    def phrases(self) -> tuple[str, ...]:
        """What differs, the number of seeds included."""
        few = () if self.seeds == SEEDS else (f"{counted(self.seeds, 'seed')} instead of {SEEDS}",)
        return (*self.differs, *few)


def kappas(results: Results) -> dict[float, float | None]:
    """κ of the dense trainings by learning rate; None where the optimizer has no such sum (Adam)."""
    dense = [row for row in results.trials if row.arm == "dense" and row.steps >= row.epochs > 0]
    whole = {row.learning_rate: row for row in sorted(dense, key=lambda row: row.steps)}  # a diverged one stops early
    recipe = results.study.get("recipe") or {}
    return {rate: _kappa(recipe, rate, row.steps, row.epochs) for rate, row in sorted(whole.items())}


def _kappa(given: Mapping[str, Any], rate: float, steps: int, epochs: int) -> float | None:
    plan = given.get("schedule") or {}
    moments = tuple(plan.get("milestones") or ())
    schedule = Schedule(plan.get("kind", "step"), moments, plan.get("gamma") or 0.1, plan.get("warmup", 0.0))
    recipe = Recipe(
        epochs=epochs,
        batch_size=given.get("batch_size", 128),
        learning_rate=rate,
        optimizer=given.get("optimizer", "sgd"),
        momentum=given.get("momentum", 0.9),
        weight_decay=given.get("weight_decay", 1e-4),
        schedule=schedule,
    )
    return decay_exponent(recipe, steps // epochs)


def _kappa_phrase(rate: float, value: float | None) -> str:
    if value is None:
        return f"no κ at rate {rate:g}: this optimizer has none"
    if KAPPA[rate] / FACTOR <= value <= KAPPA[rate] * FACTOR:
        return ""
    return f"κ {value:.2g} at rate {rate:g}, the paper's {KAPPA[rate]:g}"


def _network(study: Mapping[str, Any]) -> Iterator[str]:
    if study.get("model") not in MODELS:
        yield f"model {study.get('model')}, which the paper does not have"
    if study.get("data") not in DATA:
        yield f"data {study.get('data')}, which the paper does not have"
    scope = {name: value for name, value in (study.get("scope") or {}).items() if value}
    yield from _arguments({"model_args": study.get("model_args"), "scope": scope})
    if study.get("pretrained"):
        yield "imported states in place of the dense run"
    yield from _unlike(study.get("recipe") or {}, _FUNCTIONS)


def _settings(study: Mapping[str, Any]) -> Iterator[str]:
    recipe = study.get("recipe") or {}
    epochs = recipe.get("epochs")
    cuts = {name: value for name, value in (study.get("data_args") or {}).items() if name != "root"}
    yield from _arguments({"data_args": cuts})
    if epochs != EPOCHS:
        yield f"{counted(epochs or 0, 'epoch')} instead of {EPOCHS}"
    yield from _recipe(recipe, epochs or 1)
    if not _near(_epochs_of(study.get("rewind")), _REWIND * (epochs or 1)):
        yield f"rewind to {study.get('rewind')} instead of {_REWIND * (epochs or 1):g}ep"


def _arguments(fields: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    for what, given in fields.items():
        if given:
            yield f"{what} {', '.join(f'{name} {value}' for name, value in sorted(given.items()))}"


def _unlike(given: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[str]:
    for name, value in usual.items():
        if given.get(name, value) != value:
            yield f"{name} {given[name]} instead of {value}"


def _recipe(recipe: Mapping[str, Any], epochs: int) -> Iterator[str]:
    schedule = recipe.get("schedule") or {}
    yield from _unlike(recipe, _RECIPE)
    yield from _unlike(schedule, _SCHEDULE)
    moments = schedule.get("milestones") or ()
    if len(moments) != len(_MOMENTS) or not all(map(_near, moments, (share * epochs for share in _MOMENTS))):
        yield f"milestones {', '.join(f'{moment:g}' for moment in moments) or 'none'} of {counted(epochs, 'epoch')}"
    augment = recipe.get("augment") or ()
    if sorted(augment) != ["crop", "flip"]:
        yield f"augmentation {', '.join(augment) or 'none'} instead of crop, flip"


def _epochs_of(moment: object) -> float | None:
    text = str(moment)
    return float(text.removesuffix("ep")) if text.endswith("ep") else None


def _near(first: float | None, second: float) -> bool:
    return first is not None and abs(first - second) < 1e-3


def kappa_text(kappa: float) -> str:
    """κ with two decimals, and below 0.1 and from 1000 with two digits.

    >>> kappa_text(3.296), kappa_text(0.00494), kappa_text(0.0), kappa_text(1.1e17)
    ('3.30', '0.0049', '0.00', '1.1e+17')
    """
    return f"{kappa:.2g}" if 0 < kappa < 0.1 or kappa >= 1000 else f"{kappa:.2f}"


def retention_text(row: RecipeSummary) -> str:
    """κ with its meaning, in a sentence.

    >>> retention_text(RecipeSummary(0.1, 58_650, 3.2961, 0.0370))
    'kappa 3.30: weight decay by itself leaves 4 % of the initial weights (e^-kappa 0.04)'
    """
    if row.kappa is None or row.retention is None:
        return "kappa is not defined for adam, whose weight decay is scaled like its gradients"
    return (
        f"kappa {kappa_text(row.kappa)}: weight decay by itself leaves {_left(row.retention)} % of the initial weights "
        f"(e^-kappa {row.retention:.2f})"
    )


def _left(retention: float) -> str:
    """In percent; a rest is not rounded to nothing, nor a loss to none."""
    if retention < 0.01:
        return "less than 1"
    return "more than 99" if 0.995 < retention < 1 else f"{100 * retention:.0f}"


def off_paper(row: RecipeSummary) -> str | None:
    """Why this rate's trainings are none that the paper speaks of, in a sentence; None where κ gives no reason.

    The paper has κ at its own two rates only, and there with the weight decay of the recipe that it follows.
    """
    paper = KAPPA.get(row.learning_rate)
    if paper is None or row.kappa is None or paper / FACTOR <= row.kappa <= paper * FACTOR:
        return None
    return (
        f"the paper's trainings at rate {row.learning_rate:g} have kappa {paper:.2f} (150 epochs, weight decay 1e-4), "
        f"these {kappa_text(row.kappa)}: what it says of that rate is neither confirmed nor refuted by them"
    )
