"""Checks of what a caller hands over: an error is one line that names the argument, the value and what is right."""

import math
import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import cast

from torch import nn

from prunetune.errors import ConfigError, shown


def wrong_type(argument: str, value: object, right: str) -> ConfigError:
    """The error for a value of a type that `argument` does not take; `right` says what it takes."""
    kind = "class" if isinstance(value, type) else type(value).__name__
    what = "None" if value is None else f"{shown(value)} is a {kind}"
    return ConfigError(f"{argument}: {what}; must be {right}")


def require_type(argument: str, value: object, types: type | tuple[type, ...], right: str) -> None:
    """ConfigError unless the value is an instance of `types`, which `right` says in words."""
    if not isinstance(value, types):
        raise wrong_type(argument, value, right)


def require_module(model: object, argument: str = "model") -> None:
    """ConfigError unless it is a module."""
    require_type(argument, model, nn.Module, "a torch.nn.Module")


def as_number(argument: str, value: object, example: float) -> float:
    """A number, or a tensor of one; ConfigError for a text, as argparse hands it over without `type=float`."""
    right = f"a number, such as {example:g}"
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise wrong_type(argument, value, right)
    try:
        return float(value)  # pyright: ignore[reportArgumentType] - it has __float__
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a tensor of several numbers
        raise wrong_type(argument, value, right) from error


def as_share(argument: str, value: object, what: str, example: float) -> float:
    """A number in (0, 1), such as a share of weights; `what` says of what it is a share."""
    number = as_number(argument, value, example)
    if not 0 < number < 1:
        raise ConfigError(f"{argument}: {number} is not {what}; it must lie in (0, 1)")
    return number


def as_positive(argument: str, value: object, example: float) -> float:
    """A finite number above 0."""
    number = as_number(argument, value, example)
    if not 0 < number < math.inf:
        raise ConfigError(f"{argument}: {number:g}; must be above 0, such as {example:g}")
    return number


def as_count(argument: str, value: object, example: int) -> int:
    """A whole number of at least 1; ConfigError for a text or a bool."""
    right = f"a whole number of at least 1, such as {example}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong_type(argument, value, right)
    if value < 1:
        raise ConfigError(f"{argument}: {shown(value)}; must be {right}")
    return int(value)


def as_names(argument: str, value: object, example: str) -> tuple[str, ...]:
    """Names, each once; ConfigError for a text, whose letters would be taken for names."""
    right = f"a list of names, such as ['{example}']"
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise wrong_type(argument, value, right)
    names = dict.fromkeys(cast(Iterable[str], value))
    for name in names:
        require_type(argument, name, str, right)
    return tuple(names)


def as_path(argument: str, value: object, example: str) -> Path:
    """A path with `~` resolved; ConfigError for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise wrong_type(argument, value, f"a path, such as '{example}'")
    return Path(value).expanduser()  # pyright: ignore[reportUnknownArgumentType] - of text, or pathlib raises
