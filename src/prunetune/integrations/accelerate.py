"""The mask in `accelerator.save_state` and `load_state`: what `apply_mask` lacks in a loop of Accelerate."""

from typing import Any

from torch import nn

from prunetune.errors import ConfigError
from prunetune.sparsity.argument_checks import require_module
from prunetune.sparsity.enforce import apply_mask, get_mask, masks_gradients

__all__ = ["MaskState"]

try:
    from accelerate.utils import extract_model_from_parallel
except ImportError as error:
    extra = "prunetune[transformers]"
    raise ConfigError(f"this adapter needs the extra {extra}: pip install '{extra}'") from error


class MaskState:
    """`accelerator.register_for_checkpointing(MaskState(model))`: the held mask is saved, and in force after loading.

    `model` may be prepared already or not: names are those of the plain model. ConfigError when a state is saved while
    nothing is held.
    """

    def __init__(self, model: nn.Module) -> None:
        require_module(model)
        self._model = extract_model_from_parallel(model, keep_torch_compile=False)

    def state_dict(self) -> dict[str, Any]:
        """`mask`: parameter name -> bool tensor, True = kept; `gradients`: whether gradients are masked too."""
        return {"mask": dict(get_mask(self._model)), "gradients": masks_gradients(self._model)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what was held, and as it was; Accelerate has loaded the weights by then.

        A state of an earlier version is the mask alone, and gradients were left alone.
        """
        is_mask_alone = "gradients" not in state
        mask = state if is_mask_alone else state["mask"]
        apply_mask(self._model, mask, gradients=not is_mask_alone and state["gradients"])
