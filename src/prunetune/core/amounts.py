"""Counts and bytes as a reader gets them: a few digits with a decimal prefix."""


def scaled(count: float) -> str:
    """Three or four digits with a decimal prefix, before a unit.

    >>> scaled(2_410_000), scaled(398_100), scaled(7)
    ('2.41 M', '398.1 k', '7 ')
    """
    for prefix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= unit:
            return f"{count / unit:.{1 if count >= 100 * unit else 2}f} {prefix}"
    return f"{count:.0f} "


def size(count: int) -> str:
    """Bytes.

    >>> size(54_812_345), size(0)
    ('54.81 MB', '0 B')
    """
    return f"{scaled(count)}B"
