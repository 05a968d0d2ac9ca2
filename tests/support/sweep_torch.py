"""Small networks of torch alone, as people write them, and prunetune's own."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import prunetune as pt
from prunetune.core.references import Ref
from prunetune.models import build
from tests.support.sweep_steps import Network

GENERATOR = torch.Generator().manual_seed(4)
IMAGES = torch.randn(2, 3, 16, 16, generator=GENERATOR)
CIFAR = torch.randn(2, 3, 32, 32, generator=GENERATOR)
SERIES = torch.randn(2, 6, 8, generator=GENERATOR)


class Tagger(nn.Module):
    """A recurrent layer over series, with a linear one behind it."""

    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


class Translator(nn.Module):
    """nn.Transformer over two series."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(8, 2, 1, 1, dim_feedforward=16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(source, target))


class Attention(nn.Module):
    """A transformer's block, written by hand around nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.feed_forward = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.head((x + self.feed_forward(x)).mean(1))


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of a U-Net."""
    first = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    again = [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *again)


class UNet(nn.Module):
    """Of two levels, with skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, 8), double(8, 16), double(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join2, self.join1, self.head = double(32, 16), double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.join2(torch.cat([two, self.up2(x)], 1))
        return self.head(self.join1(torch.cat([one, self.up1(x)], 1)))


class Temporal(nn.Module):
    """A temporal network of dilated causal convolutions under weight norm, with residuals."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 12, 12)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(a, b, 3, dilation=2**i)) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.skips = nn.ModuleList(nn.Conv1d(a, b, 1) for a, b in pairwise(widths))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
            x = torch.relu(layer(F.pad(x, (2 * 2**i, 0))) + skip(x))
        return self.head(x[:, :, -1])


class Shuffle(nn.Module):
    """A unit of ShuffleNet-V2: half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = x.chunk(2, 1)
        x = torch.cat([passed, self.branch(worked)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, Shuffle(16), Shuffle(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def gated() -> nn.Module:
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), Gate(8)]
    return nn.Sequential(
        *first,
        nn.Conv2d(8, 16, 3, stride=2),
        nn.GroupNorm(4, 16),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class Dense(nn.Module):
    """A block of DenseNet: each layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1)) for i in range(3)
        )
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.stem(x)
        for layer in self.layers:
            found = torch.cat([found, layer(found)], 1)
        return self.head(found.mean((2, 3)))


class Autoencoder(nn.Module):
    """Convolutions down to a few numbers and back, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8)
        )
        self.decode = nn.Sequential(
            nn.Linear(8, 256),
            nn.ReLU(),
            nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encode(x)
        return self.decode(code), code


def ours(name: str, inputs: Tensor = CIFAR, **arguments: float) -> Network:
    return Network(lambda: build(Ref.of(name, arguments), tuple(inputs.shape[1:]), 10), inputs)


RECURRENT = pt.Scope(include=("cells.weight_*",))
BY_HAND: dict[str, Network] = {
    "nn.RNN": Network(lambda: Tagger(nn.RNN), SERIES, RECURRENT),
    "nn.LSTM": Network(lambda: Tagger(nn.LSTM), SERIES, RECURRENT),
    "nn.GRU": Network(lambda: Tagger(nn.GRU), SERIES, RECURRENT),
    "nn.Transformer": Network(Translator, {"source": SERIES, "target": SERIES[:, :4]}),
    "nn.MultiheadAttention": Network(Attention, SERIES),
    "u-net": Network(UNet, IMAGES),
    "weight-norm tcn": Network(Temporal, SERIES, pt.Scope(include=("*original1",))),
    "shufflenet": Network(shuffle, IMAGES),
    "squeeze-excitation": Network(gated, IMAGES),
    "densenet": Network(Dense, IMAGES),
    "autoencoder": Network(Autoencoder, IMAGES),
}
OWN: dict[str, Network] = {
    "lenet": ours("lenet_300_100", torch.randn(2, 1, 8, 8, generator=GENERATOR)),
    "vgg-11": ours("vgg11", width=4),
    "resnet-8": ours("resnet", depth=8, width=4),
    "mobilenet-v2": ours("mobilenetv2", width=0.1),
}
