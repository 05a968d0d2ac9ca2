"""Networks of a user's for grey images: one of convolutions, two with layers on sequences of their rows."""

from torch import Tensor, nn


def convolutions(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = input_shape
    layers = [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * height * width, outputs))


class Rows(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        width = input_shape[-1]
        self.feed_forward = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        return self.head((rows + self.feed_forward(rows)).mean(1))


class Attention(Rows):
    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(input_shape, outputs)
        self.attention = nn.MultiheadAttention(input_shape[-1], 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        return self.head(rows.mean(1) + self.attention(rows, rows, rows)[0].mean(1))


def rows(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Rows(input_shape, outputs)


def attention(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Attention(input_shape, outputs)
