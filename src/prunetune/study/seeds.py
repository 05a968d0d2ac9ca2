"""Every seed of a study, derived from one number and a purpose, so that no two uses share a random stream.

And at which numbers of seeds a study that may grow is looked at.
"""

import hashlib


def derive(seed: int, purpose: str) -> int:
    """63 bits that follow from a study's seed and what they are for: `init`, `reinit`, `order`, `augment`...

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "reinit")
    (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def looks(least: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study that starts with `least` is judged: in batches of so many, up to `most`.

    >>> looks(5, 20), looks(4, 10)
    ((5, 10, 15, 20), (4, 8, 10))
    """
    return (*range(least, most, least), most)
