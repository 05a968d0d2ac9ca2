"""Images made here, with a mask for each: discs and squares of any grey on a noisy ground, and a small U-Net."""

import torch
from torch import Tensor, nn

SIZE = 24  # pixels of a side
GROUND, DISC, SQUARE = range(3)  # classes of a pixel


def data(train: int = 400, test: int = 200):
    """Two shapes on every image, which may cover one another."""
    images, masks = made(train + test)
    return {"train": (images[:train], masks[:train]), "test": (images[train:], masks[train:])}


def made(count: int) -> tuple[Tensor, Tensor]:
    """Images of shape (count, 1, SIZE, SIZE), and the class of every pixel, int64 of shape (count, SIZE, SIZE)."""
    draw = torch.Generator().manual_seed(0)  # the same images at every call: a study must find what it saw before
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, masks = torch.zeros(count, 1, SIZE, SIZE), torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for image, mask in zip(images, masks, strict=True):
        for kind in (DISC, SQUARE):
            y, x = torch.randint(4, SIZE - 4, (2,), generator=draw)
            radius = torch.randint(4, 7, (1,), generator=draw)
            down, right = (row - y).abs(), (column - x).abs()
            inside = down**2 + right**2 <= radius**2 if kind == DISC else (down < radius) & (right < radius)
            image[0, inside] = 0.3 + 0.7 * torch.rand(1, generator=draw)
            mask[inside] = kind
    return images + 0.1 * torch.randn(images.shape, generator=draw), masks


class UNet(nn.Module):
    """Twice down to half the size and up again; what was seen on the way down is joined on the way up."""

    def __init__(self, outputs: int, width: int = 8):
        super().__init__()
        self.first, self.second, self.deep = block(1, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.down = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.third, self.last = block(6 * width, 2 * width), block(3 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.first(images)
        middle = self.second(self.down(fine))
        deep = self.deep(self.down(middle))
        middle = self.third(torch.cat([middle, self.up(deep)], 1))
        return self.head(self.last(torch.cat([fine, self.up(middle)], 1)))


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
