"""What the criterion of a Prune step sees beyond the weights: the step's network, shown the step's probe."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunetune.sparsity.choose import Look
from prunetune.sparsity.criteria import Criterion
from prunetune.sparsity.evidence import Gathered, gather
from prunetune.sparsity.mask import Mask
from prunetune.study.steps import Import, Init, Probe
from prunetune.train.data import load
from prunetune.train.numerics import reproducible
from prunetune.train.objective import loss_by
from prunetune.train.order import OrderDigest
from prunetune.train.probe import batches_of, pick


def look_of(probe: Probe | None, model: nn.Module, beginning: Init | Import, names: Sequence[str]) -> Look:
    """How `choose` sees `model`: by the probe's images and loss, or without a probe by the shape of an input alone."""
    device = torch.device(probe.device if probe else "cpu")
    model.to(device)
    batches = _batches(probe) if probe else [(torch.zeros(1, *beginning.input_shape), torch.zeros(1))]
    loss, seed = (loss_by(probe.loss), probe.seed) if probe else (loss_by(None), 0)

    def look(criterion: Criterion, mask: Mask | None) -> Gathered:
        with reproducible(device):
            return gather(model, names, criterion, batches, loss, mask, seed)

    return look


def probe_metrics(probe: Probe | None) -> dict[str, str]:
    """The digest of the training images that the criterion was shown; nothing without a probe."""
    if probe is None:
        return {}
    digest = OrderDigest()
    digest.update(_shown(probe))
    return {"probe_digest": digest.hexdigest()}


def _batches(probe: Probe) -> list[tuple[Tensor, Tensor]]:
    return batches_of(load(probe.data), _shown(probe), probe.batch_size, probe.device)


def _shown(probe: Probe) -> Tensor:
    return pick(load(probe.data).train_labels, probe.images, probe.seed)
