"""The ways prunetune refuses or fails, each of which a caller can tell from the others."""

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """The request was wrong: one clear line naming the field, the value and what would be right (exit code 2)."""


class BreachError(RuntimeError):
    """An invariant of the experiment was broken: the result would be a silent lie, so the step fails (exit code 1)."""


class DivergedSourceError(RuntimeError):
    """A mask or a start was asked from a diverged training: an answer and no failure, and what needs it is not run."""


class DamageError(RuntimeError):
    """Something read from a store is not what was written there."""


def unknown(field: str, value: object, known: Iterable[str]) -> RequestError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return RequestError(f"{field}: unknown '{value}'; {hint}")
