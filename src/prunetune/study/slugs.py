"""Names as parts of file names."""

import re


def slug(name: str) -> str:
    """A name as a part of a file's name.

    >>> slug("admm@0.1"), slug("../../<b>")
    ('admm-0-1', '-b-')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)
