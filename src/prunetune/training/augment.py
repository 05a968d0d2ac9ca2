"""Random changes of training images, for a whole batch at once on the device of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunetune.core.registry import Registry
from prunetune.core.seeding import generator

PADDING = 4  # pixels on every side before the random crop, as in He et al. 2016 (arXiv 1512.03385, section 4.2)


@dataclass(frozen=True)
class Augmentation:
    """`draw(n, generator)` gives the draws of n images, n rows; `apply(images, draws)` changes a batch by its rows.

    Images have shape (N, C, H, W); they come as stored, so raw uint8 where normalisation is still to follow.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]


AUGMENTATIONS: Registry[Augmentation] = Registry("augment")
"""Augmentations by name."""


def crop(images: Tensor, corners: Tensor) -> Tensor:
    """Shift every image: pad 4 pixels of 0 on all sides, cut the old size at (row, column) `corners`, int64 (N, 2)."""
    height, width = images.shape[2:]
    windows = F.pad(images, (PADDING,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 9, 9, H, W), a view
    return windows[torch.arange(len(images), device=images.device), :, corners[:, 0], corners[:, 1]]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the images left to right where `chosen`, bool of shape (N,)."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


AUGMENTATIONS.register("crop")(Augmentation(lambda n, g: torch.randint(2 * PADDING + 1, (n, 2), generator=g), crop))
AUGMENTATIONS.register("flip")(Augmentation(lambda n, g: torch.rand(n, generator=g) < 0.5, flip))


class EpochAugmentation:
    """All draws of the augmentations `names` for the `n` images of one epoch, in the order of their use.

    Each augmentation draws from its own CPU generator, seeded by (augment_seed, epoch, name), so that the draws are the
    same on every device and do not depend on which other augmentations are on.
    """

    def __init__(self, names: Sequence[str], augment_seed: int, epoch: int, n: int, device: torch.device) -> None:
        augmentations = [(AUGMENTATIONS[name], generator("augment", augment_seed, epoch, name)) for name in names]
        self._drawn = [item.draw(n, source).to(device) for item, source in augmentations]

    def draws(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The rows of the epoch's images number `start` to `stop`, of each augmentation."""
        return tuple(drawn[start:stop] for drawn in self._drawn)


def augmented(images: Tensor, names: Sequence[str], draws: Sequence[Tensor]) -> Tensor:
    """A batch changed by the augmentations `names` in turn, each by its draws."""
    for name, drawn in zip(names, draws, strict=True):
        images = AUGMENTATIONS[name].apply(images, drawn)
    return images
