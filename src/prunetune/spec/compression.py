"""What `prune` and `sensitivity` ask for, as the spec of a study whose trainings they share with its audit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunetune.core.limits import DIGITS
from prunetune.errors import ConfigError, shown, unknown
from prunetune.sparsity.allocation import SENSITIVITY
from prunetune.sparsity.patterns import CHANNEL, PATTERNS, Groups
from prunetune.spec.load import SpecSource, is_papers, load_spec, read_fields, settled_fields
from prunetune.spec.study import Spec
from prunetune.steps.mask_algorithms import MASKS

LEARNING_RATE, MASK = 0.01, "one_shot"  # without a spec: gentle with trained weights, one training for a sparsity
SEEDS, HELD_OUT = 5, 0.1  # of a search within a budget: repetitions, and the share of the training data held out
LADDER = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # the sparsities that it tries, one after the other
PATTERNS_TRIED = ("unstructured", CHANNEL)
ALLOCATIONS_TRIED = {"unstructured": ("global", SENSITIVITY), CHANNEL: ("uniform", SENSITIVITY)}
_IGNORED = {
    "arms": ["finetune"],
    "connectivity": [],
    "along_training": 0,
    "measure": [],
    "pretraining": {},
}


@dataclass(frozen=True)
class CompressionRequest:
    """What is asked for beside a spec; None leaves it to the spec, or to the default where there is none."""

    model: str | None = None
    data: str | None = None
    weights: Path | None = None
    weights_key: str | None = None
    sparsities: tuple[float, ...] = ()
    mask: str | None = None
    pattern: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    seeds: int | None = None
    scale: float | None = None


def compression_spec(source: SpecSource, overrides: Sequence[str], asked: CompressionRequest) -> Spec:
    """The spec's own study with the one arm `finetune`, one mask algorithm, one learning rate, and one seed."""
    for option, value in (("mask", asked.mask), ("pattern", asked.pattern)):
        if value is not None and len(_listed(option, value)) > 1:
            raise ConfigError(f"--{option}: {shown(value)}; several compete with --max-drop alone; must be one here")
    whole, given = _whole_spec(source, overrides, asked, {"seeds": 1}, _pretrained(asked))
    mask = _mask(whole, asked)
    one = {"masks": [mask], "sparsities": _sparsities(whole, asked, mask["pattern"], given)}
    return load_spec(whole.resolved() | one | {"learning_rates": [_rate(whole)]})


def chain_specs(source: SpecSource, overrides: Sequence[str], asked: CompressionRequest) -> tuple[Spec, ...]:
    """A spec for every mask algorithm, pattern and allocation that compete within a budget, with the arm `finetune`.

    `mask` and `pattern` of what is asked may be lists with commas; the spec's mask algorithms, or one_shot, compete by
    default, and each unstructured and by channels. Sparsities are those that are asked for, the spec's, or 0.3 to 0.95.
    The spec's seeds, or five. Without a spec, a tenth of the training data is held out.
    """
    held_out: dict[str, Any] = {"data_args": {"validation": HELD_OUT}} if source is None else {}
    own_seeds = source is not None and "seeds" in _fields(source, asked)
    defaults = held_out if own_seeds else held_out | {"seeds": SEEDS}
    if asked.seeds == 1:
        raise ConfigError("--seeds: 1; one seed has no spread, and no drop is certain; at least 2, or left out for 5")
    pretrained = _pretrained(replace(asked, seeds=None))
    if pretrained:
        pretrained = {"pretrained": pretrained["pretrained"] | {"shared": True}}
    whole, given = _whole_spec(source, overrides, asked, defaults, pretrained)
    if whole.seeds == 1:
        raise ConfigError("seeds: 1; one seed has no spread, and no drop is certain; must be at least 2")
    kinds = _listed("mask", asked.mask)
    patterns = _listed("pattern", asked.pattern) or PATTERNS_TRIED
    entries = [_mask(whole, replace(asked, mask=kind, pattern=None)) for kind in kinds]
    entries = entries or [mask.resolved() for mask in whole.masks]
    chains = [
        (_competing(entry, pattern, allocation), pattern)
        for entry in entries
        for pattern in dict.fromkeys(patterns)
        for allocation in ALLOCATIONS_TRIED.get(pattern, ("uniform",))
        if not (entry["kind"] == "admm" and allocation == SENSITIVITY)  # whose penalty cannot follow it
    ]
    ladder = sorted(set(asked.sparsities)) or (whole.sparsities if given else LADDER)
    for pattern in patterns:
        if (groups := Groups.named(pattern)) and asked.sparsities and ladder != [_only(groups)]:
            written = ", ".join(f"{sparsity:g}" for sparsity in ladder)
            raise ConfigError(f"--sparsity: {written}; the only one of pattern '{pattern}' is {_only(groups):g}")
    own = whole.resolved() | {"learning_rates": [_rate(whole)]}
    return tuple(
        load_spec(own | {"masks": [mask], "sparsities": [_only(groups)] if groups else ladder})
        for i, (mask, pattern) in enumerate(chains)
        if (mask, pattern) not in chains[:i]
        for groups in [Groups.named(pattern)]
    )


def _listed(option: str, given: str | None) -> list[str]:
    """The entries of a list with commas, each once."""
    entries = [] if given is None else given.split(",")
    if "" in entries:
        raise ConfigError(f"--{option}: {shown(given)} has an empty entry; must be one name, or a list such as a,b")
    for entry in entries:
        _require_known(option, entry)
    return [*dict.fromkeys(entries)]


def _require_known(option: str, name: str | None) -> None:
    """ConfigError that names the option, where a spec's would name one of the masks."""
    known = MASKS if option == "mask" else PATTERNS
    if name is not None and name not in known:
        raise unknown(f"--{option}", name, known)


def _competing(entry: dict[str, Any], pattern: str, allocation: str) -> dict[str, Any]:
    """A mask's entry as one chain: chains are told apart by their labels, so that a name of the entry's own goes."""
    dropped = {"name"} if pattern == CHANNEL else {"name", "round_to"}
    own = {field: value for field, value in entry.items() if field not in dropped}
    return own | {"pattern": pattern, "allocation": allocation}


def _whole_spec(
    source: SpecSource,
    overrides: Sequence[str],
    asked: CompressionRequest,
    defaults: dict[str, Any],
    pretrained: dict[str, Any],
) -> tuple[Spec, bool]:
    """The spec before masks, sparsities and rate are narrowed, and whether it gives sparsities itself."""
    changes = [f"epochs={asked.epochs}"] if asked.epochs is not None else []
    changes += [f"seeds={asked.seeds}"] if asked.seeds is not None else []
    given = _fields(source, asked) | defaults
    fields = settled_fields(given, [*overrides, *changes], asked.scale, is_papers(source))
    fields |= _without_rewinding(fields) | _IGNORED | pretrained
    fields |= {"learning_rates": [asked.learning_rate]} if asked.learning_rate is not None else {}
    whole = load_spec(fields)
    if len(whole.looks) > 1:
        raise ConfigError("seeds: a range is for `audit`, which judges; must be a whole number of at least 1 here")
    return whole, "sparsities" in fields


def _without_rewinding(fields: dict[str, Any]) -> dict[str, Any]:
    """No `rewind` moment, which fewer epochs may not have; but where a mask's weights go back to it, it stays."""
    entries = fields.get("masks")
    masks = entries if isinstance(entries, list) else [entries]
    return {} if any(isinstance(one, dict) and one.get("reset") == "rewind" for one in masks) else {"rewind": "0ep"}


def sensitivity_spec(source: SpecSource, overrides: Sequence[str], asked: CompressionRequest) -> Spec:
    """The spec's own study, of which `sensitivity` is measured; with weights, the one dense network that they are.

    Of `asked` only model, data, weights and seeds count.
    """
    changes = [f"seeds={asked.seeds}"] if asked.seeds is not None else []
    pretrained = _pretrained(asked)
    given = _fields(source, asked) | ({"seeds": 1} if asked.weights is not None else {})
    fields = settled_fields(given, [*overrides, *changes], None, is_papers(source)) | {"measure": ["sensitivity"]}
    if source is None or asked.weights is not None:  # as `prune` plans it
        fields |= _without_rewinding(fields) | _IGNORED | pretrained | {"measure": ["sensitivity"]}
    if asked.weights is not None:  # whatever the rates at which the spec trains
        fields |= {"learning_rates": [LEARNING_RATE], "masks": [MASK]}
    return load_spec(fields)


def _pretrained(asked: CompressionRequest) -> dict[str, Any]:
    if asked.weights is None:
        if asked.weights_key is not None:
            raise ConfigError(f"--weights-key: {shown(asked.weights_key)}, and no file; give it by --weights")
        return {}
    if asked.seeds not in (None, 1):
        raise ConfigError(f"--seeds: {shown(asked.seeds)}; must be 1, or left out: --weights is one network")
    key = {"key": asked.weights_key} if asked.weights_key is not None else {}
    return {"pretrained": {"theta_T": str(asked.weights), **key}}


def _fields(source: SpecSource, asked: CompressionRequest) -> dict[str, Any]:
    """The fields of a spec, or of a model and data without one."""
    if source is not None:
        for name in ("model", "data"):
            if getattr(asked, name) is not None:
                raise ConfigError(f"--{name}: a spec is given too; change the spec's by --set {name}=…")
        return read_fields(source)
    if asked.model is None:
        raise ConfigError("--model: missing; give a model, or a spec's YAML file or a preset in its place")
    if asked.data is None:
        raise ConfigError(f"--data: missing; '{asked.model}' needs data to be trained and tested on")
    defaults = {"learning_rates": [LEARNING_RATE], "masks": [MASK], "seeds": 1}
    return {"model": asked.model, "data": asked.data} | defaults


def _mask(spec: Spec, asked: CompressionRequest) -> dict[str, Any]:
    """The spec's own entry of the algorithm that is asked for, with its settings, where it has one."""
    _require_known("mask", asked.mask)
    _require_known("pattern", asked.pattern)
    first, *others = spec.masks
    if asked.mask is None and others:
        raise ConfigError(f"--mask: the spec has {', '.join(m.label for m in spec.masks)}; name one of their kinds")
    kind = asked.mask or first.kind
    found = next((mask.resolved() for mask in spec.masks if mask.kind == kind), {"kind": kind})
    return {"pattern": "unstructured"} | found | ({"pattern": asked.pattern} if asked.pattern else {})


def _sparsities(spec: Spec, asked: CompressionRequest, pattern: str, given: bool) -> list[float]:
    """Those that are asked for, else the spec's; the pattern N:M has only one."""
    if asked.sparsities:
        return sorted(set(asked.sparsities))
    if groups := Groups.named(pattern):
        return [_only(groups)]
    if not given:
        raise ConfigError("--sparsity: missing; give the share of weights to remove, such as 0.8 or 0.5,0.8,0.9")
    return list(spec.sparsities)


def _only(groups: Groups) -> float:
    """The one sparsity of a pattern N:M."""
    return round(1 - groups.density, DIGITS)


def _rate(spec: Spec) -> float:
    first, *others = spec.learning_rates
    if others:
        rates = ", ".join(f"{rate:g}" for rate in spec.learning_rates)
        raise ConfigError(f"--learning-rate: the spec has {rates}; give one of them")
    return first
