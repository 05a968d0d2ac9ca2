"""What numbers of a request may be, whoever asks."""

from typing import Annotated

from pydantic import Field

MOST = 1_000_000  # of whatever is counted: more is a slip, or meant to keep a machine busy for ever
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # an integer is one, a bool is not
