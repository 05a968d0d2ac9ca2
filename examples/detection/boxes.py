"""Images made here, with a box around each disc and square, and a small detector that finds them on a grid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, STRIDE, MOST = 32, 4, 3  # pixels of a side, pixels of a cell's side, shapes on an image
DISC, SQUARE = range(2)


def data(train: int = 800, test: int = 200):
    """One to three shapes on every image; where there are fewer, the label of the rest is -100."""
    draw = torch.Generator().manual_seed(0)  # the same images at every call: a study must find what it saw before
    count = train + test
    images, labels = torch.zeros(count, 1, SIZE, SIZE), torch.full((count, MOST), -100)
    boxes = torch.zeros(count, MOST, 4)
    row, column = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    for at in range(count):
        for place in range(int(torch.randint(1, MOST + 1, (1,), generator=draw))):
            kind, radius = torch.randint(2, (1,), generator=draw), torch.randint(3, 6, (1,), generator=draw)
            y, x = torch.randint(6, SIZE - 6, (2,), generator=draw)
            down, right = (row - y).abs(), (column - x).abs()
            inside = down**2 + right**2 < radius**2 if kind == DISC else torch.max(down, right) < radius
            images[at, 0, inside] = 0.3 + 0.7 * torch.rand(1, generator=draw)
            boxes[at, place] = torch.cat([x - radius, y - radius, x + radius, y + radius])
            labels[at, place] = kind
    images += 0.1 * torch.randn(images.shape, generator=draw)
    targets = {"boxes": boxes, "labels": labels}
    return {
        "train": (images[:train], {name: both[:train] for name, both in targets.items()}),
        "test": (images[train:], {name: both[train:] for name, both in targets.items()}),
    }


class Detector(nn.Module):
    """Every cell of a grid says how likely the middle of each kind of shape lies in it, and how far its box reaches."""

    def __init__(self, outputs: int, width: int = 8):
        super().__init__()
        sizes = ((1, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 4 * width, 1))
        self.net = nn.Sequential(*(block(*size) for size in sizes), nn.Conv2d(4 * width, outputs + 4, 1))

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None):
        """In training the losses, in evaluation the boxes, labels and scores of each image, as torchvision has it."""
        grid = self.net(images)
        return detections(grid) if targets is None else losses(grid, targets)


def read(grid: Tensor) -> tuple[Tensor, Tensor]:
    """How likely each kind is in a cell, before the sigmoid; and a box's reach left, up, right and down, in cells."""
    return grid[:, :-4], F.softplus(grid[:, -4:])


def losses(grid: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    kinds, reach = read(grid)
    wanted, ours, theirs = torch.zeros_like(kinds), [], []
    for image, target in enumerate(targets):
        for box, label in zip(target["boxes"] / STRIDE, target["labels"], strict=True):
            cell = ((box[:2] + box[2:]) / 2).long()  # that the middle of the box lies in
            x, y = cell.tolist()
            wanted[image, label, y, x] = 1
            ours.append(reach[image, :, y, x])
            theirs.append(torch.cat([cell + 0.5 - box[:2], box[2:] - cell - 0.5]))
    return {
        "kind": F.binary_cross_entropy_with_logits(kinds, wanted, reduction="sum") / len(ours),
        "box": F.smooth_l1_loss(torch.stack(ours), torch.stack(theirs)),
    }


def detections(grid: Tensor, most: int = 10) -> list[dict[str, Tensor]]:
    """The likeliest boxes of each image, the surest first."""
    kinds, reach = read(grid)
    likely = kinds.sigmoid()
    likely = likely * (likely == F.max_pool2d(likely, 3, 1, 1))  # the best of its neighbours
    scores, at = likely.flatten(1).topk(most)  # over kinds and cells
    side = kinds.shape[-1]
    labels, cells = at // side**2, at % side**2
    middle = torch.stack([cells % side, cells // side], -1) + 0.5
    reach = reach.flatten(2).gather(2, cells.unsqueeze(1).expand(-1, 4, -1)).transpose(1, 2)
    boxes = STRIDE * torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], -1)
    each = zip(boxes, labels, scores, strict=True)
    return [{"boxes": box, "labels": label, "scores": score} for box, label, score in each]


def block(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
