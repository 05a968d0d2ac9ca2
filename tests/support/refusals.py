"""How tests say what a wrong request is refused for: by its field and the values named, not by the sentence.

The sentences that users meet most stand word by word in tests/golden/refusals.txt, and only there.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prunetune.errors import ConfigError


@contextmanager
def refused(field: str, *mentions: object) -> Iterator[pytest.ExceptionInfo[ConfigError]]:
    """What is inside raises ConfigError about `field`, in one line that names each of `mentions`.

    A mention is a value, or a word that tells this refusal from others of the same field; it is found whole, so that 5
    is not in 15.
    """
    with pytest.raises(ConfigError) as caught:
        yield caught
    assert_refusal(caught.value, field, *mentions)


def assert_refusal(error: ConfigError, field: str, *mentions: object) -> None:
    """The field, the one line and the mentions of an error."""
    line = str(error)
    assert error.field == field, line
    assert line.isprintable(), line
    missing = [mention for mention in mentions if not names(line, mention)]
    assert not missing, f"{missing} not in: {line}"


def names(line: str, mention: object) -> bool:
    """Whether a line names a value or a word, whole: 5 is neither in 15 nor in 5.5."""
    text = str(mention)
    before = r"(?<!\w)(?<!\d[.,])" if text[:1].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if text[-1:].isalnum() else ""
    return re.search(before + re.escape(text) + after, line) is not None
