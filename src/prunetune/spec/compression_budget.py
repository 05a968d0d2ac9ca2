"""What `prune --max-drop` is asked for: how much may be lost, and what must be won."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prunetune.errors import ConfigError, shown

Quantity = Literal["speedup", "latency", "macs", "size", "params"]
SHARES = ("macs", "params")  # of the dense network's
_UNITS = {
    "latency": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}
_EXAMPLES = {"latency": "5ms", "size": "1MB", "speedup": "2", "macs": "0.5", "params": "0.3"}


@dataclass(frozen=True)
class Target:
    """What the network must reach: times as fast as the dense one, seconds, bytes, or a share of the dense one's."""

    quantity: Quantity
    limit: float

    @property
    def of_time(self) -> bool:
        """Whether it is met by how long a call takes."""
        return self.quantity in ("speedup", "latency")

    @property
    def text(self) -> str:
        """As it was asked for: `--speedup 2`, `--latency 5ms`."""
        return f"--{self.quantity} {amount(self.quantity, self.limit)}"


@dataclass(frozen=True)
class Budget:
    """The most that may be lost, in the unit of a difference of scores; and the target, if there is one."""

    max_drop: float
    target: Target | None = None


def amount(quantity: Quantity, value: float) -> str:
    """A number with the unit in which the option takes it."""
    if quantity not in _UNITS:
        return f"{value:.4g}"
    units = {name: unit for name, unit in _UNITS[quantity].items() if not name.endswith("iB")}
    name = next((name for name, unit in reversed(units.items()) if value >= unit), next(iter(units)))
    return f"{value / units[name]:.4g}{name}"


def read_budget(max_drop: float | None, asked: Mapping[Quantity, str | None]) -> Budget | None:
    """The budget of the options' values; None without any of them.

    ConfigError for a value that is none, a target without a drop, and for two targets.
    """
    given: dict[Quantity, str] = {quantity: text for quantity, text in asked.items() if text is not None}
    if max_drop is None:
        for quantity, text in given.items():
            raise ConfigError(f"--{quantity}: {shown(text)}, and no --max-drop; say what may be lost, such as 0.5")
        return None
    if not 0 <= max_drop < math.inf:
        raise ConfigError(
            f"--max-drop: {max_drop:g}; must be a number of at least 0, in the metric's unit, such as 0.5"
        )
    if len(given) > 1:
        named = " and ".join(f"--{quantity}" for quantity in given)
        raise ConfigError(f"{named.partition(' ')[0]}: {named} are given; give one of them")
    return Budget(max_drop, next((_target(*one) for one in given.items()), None))


def _target(quantity: Quantity, text: str) -> Target:
    units = _UNITS.get(quantity, {"": 1.0})
    found = re.fullmatch(r"([0-9.]+(?:e[-+]?[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    example = f"such as {_EXAMPLES[quantity]}"
    if not found or (number := _number(found[1])) is None:
        raise ConfigError(
            f"--{quantity}: {shown(text)}; must be a number{' with its unit' * (len(units) > 1)}, {example}"
        )
    if found[2] not in units:
        listed = f"one of {', '.join(units)}" if len(units) > 1 else "a number without a unit"
        raise ConfigError(f"--{quantity}: {shown(text)}; {'its unit ' * (len(units) > 1)}must be {listed}, {example}")
    limit = number * units[found[2]]
    _require_limit(quantity, text, number, limit)
    return Target(quantity, limit)


def _require_limit(quantity: Quantity, text: str, number: float, limit: float) -> None:
    if quantity in SHARES and not 0 < number <= 1:
        right = "must be a share of the dense network's, above 0 and at most 1"
        raise ConfigError(f"--{quantity}: {shown(text)}; {right}")
    if quantity == "speedup" and number < 1:
        raise ConfigError(f"--speedup: {shown(text)}; must be at least 1, as many times as fast as the dense network")
    if limit == math.inf:
        raise ConfigError(
            f"--{quantity}: {shown(text)} is larger than any number; must be such as {_EXAMPLES[quantity]}"
        )
    if not limit > 0:
        raise ConfigError(f"--{quantity}: {shown(text)}; must be above 0, such as {_EXAMPLES[quantity]}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
