"""Pruning inside `lightning.pytorch.Trainer.fit`."""

from typing import Any

from prunetune.adapters.pruner import Pruner, in_force, measured_density
from prunetune.errors import RequestError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    extra = "prunetune[lightning]"
    raise RequestError(f"this adapter needs the extra {extra}: pip install '{extra}'") from error

_KEY = "prunetune_mask"


class PruneCallback(Pruner, Callback):
    """Prune at the start of an epoch, log the density after every epoch, keep the mask in Lightning's checkpoints.

    Names are those of the LightningModule (`net.0.weight`). The mask travels under `prunetune_mask` in every
    checkpoint, and `fit`, `validate` and `test` with `ckpt_path` put it in force again, in a fresh process too. The
    density is logged as `density`. At the end of a training, BreachError when a zero was lost and RequestError when
    `epoch` never came.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over a mask that is in force already."""
        self._begin(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune when the epoch has come."""
        self._prune_in(trainer.current_epoch, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measured density."""
        if self._mask is not None:
            pl_module.log("density", measured_density(pl_module, self._mask))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prove that the zeros are there."""
        self._end(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the mask that is in force."""
        if (mask := in_force(pl_module)) is not None:
            checkpoint[_KEY] = dict(mask)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the mask of the checkpoint in force."""
        self._begin(pl_module, checkpoint.get(_KEY))
