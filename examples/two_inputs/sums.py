"""Two handwritten digits, and what they add up to: a network with two inputs by name and a dict of outputs."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from prunetune.data import Batch


def pairs(train: int = 3000, test: int = 500):
    """Random pairs of scikit-learn's digits; the test pairs are of digits that no training pair has."""
    table: Any = load_digits()
    images, numbers = torch.tensor(table.images / 16).float(), torch.tensor(table.target)
    draw = torch.Generator().manual_seed(0)  # the same pairs at every call: a study must find what it saw before

    def drawn(count: int, first: int, end: int) -> tuple[dict[str, Tensor], Tensor]:
        left, right = torch.randint(first, end, (2, count), generator=draw)
        return {"left": images[left], "right": images[right]}, (numbers[left] + numbers[right]).float()

    return {"train": drawn(train, 0, 1400), "test": drawn(test, 1400, len(images))}


class Net(nn.Module):
    """Reads both images with the same layers; the prediction stands under `logits`, as in transformers."""

    def __init__(self):
        super().__init__()
        self.read = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )
        self.add = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        both = self.read(left) + self.read(right)
        return {"logits": self.add(both), "features": both}


def loss(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """Called with all that the network gives, and the batch: its `inputs` and its `targets`."""
    return nn.functional.smooth_l1_loss(outputs["logits"][:, 0], batch.targets)
