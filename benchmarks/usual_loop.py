"""The loop that most lottery-ticket code has, written as its authors write it: the point of comparison.

A Dataset with an image and its transforms at a time, a DataLoader, NCHW, and the mask multiplied into the weights in
every forward pass (torch.nn.utils.prune). The transforms are those of torchvision's usual CIFAR-10 pipeline:
RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize.
"""

import random
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.utils.prune import custom_from_mask
from torch.utils.data import DataLoader, Dataset

from benchmarks import material
from benchmarks.material import Setting

PADDING = 4


class Images(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision's class gives it: HWC bytes in memory, one PIL image a time."""

    def __init__(self, data: material.Dataset) -> None:
        self.images = data.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.train_labels.tolist()
        self.mean = torch.tensor(data.mean).view(-1, 1, 1)
        self.std = torch.tensor(data.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = flipped(cropped(Image.fromarray(self.images[index])))
        return self.normalise(to_tensor(image)), self.labels[index]

    def normalise(self, image: Tensor) -> Tensor:
        """Normalize: a copy, then in place."""
        return image.clone().sub_(self.mean).div_(self.std)


def cropped(image: Image.Image) -> Image.Image:
    """RandomCrop with padding."""
    width, height = image.size
    padded = ImageOps.expand(image, PADDING)
    left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    return padded.crop((left, top, left + width, top + height))


def flipped(image: Image.Image) -> Image.Image:
    """RandomHorizontalFlip."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def to_tensor(image: Image.Image) -> Tensor:
    """ToTensor: HWC bytes to CHW floats from 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


def usual(setting: Setting, workers: int = 0, device: str = "cpu") -> Callable[[], float]:
    """Images a second of an epoch; `workers` processes load the images, or, as is the default of a DataLoader, none."""
    data = setting.data()
    model = setting.network().to(device)
    for name, kept in material.mask_of(model).items():
        owner, _, leaf = name.rpartition(".")
        custom_from_mask(model.get_submodule(owner), leaf, kept.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    pinned = device != "cpu"  # as is the custom where the batch is to go to a GPU
    loader = DataLoader(Images(data), setting.batch, shuffle=True, num_workers=workers, pin_memory=pinned)

    def epoch() -> float:
        began = time.perf_counter()
        model.train()
        running_loss, correct = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = F.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            correct += outputs.argmax(1).eq(labels).sum().item()
        return setting.images / (time.perf_counter() - began)

    return epoch
