"""A study made shorter or longer at equal κ: `--scale` and a spec's `scale` (docs/explanation/kappa.md).

Everything here works on a spec's fields as they are written, before defaults are filled in: a fraction of the training
follows the epochs by itself, and numbers of epochs are multiplied.
"""

from collections.abc import Mapping
from typing import Any

from prunetune import data
from prunetune.core.limits import DIGITS, MAX_COUNT
from prunetune.errors import ConfigError, shown
from prunetune.spec.recipe_fields import RecipeSpec, steps_per_epoch, summarise
from prunetune.spec.study import Spec
from prunetune.spec.study_fields import ScaledSpec
from prunetune.training.recipe import TrainingTime

VALIDATION = 0.1  # of the training images, that a preset of the paper's holds out where it is scaled down
_MASK_TIMES = ("rho_every", "update_every")  # in epochs


def require_scale(value: object) -> float:
    """The number that `--scale` or `scale` is; ConfigError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_COUNT:
        return float(value)
    raise ConfigError(f"scale: {shown(value)}; must be a number above 0, such as 0.1 for a tenth of the epochs")


def scaled_times(fields: Mapping[str, Any], base: Spec, factor: float) -> dict[str, Any]:
    """The fields with every number of epochs times `factor`; `base` is the study that they make.

    The recipe's epochs are rounded, to 1 at least, and what else is counted in epochs is multiplied by what they came
    to, so that it stays at the same part of the training. A rewind in steps (`500it`) likewise. Epochs of a mask
    algorithm's own are rounded by themselves.
    """
    found = dict(fields)
    epochs = base.recipe.epochs
    new = _rounded(epochs, factor)
    recipe = found["recipe"] = {**(found.get("recipe") or {}), "epochs": new}
    if recipe.get("schedule"):
        recipe["schedule"] = _scaled_schedule(recipe["schedule"], new / epochs)
    if "rewind" in found:
        found["rewind"] = _scaled_moment(str(found["rewind"]), new / epochs)
    if "masks" in found:
        found["masks"] = [_scaled_mask(mask, epochs, factor) for mask in found["masks"]]
    return found


def record(base: Spec, factor: float) -> dict[str, Any]:
    """What `ScaledSpec` holds of `base`."""
    was = ScaledSpec(
        factor=factor,
        epochs=base.recipe.epochs,
        steps_per_epoch=_meant_for(base),
        weight_decay=base.recipe.weight_decay,
    )
    return was.model_dump()


def kept_weight_decay(base: Spec, scaled: Spec) -> float:
    """The weight decay with which `scaled` has the κ of `base` at equal rates, to six digits.

    κ is proportional to it. Where κ is not defined (Adam), the weight decay stays.
    """
    decay = base.recipe.weight_decay
    before = summarise(base.recipe, 1.0, _meant_for(base)).kappa
    with_decay = RecipeSpec.model_validate(scaled.recipe.model_dump() | {"weight_decay": 1.0})
    unit = summarise(with_decay, 1.0, _steps(scaled)).kappa
    return float(f"{before / unit:.6g}") if before is not None and unit else decay


def _meant_for(base: Spec) -> int:
    """The steps of an epoch that the weight decay is meant for: the reference, else those of the data."""
    return _steps(base) if base.reference_steps is None else base.reference_steps


def _steps(spec: Spec) -> int:
    return steps_per_epoch(spec.recipe, data.facts(data.identify(spec.data, spec.data_args)).train)


def _rounded(epochs: int, factor: float) -> int:
    return min(MAX_COUNT, max(1, round(epochs * factor)))


def _times(value: Any, factor: float) -> Any:
    """A number of epochs multiplied; a fraction of the training, a text, as it is."""
    return value if value is None or isinstance(value, str) else round(value * factor, DIGITS)


def _scaled_schedule(schedule: Mapping[str, Any], factor: float) -> dict[str, Any]:
    found = dict(schedule)
    if found.get("milestones") is not None:
        found["milestones"] = [_times(moment, factor) for moment in found["milestones"]]
    if "warmup" in found:
        found["warmup"] = _times(found["warmup"], factor)
    return found


def _scaled_moment(text: str, factor: float) -> str:
    if "/" in text:
        return text
    point = TrainingTime.parse(text)
    value = point.value * factor
    return str(TrainingTime(round(value, DIGITS) if point.unit == "ep" else float(round(value)), point.unit))


def _scaled_mask(mask: Any, epochs: int, factor: float) -> Any:
    if not isinstance(mask, Mapping):
        return mask
    found = dict(mask)
    own = epochs if found.get("epochs") is None else found["epochs"]
    new = _rounded(own, factor)
    if found.get("epochs") is not None:
        found["epochs"] = new
    for name in _MASK_TIMES:
        if name in found:
            found[name] = _times(found[name], new / own)
    if isinstance(found.get("updates"), int):  # of gradual pruning: no more than one an epoch
        found["updates"] = min(found["updates"], new)
    return found
