"""Names with arguments, and the `package.module:callable` form in which users bring their own code."""

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunetune.errors import ConfigError

NOT_KEYED = {"keyed": False}  # metadata of a field that says where something lies and not what it is
KEYED_WHERE_SET: dict[str, bool] = {"keyed_where_set": True}
"""Of what a key gained after stores held such steps: it is left out where it says nothing new, so that old keys stay.

As metadata of a step's field: where it is None. In a registered builder's `Annotated[int, KEYED_WHERE_SET]`: where the
argument has its default.
"""


@dataclass(frozen=True)
class Ref:
    """A registered name or a `package.module:callable`, with its arguments.

    `arguments` is canonical JSON, so that a Ref is hashable and has one spelling. `digest` stands for what the name
    does not pin down by itself: the source of a user's callable and the parameter shapes it builds, or the content
    of a data set that has no official checksum.
    """

    name: str
    arguments: str = "{}"
    digest: str = ""
    root: str = field(default="", metadata=NOT_KEYED)

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any] | None = None, digest: str = "", root: str = "") -> "Ref":
        """Build a Ref from plain arguments (JSON values)."""
        return cls(name, json.dumps(dict(arguments or {}), sort_keys=True), digest, root)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments as keyword arguments."""
        return json.loads(self.arguments)


def is_callable_name(name: str) -> bool:
    """Whether `name` has the form `package.module:callable`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def load_callable(name: str, field: str) -> Callable[..., Any]:
    """Import `package.module:callable`. This runs the user's code, as any import does.

    Raises ConfigError naming `field` when the module or the attribute is missing, fails, or is not callable.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{field}: cannot import '{name}': {error}") from error
    except (Exception, SystemExit) as error:  # a user's module may do anything when it is imported
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{field}: cannot import '{name}': {why}") from error
    if not callable(found):
        raise ConfigError(f"{field}: '{name}' is a {type(found).__name__}; it must be callable")
    return found


def source_digest(function: Callable[..., Any]) -> str:
    """SHA-256 of the source file of the module that defines `function`: a user's code enters a step's key by this.

    Raises ConfigError for what no single source file defines: compiled code, a `functools.partial`, an object with
    `__call__`. Their key would stay the same when they change.
    """
    definition = inspect.unwrap(function)
    is_defined = inspect.isfunction(definition) or inspect.ismethod(definition) or inspect.isclass(definition)
    source = inspect.getsourcefile(definition) if is_defined else None
    if source is None:
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigError(f"'{name}' has no source to identify it by; give a function or a class written in Python")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()
