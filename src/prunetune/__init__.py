"""prunetune: what should my sparse network be trained from?

The names below are the public interface; each is imported on first use, so that `import prunetune` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

if TYPE_CHECKING:
    from prunetune.advice import recommend
    from prunetune.api import audit
    from prunetune.deploy.export import export
    from prunetune.deploy.summary import sparsity_report
    from prunetune.sparsity.correlation import correlation
    from prunetune.sparsity.enforce import apply_mask, get_mask, remove_mask
    from prunetune.sparsity.mask import Mask
    from prunetune.sparsity.prune import compute_mask
    from prunetune.sparsity.scope import Scope, list_parameters

__version__ = "0.1.0"

_HOME = {
    "audit": "prunetune.api",
    "export": "prunetune.deploy.export",
    "sparsity_report": "prunetune.deploy.summary",
    "recommend": "prunetune.advice",
    "compute_mask": "prunetune.sparsity.prune",
    "get_mask": "prunetune.sparsity.enforce",
    "apply_mask": "prunetune.sparsity.enforce",
    "remove_mask": "prunetune.sparsity.enforce",
    "Mask": "prunetune.sparsity.mask",
    "correlation": "prunetune.sparsity.correlation",
    "Scope": "prunetune.sparsity.scope",
    "list_parameters": "prunetune.sparsity.scope",
}

__all__ = [
    "Mask",
    "Scope",
    "apply_mask",
    "audit",
    "compute_mask",
    "correlation",
    "export",
    "get_mask",
    "list_parameters",
    "recommend",
    "remove_mask",
    "sparsity_report",
]

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
    if name not in _HOME:
        raise AttributeError(f"module 'prunetune' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
