"""A network of a user's, for which every count can be worked out by hand: 28 x 28 images, 10 classes."""

from torch import nn


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """MACs of an example: 8·9·28² = 56,448, then 16·72·5² = 28,800, then 400·10 = 4,000."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, outputs),
    )
