"""What a mapping may hold before anything looks into it: plain values, no deeper, larger or stranger than people write.

Most of Python, and of what a spec's fields are passed to, takes these for granted: a path holds no NUL, a number can
be written in decimals, a list can be compared with another without exhausting the stack.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prunetune.errors import RequestError, short, shown

DEEPEST = 20  # levels of lists and mappings
_LARGEST = 2**63 - 1  # whole number, of either sign
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class _Place(NamedTuple):
    path: tuple[Any, ...]
    value: Any


def require_plain(value: Mapping[Any, Any]) -> None:
    """RequestError, naming the field, for what no spec can mean.

    That is: more than DEEPEST levels (also where something holds itself), control characters or half a character in a
    text, whole numbers of more than 63 bits, bytes, sets, and names that are neither texts nor numbers.
    """
    level = [_Place((), value)]
    for _ in range(DEEPEST + 1):
        level = [inner for place in level for inner in _within(place)]
        if not level:
            return
    raise RequestError(f"{_name(level[0].path)}: more than {DEEPEST} lists and mappings within one another")


def _within(place: _Place) -> Iterator[_Place]:
    """What a list or a mapping holds, each value of it found to be plain by itself."""
    path, value = place
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int | float | None):
                raise RequestError(f"{_name((*path, key))}: the name {shown(key)}; must be a text")
            _require_plain((*path, key), key)
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            _require_plain((*path, key), inner)
            yield _Place((*path, key), inner)


def _require_plain(path: tuple[Any, ...], value: Any) -> None:
    if isinstance(value, str) and (found := _CONTROL.search(value)):
        raise RequestError(f"{_name(path)}: {shown(value)}; must be a text without {shown(found[0])}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise RequestError(f"{_name(path)}: {shown(value)}; must be a number of at most 18 digits")
    if isinstance(value, bytes | bytearray | set | frozenset):
        raise RequestError(f"{_name(path)}: {shown(value)}; must be a text, a number, a list or a mapping")


def _name(path: tuple[Any, ...]) -> str:
    """The field's dotted path; of a long one its beginning."""
    return ".".join(short(key) if isinstance(key, str) else shown(key) for key in path[:6]) or "spec"
