"""How far a network's weights move: sign flips, relative distance and cosine between two states, by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from prunetune.errors import ConfigError


@dataclass(frozen=True)
class Movement:
    """What lies between two states a and b, over `n` weights.

    `sign_flips`: the share of the weights whose sign is another one; a weight that is zero on a side has none, and
    counts as not flipped. `distance`: ‖b − a‖ / ‖a‖. `cosine`: ⟨a, b⟩ / (‖a‖ ‖b‖). NaN where a norm that divides is 0,
    and all three where n is 0.
    """

    n: int
    sign_flips: float
    distance: float
    cosine: float


def movement(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Sequence[str], mask: Mapping[str, Tensor] | None = None
) -> tuple[Movement, dict[str, Movement]]:
    """The movement from `a` to `b` over all of `names` together, and in each; in double precision.

    With a `mask` only the weights that it keeps count; tensors that it does not name count whole. ConfigError where
    shapes disagree.
    """
    sums = {name: _sums(name, a[name], b[name], mask.get(name) if mask is not None else None) for name in names}
    whole = _Sums(*(sum(parts) for parts in zip(*sums.values(), strict=True))) if sums else _Sums(0, 0, 0, 0, 0, 0)
    return whole.movement(), {name: own.movement() for name, own in sums.items()}


class _Sums(NamedTuple):
    """What the three figures are made of; those of layers add up to the network's."""

    n: float
    flips: float
    moved: float  # ‖b − a‖²
    first: float  # ‖a‖²
    second: float  # ‖b‖²
    product: float  # ⟨a, b⟩

    def movement(self) -> Movement:
        return Movement(
            int(self.n),
            self.flips / self.n if self.n else math.nan,
            math.sqrt(self.moved / self.first) if self.first else math.nan,
            self.product / math.sqrt(self.first * self.second) if self.first and self.second else math.nan,
        )


def _sums(name: str, a: Tensor, b: Tensor, kept: Tensor | None) -> _Sums:
    if a.shape != b.shape:
        raise ConfigError(f"'{name}' has shape {tuple(a.shape)} in one state and {tuple(b.shape)} in the other")
    first, second = a.double().flatten(), b.double().flatten()
    if kept is not None:
        first, second = first[kept.flatten()], second[kept.flatten()]
    moved, flips = second - first, (first.sign() * second.sign() < 0).sum()
    return _Sums(
        len(first),
        int(flips),
        float(moved.dot(moved)),
        float(first.dot(first)),
        float(second.dot(second)),
        float(first.dot(second)),
    )
