"""Every seed of a study, derived from one number and a purpose, so that no two uses share a random stream."""

import hashlib


def derive(seed: int, purpose: str) -> int:
    """63 bits that follow from a study's seed and what they are for: `init`, `reinit`, `order`, `augment`...

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "reinit")
    (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
