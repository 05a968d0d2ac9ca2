"""Small data and networks for every task: what a user's module would hold. Workers import it too."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunetune.data import Batch
from prunetune.tasks import collate_boxes

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


# --- boxes ----------------------------------------------------------------------------------------------------------

SIDE, CELL = 24, 4


class Squares(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """None to three bright (class 0) or dark squares (class 1) on noise, as torchvision's detectors take them."""

    def __init__(self, count: int, seed: int) -> None:
        source = draws(seed)
        self.examples = [self._drawn(source) for _ in range(count)]

    def _drawn(self, source: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        image, boxes, labels = 0.3 * torch.randn(1, SIDE, SIDE, generator=source), [], []
        for _ in range(int(torch.randint(0, 4, (1,), generator=source))):
            x, y, size, label = (int(torch.randint(low, high, (1,), generator=source)) for low, high in DRAWN)
            image[0, y : y + size, x : x + size] = 1.5 - 3 * label
            boxes.append([x, y, x + size, y + size])
            labels.append(label)
        return image, {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": torch.tensor(labels).long()}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.examples[i]


DRAWN = ((0, 15), (0, 15), (5, 9), (0, 2))  # x, y, size, class


def squares() -> dict[str, Any]:
    """Read example by example."""
    return {"train": Squares(96, 1), "test": Squares(32, 2), "collate": collate_boxes, "workers": 0}


def padded_squares() -> dict[str, Any]:
    """The same as tensors."""
    return {part: collate_boxes(examples.examples) for part, examples in squares().items() if part in ("train", "test")}


class Detector(nn.Module):
    """In each cell of a grid a class or none, and a box around the cell's middle, whose centre lies in it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.classes = outputs
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(32, outputs + 1 + 4, 1)
        middle = CELL * (torch.arange(SIDE // CELL) + 0.5)
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        self.middles = torch.stack([x, y, x, y], -1).view(-1, 4)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        found = self.head(self.body(images)).flatten(2).transpose(1, 2)
        logits, offsets = found.split([self.classes + 1, 4], 2)
        if targets is None:
            return [self.detections(*one) for one in zip(logits, offsets, strict=True)]
        wanted = torch.full(logits.shape[:2], self.classes)
        boxes = torch.zeros_like(offsets)
        for i, target in enumerate(targets):
            centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2 // CELL
            places = (centres[:, 1] * (SIDE // CELL) + centres[:, 0]).long()
            wanted[i, places] = target["labels"]
            boxes[i, places] = (target["boxes"] - self.middles[places]) / CELL
        there = wanted != self.classes
        return {
            "classes": nn.functional.cross_entropy(logits.transpose(1, 2), wanted),
            "boxes": (offsets - boxes)[there].abs().sum() / there.sum().clamp(min=1),
        }

    def detections(self, logits: Tensor, offsets: Tensor) -> dict[str, Tensor]:
        """The six surest cells."""
        scores, labels = logits.softmax(1)[:, : self.classes].max(1)
        surest = scores.topk(6).indices
        boxes = self.middles + CELL * offsets
        return {"boxes": boxes[surest], "labels": labels[surest], "scores": scores[surest]}
