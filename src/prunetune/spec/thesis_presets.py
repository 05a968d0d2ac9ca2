"""The paper's thesis as studies: how much of θ0 a training leaves, set by its weight decay and by its length apart.

Under SGD with momentum μ, rates η_t and weight decay λ, what is left of θ0 itself after a training is e^(−κ), with
κ = Σ_t η_t λ / (1 − μ). A preset's name gives its epochs and its κ at the higher of the two rates, rounded; at the
lower rate κ is a tenth of it. Along one length κ goes by weight decay alone; at one weight decay (5.7e-3: 1 epoch and
.5, 4 and 2, 12 and 6) by length alone.

`thesis/mixed-…` start between θ0 and a fresh draw, at three correlations, under the same masks as their namesakes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "thesis/"

_ARMS = ["ticket", "reinit", "finetune", "random_mask", "sign_reinit"]
_MIXED_ARMS = ["ticket", "reinit", *({"kind": "mixed", "alpha": alpha} for alpha in (0.25, 0.5, 0.75))]


@dataclass(frozen=True)
class Regime:
    """A length, and a weight decay that gives κ at rate 0.1."""

    epochs: int
    kappa: float
    weight_decay: float
    mixed: bool = False  # whether it starts between θ0 and θ0', where only the first sparsities are asked for

    @property
    def slug(self) -> str:
        """`4ep-kappa2`, the end of a preset's name."""
        return f"{'mixed-' * self.mixed}{self.epochs}ep-kappa{self.kappa:g}"

    def fields(self, name: str) -> dict[str, Any]:
        """The spec; every call gives a mapping of its own."""
        arms = [dict(arm) if isinstance(arm, dict) else arm for arm in (_MIXED_ARMS if self.mixed else _ARMS)]
        return {
            "name": name.replace("/", "-"),
            "model": "small",
            "data": "fashion-mini",
            "recipe": {"epochs": self.epochs, "batch_size": 64, "weight_decay": self.weight_decay, "augment": []},
            "learning_rates": [0.01, 0.1],
            "masks": ["iterative"],
            "sparsities": [0.5, 0.8] if self.mixed else [0.5, 0.8, 0.9375],
            "arms": arms,
            "seeds": 5,
        }


_REGIMES = (
    Regime(1, 0.5, 5.7e-3),
    Regime(4, 0.05, 1.4e-4),
    Regime(4, 0.5, 1.4e-3),
    Regime(4, 2, 5.7e-3),
    Regime(4, 6, 1.7e-2),
    Regime(12, 0.05, 4.7e-5),
    Regime(12, 0.5, 4.7e-4),
    Regime(12, 2, 1.9e-3),
    Regime(12, 6, 5.7e-3),
    Regime(4, 0.05, 1.4e-4, mixed=True),
    Regime(4, 2, 5.7e-3, mixed=True),
    Regime(4, 6, 1.7e-2, mixed=True),
)
STUDIES: Mapping[str, Regime] = {f"{PREFIX}{regime.slug}": regime for regime in _REGIMES}
GROUPS: Mapping[str, tuple[str, ...]] = {f"{PREFIX}all": tuple(STUDIES)}


def fields(name: str) -> dict[str, Any]:
    """The spec of a preset of `STUDIES`, before anything in it is checked."""
    return STUDIES[name].fields(name)


def summary(name: str) -> str:
    """What a preset of `STUDIES` is, in a line."""
    regime = STUDIES[name]
    length = f"{regime.epochs} epoch{'s' * (regime.epochs > 1)}"
    shows = "starts between theta_0 and a fresh draw" if regime.mixed else "arms and controls against sparsity"
    return f"Small network, Fashion-MNIST, {length}, kappa {regime.kappa:g} at rate 0.1: {shows}"
