"""Small data and networks for every task: what a user's module would hold. Workers import it too."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunetune.data import Batch

HERE = __name__


def tiny(task: str, model: str, data: str, **fields: Any) -> dict[str, Any]:
    """A spec of two trainings and a mask."""
    return {
        "model": f"{HERE}:{model}",
        "data": f"{HERE}:{data}",
        "task": task,
        "recipe": {
            "epochs": 2,
            "batch_size": 32,
            "optimizer": "adam",
            "weight_decay": 0,
            "schedule": {"kind": "cosine"},
        },
        "learning_rates": [0.01],
        "masks": ["one_shot"],
        "sparsities": [0.5],
        "arms": ["ticket", "reinit"],
        "seeds": 1,
    } | fields


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- tables ---------------------------------------------------------------------------------------------------------


def digits() -> dict[str, Any]:
    """scikit-learn's 1797 digits as 64 numbers each, classes 0 to 9."""
    x, y = (np.asarray(part) for part in load_digits(return_X_y=True))
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    return {"train": (x[:1200], y[:1200]), "test": (x[1200:], y[1200:])}


def digit_labels() -> dict[str, Any]:
    """The digits with three labels each: odd, above four, a multiple of three."""
    parts = digits()
    return {part: (x, np.stack([y % 2, y > 4, y % 3 == 0], 1).astype(np.float32)) for part, (x, y) in parts.items()}


def diabetes() -> dict[str, Any]:
    """scikit-learn's 442 patients: ten standardised numbers and the disease's progression, standardised."""
    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    x, y = (20 * x).astype(np.float32), ((y - 152) / 77).astype(np.float32)
    return {"train": (x[:342], y[:342]), "test": (x[342:], y[342:])}


def two_inputs() -> dict[str, Any]:
    """The patients' numbers in two groups, under the names of a network's arguments."""
    return {part: ({"body": x[:, :4], "blood": x[:, 4:]}, y) for part, (x, y) in diabetes().items()}


def mlp(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(input_shape[0], 32), nn.ReLU(), nn.Linear(32, outputs))


class TwoInputs(nn.Module):
    """Takes two named inputs and gives a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.blood, self.head = nn.Linear(4, 16), nn.Linear(6, 16), nn.Linear(32, 1)

    def forward(self, body: Tensor, blood: Tensor) -> dict[str, Tensor]:
        features = torch.cat([self.body(body), self.blood(blood)], 1).relu()
        found = self.head(features)
        return {"logits": found, "size": found.abs()}


def absolute_error(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """A loss that needs the batch's inputs too: patients of a high body mass count twice."""
    weight = 1 + (batch.inputs["body"][:, 2] > 0).float()
    return (weight * (outputs["logits"][:, 0] - batch.targets).abs()).mean()


# --- made masks -----------------------------------------------------------------------------------------------------


def blobs() -> dict[str, Any]:
    """Bright squares and dark squares on noise; a border of pixels is ignored."""

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        source = draws(seed)
        images = 0.3 * torch.randn(count, 1, 16, 16, generator=source)
        masks = torch.zeros(count, 16, 16, dtype=torch.int64)
        for i in range(count):
            for label, shift in ((1, 1.5), (2, -1.5)):
                row, column = torch.randint(1, 9, (2,), generator=source).tolist()
                images[i, 0, row : row + 6, column : column + 6] += shift
                masks[i, row : row + 6, column : column + 6] = label
        masks[:, 0] = -100
        return images, masks

    return {"train": part(64, 1), "test": part(24, 2)}


def pixel_net(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Three convolutions that keep the size."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, outputs, 1),
    )


# --- tokens ---------------------------------------------------------------------------------------------------------


class Sentences(Dataset[dict[str, Tensor]]):
    """Made sentences of 3 to 8 words, one at a time: a word's class is whether it is above the word before it.

    Each example adds a number that is drawn anew whenever it is read, and counts for nothing but its bytes.
    """

    def __init__(self, count: int, seed: int) -> None:
        source = draws(seed)
        lengths = torch.randint(3, 9, (count,), generator=source).tolist()
        self.words = [torch.randint(1, 20, (length,), generator=source) for length in lengths]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        words = self.words[i]
        above = torch.cat([torch.zeros(1, dtype=torch.int64), (words[1:] > words[:-1]).long()])
        return {"input_ids": words, "noise": torch.rand(()), "labels": above}


def padded(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Padded to the longest: words with 0, classes with −100."""
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([one["input_ids"] for one in examples], batch_first=True),
        "noise": torch.stack([one["noise"] for one in examples]),
        "labels": pad([one["labels"] for one in examples], batch_first=True, padding_value=-100),
    }


def sentences(workers: int = 0) -> dict[str, Any]:
    """Read example by example."""
    return {"train": Sentences(100, 1), "test": Sentences(40, 2), "collate": padded, "workers": workers}


class Tagger(nn.Module):
    """Two linear layers on each word and the one before it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(20, 12), nn.Linear(24, 24), nn.Linear(24, outputs)

    def forward(self, input_ids: Tensor, noise: Tensor) -> Tensor:
        words = self.words(input_ids)
        before = torch.nn.functional.pad(words, (0, 0, 1, -1))  # nothing is before the first
        both = torch.cat([words, before], -1)
        return self.head(self.mix(both).relu() + 1e-3 * noise[:, None, None])


def counting() -> dict[str, Any]:
    """Sequences that count up in steps of 1 or 2, modulo 12: half of a next token is known."""

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        source = draws(seed)
        ids = torch.randint(1, 3, (count, 10), generator=source).cumsum(1) % 12
        targets = ids.clone()
        targets[: count // 4, 7:] = -100
        return ids, targets

    return {"train": part(96, 1), "test": part(32, 2)}


def language_model(outputs: int) -> nn.Module:
    """Each token by the one before it."""
    return nn.Sequential(nn.Embedding(outputs, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs))
