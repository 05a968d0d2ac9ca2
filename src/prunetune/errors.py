"""The ways prunetune refuses or fails, each of which a caller can tell from the others."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, TypeVar
from warnings import warn

__all__ = ["ConfigError", "CorruptionError", "DivergedSourceError", "InvariantError"]

T = TypeVar("T")

LONGEST_LINE = 1000  # characters of an error, whatever it quotes
LONGEST_SHOWN = 60  # of a value in it
_FIELD = re.compile(r"(--[\w-]+)|([^\s'\":]+): ")
_MOST_NAMES = 30  # that are listed where none is near


class ConfigError(ValueError):
    """The request was wrong: one clear line naming the field, the value and what would be right (exit code 2).

    Whatever it quotes of a hostile file or name, it is one line of printable characters, and not a long one.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))

    @property
    def field(self) -> str:
        """What the line is about: the field, option or file that it begins with, '' where it begins with none.

        >>> ConfigError("recipe.epochs: -1; must be at least 1").field
        'recipe.epochs'
        """
        found = _FIELD.match(str(self))
        return (found[1] or found[2]) if found else ""


class InvariantError(RuntimeError):
    """An invariant of the experiment was broken: the result would be a silent lie, so the step fails (exit code 1)."""


class DivergedSourceError(RuntimeError):
    """A mask or a start was asked from a diverged training: an answer and no failure, and what needs it is not run."""


class CorruptionError(RuntimeError):
    """Something read from a store is not what was written there."""


def given(value: T | None, why: str) -> T:
    """`value`, which is not None because of `why`; RuntimeError, which is a fault of prunetune, where it is."""
    if value is None:
        raise RuntimeError(f"a value is missing though {why}: a fault of prunetune")
    return value


def unknown(field: str, value: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names[:_MOST_NAMES])}{more}"
    return ConfigError(f"{short(field)}: unknown {shown(str(value))}; {hint}")


def one_line(text: object, longest: int = LONGEST_LINE) -> str:
    """A text on one line, what cannot be printed escaped, the middle left out where it is longer than `longest`.

    >>> one_line("two\\nlines, and a bell: \\a"), one_line("0123456789", longest=7)
    ('two lines, and a bell: \\\\x07', '012…789')
    """
    words = " ".join(str(text).split())
    if not words.isprintable():  # an escape sequence would be obeyed by a terminal
        words = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    half = longest // 2
    return words if len(words) <= longest else f"{words[: longest - half - 1]}…{words[len(words) - half :]}"


def printable(text: object) -> str:
    """A text of lines as it may be printed: what a terminal would obey (escape sequences, bells) is escaped.

    >>> printable("two\\nlines, and red: \\x1b[31m")
    'two\\nlines, and red: \\\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" or _is_space(c) else ascii(c)[1:-1] for c in str(text))


def _is_space(character: str) -> bool:
    return unicodedata.category(character) == "Zs"  # no-break and thin spaces, which Python takes for unprintable


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun, `one` or `many` (else `one` with an s).

    >>> counted(1, "epoch"), counted(1024, "epoch"), counted(2, "study", "studies")
    ('1 epoch', '1024 epochs', '2 studies')
    """
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def short(text: str) -> str:
    """The beginning of a text, on one line, as an error quotes it."""
    line = one_line(text)
    return line if len(line) <= LONGEST_SHOWN else f"{line[: LONGEST_SHOWN - 1]}…"


def shown(value: object) -> str:
    """A value as an error quotes it: as Python writes it, short, on one line."""
    try:
        return short(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, lists as deep
        return f"<{type(value).__name__} too long to be shown>"


# Names of 0.1, for one minor version: programs catch these.
_DEPRECATED = {"RequestError": "ConfigError", "BreachError": "InvariantError", "DamageError": "CorruptionError"}


def __getattr__(name: str) -> Any:
    if name not in _DEPRECATED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    warn(f"{__name__}.{name} is named {__name__}.{_DEPRECATED[name]} now", DeprecationWarning, stacklevel=2)
    return globals()[_DEPRECATED[name]]
