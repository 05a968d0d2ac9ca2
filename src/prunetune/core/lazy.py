"""Lazy exports of a package: the names in its `__init__.pyi`, each imported on first use."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose stub lists its public names.

    The stub `__init__.pyi` has one line for each name, `from prunetune.sparsity.mask import Mask as Mask`, which type
    checkers and editors read as well, so a name is written once. A public name may not be that of a module of the
    package: importing the module would put the module in its place.

    >>> __getattr__, __dir__, __all__ = lazy_exports("prunetune")
    >>> "Mask" in __all__, __getattr__("Mask").__name__
    (True, 'Mask')
    """
    stub = Path(str(sys.modules[package].__file__)).with_suffix(".pyi")
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    def dir_() -> list[str]:
        """The public names, and those that every module has."""
        return sorted({*(name for name in vars(sys.modules[package]) if name.startswith("__")), *homes})

    return getattr_, dir_, sorted(homes)
