"""prunetune: what should my sparse network be trained from?

The names below are the public interface; each is imported on first use, so that `import prunetune` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunetune.advice import recommend
    from prunetune.api import audit
    from prunetune.deploy.export import export
    from prunetune.deploy.summary import sparsity_report
    from prunetune.sparsity.enforce import held_mask, hold, release
    from prunetune.sparsity.mask import Mask
    from prunetune.sparsity.overlap import correlation
    from prunetune.sparsity.prune import prune
    from prunetune.sparsity.scope import Scope, survey

__version__ = "0.1.0"

_HOME = {
    "audit": "prunetune.api",
    "export": "prunetune.deploy.export",
    "sparsity_report": "prunetune.deploy.summary",
    "recommend": "prunetune.advice",
    "prune": "prunetune.sparsity.prune",
    "held_mask": "prunetune.sparsity.enforce",
    "hold": "prunetune.sparsity.enforce",
    "release": "prunetune.sparsity.enforce",
    "Mask": "prunetune.sparsity.mask",
    "correlation": "prunetune.sparsity.overlap",
    "Scope": "prunetune.sparsity.scope",
    "survey": "prunetune.sparsity.scope",
}

__all__ = [
    "Mask",
    "Scope",
    "audit",
    "correlation",
    "export",
    "held_mask",
    "hold",
    "prune",
    "recommend",
    "release",
    "sparsity_report",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'prunetune' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
