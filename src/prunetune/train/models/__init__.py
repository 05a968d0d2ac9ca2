"""Networks for images, each in the form in which the literature trains it on CIFAR, and the user's own.

A registered model is a function `(input_shape, outputs, **arguments) -> nn.Module` for images of shape (N, C, H, W)
with `input_shape` = (C, H, W), which returns logits of shape (N, outputs).
"""

from prunetune.train.models import mobilenet, plain, resnet, vgg  # noqa: F401  (importing them registers their models)
from prunetune.train.models.building import build, draw, identify
from prunetune.train.models.common import MODELS

__all__ = ["MODELS", "build", "draw", "identify"]
