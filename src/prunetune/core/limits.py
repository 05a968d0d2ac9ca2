"""What numbers of a request may be, and at which numbers of seeds a study that may grow is judged."""

from typing import Annotated

from pydantic import Field

DIGITS = 12  # to which what is computed of sparsities and epochs is rounded: 1 - 0.15 is 0.85 and nothing beside it
MAX_COUNT = 1_000_000  # of whatever is counted: more is a slip, or meant to keep a machine busy for ever
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # an integer is one, a bool is not


def looks(least: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study that starts with `least` is judged: in batches of so many, up to `most`.

    >>> looks(5, 20), looks(4, 10)
    ((5, 10, 15, 20), (4, 8, 10))
    """
    return (*range(least, most, least), most)
