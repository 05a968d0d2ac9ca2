"""What the system and torch say when memory is short, as one line that names what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from prunetune.errors import RequestError

# torch has a class of its own for accelerators alone; its CPU allocator and the libraries below raise RuntimeError
_SHORT = re.compile(r"can't allocate memory|out of memory|bad_alloc|ALLOC_FAILED")
_ASKED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """RequestError `WHAT take more memory than there is …; ADVICE` in the place of any error that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        asked = _ASKED.search(str(error))
        amount = f" ({asked[1]} at once)" if asked else ""
        raise RequestError(f"{what} take more memory than there is{amount}; {advice}") from error


def is_short(error: Exception) -> bool:
    """Whether an exception says that memory is short."""
    return isinstance(error, MemoryError) or bool(isinstance(error, RuntimeError) and _SHORT.search(str(error)))
