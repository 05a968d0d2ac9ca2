"""Registered changes of a training's start weights on the kept positions: the controls of an experiment."""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from prunetune.registry import Registry
from prunetune.sparsity.mask import Mask

State = Mapping[str, Tensor]
TRANSFORMS: Registry[Callable[[State, Mask, Generator], dict[str, Tensor]]] = Registry("transform")


@TRANSFORMS.register("shuffle")
def shuffle(state: State, mask: Mask, generator: Generator) -> dict[str, Tensor]:
    """Permute each layer's surviving weights among their positions: the layer keeps its distribution and its mask.

    `state` and `mask` map names to CPU tensors. Everything that the mask does not keep (pruned weights, biases,
    normalisation) stays as it is. Returns new tensors; the draws go through the layers in the order of their names.
    """
    new = {name: tensor.clone() for name, tensor in state.items()}
    for name in sorted(mask):
        survivors = state[name][mask[name]]
        new[name][mask[name]] = survivors[torch.randperm(len(survivors), generator=generator)]
    return new
