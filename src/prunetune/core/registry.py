"""One registry for everything that can be added: criteria, allocations, mask algorithms, arms, models, data sets."""

from collections.abc import Callable, Iterator, Set
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from prunetune.errors import ConfigError, unknown

T = TypeVar("T")
Item = TypeVar("Item")


class Registry(Generic[T]):
    """Names to things of one kind; other packages add theirs through the entry-point group `prunetune.<kind>`.

    A name that two things claim stands for neither, so that an installed package cannot change in silence what a study
    means, nor seem to: asking for it is a ConfigError, as for a thing that cannot be loaded, and all other names work.

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red(): return "#f00"
    >>> colours["red"]()
    '#f00'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._refused: dict[str, str] = {}  # why
        self._entry_points_read = False

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator that files a thing under `name`; a name taken by something else raises ValueError."""

        def file(item: Item) -> Item:  # the very thing, with its own type: a registered class is still that class
            if self._items.setdefault(name, cast(T, item)) is not item:
                raise ValueError(f"{self.kind} '{name}' is registered already")
            return item

        return file

    def __getitem__(self, name: str) -> T:
        """The thing called `name`; ConfigError with the nearest known name when there is none, or where two are."""
        names = self._names()
        if name in self._refused:
            raise ConfigError(self._refused[name])
        if name not in names:
            raise unknown(self.kind, name, names)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def _names(self) -> Set[str]:
        if not self._entry_points_read:
            self._entry_points_read = True
            for point in entry_points(group=f"prunetune.{self.kind}"):
                self._take(point)
        return self._items.keys() | self._refused.keys()

    def _take(self, point: EntryPoint) -> None:
        try:
            thing = point.load()
        except Exception as error:  # another package's code may fail in any way
            why = f"cannot be loaded: {type(error).__name__}: {error}"
            self._refused[point.name] = f"{self.kind}: '{point.name}' ({point.value}) {why}"
            return
        if self._items.setdefault(point.name, thing) is not thing:
            self._refused[point.name] = self._two(point)

    def _two(self, point: EntryPoint) -> str:
        package = f"the package '{point.dist.name}'" if point.dist else "another package"
        what = f"is registered already, and {package} brings another ({point.value})"
        return f"{self.kind}: '{point.name}' {what}; uninstall the package, or have it use another name"
