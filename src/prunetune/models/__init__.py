"""Networks for images, each in the form in which the literature trains it on CIFAR, and the user's own.

A registered model is a function `(input_shape, outputs, **arguments) -> nn.Module` for images of shape (N, C, H, W)
with `input_shape` = (C, H, W), which returns logits of shape (N, outputs).
"""

from prunetune.models.architectures import MODELS
from prunetune.models.building import argument, build, draw, identify, narrowed, parameters_kept

__all__ = ["MODELS", "argument", "build", "draw", "identify", "narrowed", "parameters_kept"]
