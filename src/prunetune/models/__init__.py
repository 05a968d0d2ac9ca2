"""Networks for images, each in the form in which the literature trains it on CIFAR, and the user's own.

A registered model is a function `(input_shape, outputs, **arguments) -> nn.Module` for images of shape (N, C, H, W)
with `input_shape` = (C, H, W), which returns logits of shape (N, outputs).
"""

from prunetune.models import mobilenet, resnet, small, vgg  # noqa: F401  (importing them registers their models)
from prunetune.models.building import build, draw, identify
from prunetune.models.common import MODELS

__all__ = ["MODELS", "build", "draw", "identify"]
