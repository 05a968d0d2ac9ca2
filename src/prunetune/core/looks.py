"""At which numbers of seeds a study that may grow is looked at."""


def looks(least: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study that starts with `least` is judged: in batches of so many, up to `most`.

    >>> looks(5, 20), looks(4, 10)
    ((5, 10, 15, 20), (4, 8, 10))
    """
    return (*range(least, most, least), most)
