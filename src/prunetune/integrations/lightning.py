"""Pruning inside `lightning.pytorch.Trainer.fit`."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from prunetune.errors import ConfigError
from prunetune.integrations.pruner import Pruner, in_force, measured_density
from prunetune.sparsity.enforce import apply_mask
from prunetune.sparsity.mask import Mask

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    extra = "prunetune[lightning]"
    raise ConfigError(f"this adapter needs the extra {extra}: pip install '{extra}'") from error

__all__ = ["PruneCallback"]

_KEY = "prunetune_mask"


def _hold_alike(average: nn.Module, mask: Mask) -> None:
    """Hold the mask in a copy of the module, bare or within an `AveragedModel`; leave any other module alone."""
    inner = average.module if isinstance(average, AveragedModel) else average
    shapes = {name: parameter.shape for name, parameter in inner.named_parameters()}
    if all(shapes.get(name) == keep.shape for name, keep in mask.items()) and in_force(inner) != mask:
        apply_mask(inner, mask)


class PruneCallback(Pruner, Callback):
    """Prune at the start of an epoch, log the density after every epoch, keep the mask in Lightning's checkpoints.

    Names are those of the LightningModule (`net.0.weight`). The mask travels under `prunetune_mask` in every
    checkpoint, and `fit`, `validate` and `test` with `ckpt_path` put it in force again, in a fresh process too. The
    density is logged as `density`. At the end of a training, InvariantError when a zero was lost and ConfigError when
    `epoch` never came.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over a mask that is in force already."""
        self._begin(pl_module)
        self._hold_averages(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune when the epoch has come."""
        self._prune_in(trainer.current_epoch, pl_module)
        self._hold_averages(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measured density."""
        if (mask := in_force(pl_module) or self._mask) is not None:
            pl_module.log("density", measured_density(pl_module, mask))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prove that the zeros are there."""
        self._end(pl_module)

    def _hold_averages(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the mask in averages of the weights too, which other callbacks write into the module now and then."""
        if (mask := in_force(pl_module)) is None:
            return
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            for average in vars(callback).values():
                if isinstance(average, nn.Module) and average is not pl_module:
                    _hold_alike(average, mask)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the mask that is in force."""
        if (mask := in_force(pl_module)) is not None:
            checkpoint[_KEY] = dict(mask)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the mask of the checkpoint in force."""
        self._begin(pl_module, checkpoint.get(_KEY))
