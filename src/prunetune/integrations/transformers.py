"""Pruning inside Hugging Face's `transformers.Trainer`."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.errors import ConfigError
from prunetune.integrations.pruner import Pruner, measured_density

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    extra = "prunetune[transformers]"
    raise ConfigError(f"this adapter needs the extra {extra}: pip install '{extra}'") from error

__all__ = ["PruneCallback"]

_KEY = "prunetune_mask"


class PruneCallback(Pruner, TrainerCallback):
    """Prune at the start of an epoch, log the density, keep the mask in the Trainer's checkpoints.

    The mask travels in `trainer_state.json`, a bit per weight, and `train(resume_from_checkpoint=...)` puts it in force
    again, in a fresh process too. The density stands as `density` in every entry of the log. At the end of a training,
    InvariantError when a zero was lost and ConfigError when `epoch` never came. ConfigError at its start for
    `load_best_model_at_end` with a later `epoch`: the best model could be one from before the pruning.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the mask of a checkpoint in force, and take over one that is already."""
        if args.load_best_model_at_end and self._epoch > 0:
            raise ConfigError(
                f"load_best_model_at_end: the best model may be one from before epoch {self._epoch}, where it is pruned"
            )
        stored = _notes(state).get(_KEY)
        self._begin(kwargs["model"], _unpack(stored) if stored is not None else None)
        self._note(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prune when the epoch has come."""
        self._prune_in(state.epoch, kwargs["model"])
        self._note(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the measured density to what is logged and to the history."""
        if self._mask is not None:
            density = measured_density(kwargs["model"], self._mask)
            kwargs["logs"]["density"] = state.log_history[-1]["density"] = density

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prove that the zeros are there."""
        self._end(kwargs["model"])

    def _note(self, state: TrainerState) -> None:
        if self._mask is not None:
            _notes(state)[_KEY] = _pack(self._mask)


def _notes(state: TrainerState) -> dict[str, Any]:
    """What the Trainer writes with every checkpoint and reads again; a list only before TrainerState has seen it."""
    notes: Any = state.stateful_callbacks
    return notes


def _pack(mask: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: [list(keep.shape), base64.b64encode(np.packbits(keep.numpy()).tobytes()).decode()]
        for name, keep in mask.items()
    }


def _unpack(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: _bits(torch.Size(shape), text) for name, (shape, text) in packed.items()}


def _bits(shape: torch.Size, text: str) -> Tensor:
    packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(packed, count=shape.numel()).astype(bool)).reshape(shape)
