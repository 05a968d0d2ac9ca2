"""prunetune: what should my sparse network be trained from?

The public names are those of `__init__.pyi`. Each is imported on first use, so `import prunetune` imports no torch.
"""

from typing import Any
from warnings import warn

from prunetune.core.lazy import lazy_exports

__version__ = "0.2.0"

_exported, __dir__, __all__ = lazy_exports(__name__)

# Names of 0.1, for one minor version.
_DEPRECATED = {
    "prune": "compute_mask",
    "hold": "apply_mask",
    "release": "remove_mask",
    "held_mask": "get_mask",
    "survey": "list_parameters",
}


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        new = _DEPRECATED[name]
        warn(f"prunetune.{name} is named prunetune.{new} now", DeprecationWarning, stacklevel=2)
        name = new
    return _exported(name)
