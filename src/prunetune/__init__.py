"""prunetune: what should my sparse network be trained from?

    audit            run a study: dense training, masks, arms, verdict, report
    compress         prune and fine-tune a model, measure what that costs and wins, export it
    sensitivity      which layers cost the most when pruned alone
    recommend        advice for one model from the evidence at hand
    compute_mask     choose which weights stay
    apply_mask       set the others to zero and keep them there in any training; remove_mask ends it
    get_mask         the mask that a model is held by
    list_parameters  what may be pruned, and why the rest may not
    correlation      R_p: the share of the largest weights that two states have in common
    sparsity_report  what is left, layer by layer
    export           ONNX, safetensors and other forms

Each name is imported on first use, so `import prunetune` imports no torch.
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
