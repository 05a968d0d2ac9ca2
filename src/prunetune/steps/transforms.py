"""Registered changes of a training's start weights, for the controls of an experiment.

A transform is a function of the stored state, the mask and a generator to a new state. One that mixes two states takes
the second one, also as it was stored, as a fourth argument; settings come by keyword. What it does where the mask
prunes does not matter.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from prunetune.core.registry import Registry
from prunetune.sparsity.mask import Mask

State = Mapping[str, Tensor]
TRANSFORMS: Registry[Callable[..., dict[str, Tensor]]] = Registry("transform")
"""Transforms of start weights by name, for controls: state, mask, generator (and a second state) to weights."""


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


@TRANSFORMS.register("sign_reinit")
def sign_reinit(state: State, mask: Mask, generator: Generator, second: State) -> dict[str, Tensor]:
    """The magnitudes of `state` with the signs of `second`, bit for bit (after Zhou et al. 2019).

    That holds for every floating tensor of two or more dimensions, the weights of layers that are never pruned (the
    first convolution) included. Biases, normalisation and buffers are those of `state`. Returns new tensors; draws
    nothing.

    >>> sign_reinit({"w": torch.tensor([[3.0, -2.0]])}, {}, Generator(), {"w": torch.tensor([[-1.0, -1.0]])})
    {'w': tensor([[-3., -2.]])}
    """
    return {
        name: torch.copysign(tensor, second[name]) if has_signs(tensor) else tensor.clone()
        for name, tensor in state.items()
    }


def has_signs(tensor: Tensor) -> bool:
    """Whether a tensor of a state is a weight whose signs `sign_reinit` takes from the second state."""
    return tensor.dim() >= 2 and tensor.is_floating_point()


@TRANSFORMS.register("mixed")
def mixed(state: State, mask: Mask, generator: Generator, second: State, *, alpha: float) -> dict[str, Tensor]:
    """`alpha`·`second` + √(1 − `alpha`²)·`state`, entry by entry: for two draws of one initialiser, a third one.

    For independent draws with mean 0, the mean and the variance of every entry stay and its correlation with `second`
    is `alpha`. A normal distribution stays as a whole. Another one keeps no more than mean and variance: two uniform
    draws give a trapezoid, at a Kolmogorov-Smirnov distance from the uniform of at most .043 (at √½), whose largest
    values are up to √2 times as large.

    An entry that both draws have in common is no draw but a constant of the initialiser (zero biases, unit scales,
    running statistics), and stays. Random biases are mixed as weights are, so that `alpha` near 0 or 1 is near either
    draw in every tensor. Tensors that are not floating are those of `state`. Computed in float64, rounded once.
    Returns new tensors; draws nothing.

    >>> draws = {"w": torch.tensor([5.0, 1.0])}, {"w": torch.tensor([-5.0, 1.0])}
    >>> mixed(draws[0], {}, Generator(), draws[1], alpha=0.6)
    {'w': tensor([1., 1.])}
    """
    rest = math.sqrt(1 - alpha * alpha)

    def mix(own: Tensor, other: Tensor) -> Tensor:
        if not own.is_floating_point():
            return own.clone()
        return torch.where(own == other, own, (alpha * other.double() + rest * own.double()).to(own.dtype))

    return {name: mix(tensor, second[name]) for name, tensor in state.items()}
