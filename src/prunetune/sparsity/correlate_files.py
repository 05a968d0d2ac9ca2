"""R_p between two checkpoint files of a model that need not be known here."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.errors import ConfigError, one_line
from prunetune.sparsity.correlation import constants, correlation
from prunetune.sparsity.model_files import read_mask, read_state


def correlate_files(
    first: Path,
    second: Path,
    mask: Path | None,
    p: Sequence[float],
    include: Sequence[str],
    exclude: Sequence[str],
    key: str | None = None,
) -> dict[str, Any]:
    """R_p of two checkpoints at every `p`, in total and per tensor, as plain JSON values.

    Without a mask all weights of the compared tensors count; with one, only those it keeps (all, of a tensor that it
    does not name). `left_out` has the tensors that are constants (`correlation.constants`), and why; what an `include`
    pattern names is compared in any case. `equal` lists compared tensors that are the same on both sides, where others
    are not: frozen layers, which count. Raises ConfigError for
    files that cannot be read, shapes that disagree, p outside (0, 1), or p >= 1 - sparsity of a sparse checkpoint.
    """
    states = read_state(first, "A", key), read_state(second, "B", key)
    kept = read_mask(mask) if mask is not None else None
    names = _compared_names(*states, include, exclude)
    asked = {name for name in names if any(fnmatchcase(name, pattern) for pattern in include)}
    left_out = constants(*states, [name for name in names if name not in asked], kept)
    if len(left_out) < len(names):
        names = [name for name in names if name not in left_out]
    else:
        left_out = {}
    found = [(share, correlation(*states, share, mask=kept, names=names)) for share in p]
    tensors = {name: {"shape": list(states[0][name].shape)} for name in names}
    equal = [name for name in names if torch.equal(states[0][name], states[1][name].to(states[0][name].dtype))]
    return {
        "a": str(first),
        "b": str(second),
        "mask": str(mask) if mask is not None else None,
        "tensors": tensors,
        "left_out": left_out,
        "equal": equal if len(equal) < len(names) else [],
        "correlations": [
            {
                "p": share,
                "value": pair.value,
                "expected": pair.expected,
                "per_layer": {name: layer.value if layer.k else None for name, layer in pair.per_layer.items()},
            }
            for share, pair in found
        ],
    }


def correlation_table(found: Mapping[str, Any]) -> str:
    """What `correlate_files` returns as text: a row per tensor, a column per p, the total and its chance level last."""
    columns = found["correlations"]
    header = ["tensor", "shape", *(f"R_{c['p']:g}" for c in columns)]
    body = [
        [one_line(name), "×".join(map(str, tensor["shape"])), *(_digits(c["per_layer"].get(name)) for c in columns)]
        for name, tensor in found["tensors"].items()
    ]
    total = ["all", "", *(_digits(c["value"]) for c in columns)]
    chance = ["if independent", "", *(_digits(c["expected"]) for c in columns)]
    rows = [header, *body, total, chance]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:], *_notes(found)])


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    """Which tensors do not count and why, and which count though they are the same on both sides."""
    if found["left_out"]:
        yield "Left out, for they are constants (--include NAME compares them):"
        yield from (f"  {one_line(name)} {why}" for name, why in found["left_out"].items())
    if found["equal"]:
        yield "The same on both sides, and counted (--exclude NAME leaves them out):"
        yield from (f"  {one_line(name)}" for name in found["equal"])


def _compared_names(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    include: Sequence[str],
    exclude: Sequence[str],
) -> list[str]:
    shared = [name for name in first if name in second and _is_weight(first[name]) and _is_weight(second[name])]
    shared.sort(key=_natural)  # a safetensors file keeps no order of its own
    if not shared:
        raise ConfigError(
            f"A and B share no floating tensor of two or more dimensions; A has {_few(first)}; B has {_few(second)}"
        )
    for field, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in shared):
                raise ConfigError(f"{field}: '{pattern}' matches no compared tensor; there are {_few(shared)}")
    names = [
        name
        for name in shared
        if (not include or any(fnmatchcase(name, pattern) for pattern in include))
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    ]
    if not names:
        raise ConfigError("--exclude: nothing is left to compare")
    return names


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `layers.2` before `layers.10`, however many digits there are."""
    parts = [part.lstrip("0") if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
    return [(len(part), part) if i % 2 else (-1, part) for i, part in enumerate(parts)]


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= 2


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
