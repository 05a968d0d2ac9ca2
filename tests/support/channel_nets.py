"""Networks whose channels are coupled in every way that the tests of channel pruning look at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunetune.core.references import Ref
from prunetune.models import build

IMAGES = (3, 8, 8)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic drawn, in place: what starts as 0 or 1 would hide an error."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = 0.5 + torch.rand(buffer.shape, generator=generator)
    return model


def chain() -> nn.Module:
    """For images of 1x6x6."""
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(*layers)


def head(channels: int, side: int = 8) -> list[nn.Module]:
    """Flatten to linear with several inputs a channel."""
    return [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * (side // 2) ** 2, 5)]


def block(inputs: int, outputs: int, **more: int) -> nn.Sequential:
    """Convolution with bias, batch norm and an activation with f(0) other than 0."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **more), nn.BatchNorm2d(outputs), nn.Sigmoid())  # type: ignore[arg-type]


class Wired(nn.Module):
    """Layers by name, and the function that wires them."""

    def __init__(self, forward: Callable[["Wired", Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> object:
        return self.wiring(self, x)


def end(channels: int) -> nn.Module:
    return nn.Sequential(*head(channels))


def concat() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.end(net.c(torch.cat([net.a(x), net.b(x)], 1)))

    return Wired(wiring, a=block(3, 4), b=block(3, 6), c=block(10, 8), end=end(8))


def concat_with_input() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.end(net.c(torch.cat([x, net.a(x)], 1)))

    return Wired(wiring, a=block(3, 4), c=block(7, 8), end=end(8))


def dense_residual() -> nn.Module:
    """What two concatenated branches are added to is coupled with each of them in a part."""

    def wiring(net: Wired, x: Tensor) -> Tensor:
        joined = torch.cat([net.a(x), net.b(x)], 1)
        more = torch.cat([joined, net.d(joined + net.c(x))], 1)
        return net.fc(F.adaptive_avg_pool2d(more, 1).flatten(1))

    return Wired(wiring, a=block(3, 4), b=block(3, 6), c=block(3, 10), d=block(10, 4), fc=nn.Linear(14, 5))


def overlapping_sums() -> nn.Module:
    """b is added to a part of c and to a part of e: c has outputs in the group of e, and others in its own."""

    def wiring(net: Wired, x: Tensor) -> Tensor:
        a, b, d = net.a(x), net.b(x), net.d(x)
        return net.end(net.f(torch.cat([a, b], 1) + net.c(x)) + net.g(torch.cat([b, d], 1) + net.e(x)))

    layers = {"a": block(3, 4), "b": block(3, 6), "c": block(3, 10), "d": block(3, 5), "e": block(3, 11)}
    return Wired(wiring, **layers, f=block(10, 6), g=block(11, 6), end=end(6))


def padded() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.end(F.pad(net.a(x)[:, :, ::2], (1, 0, 4, 0))[:, :, :, 1:])

    return Wired(wiring, a=block(3, 6), end=end(6))


def residual_inplace() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.a(x)
        return net.end(F.relu(net.b(y) + y, inplace=True))

    a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return Wired(wiring, a=a, b=block(8, 8), end=end(8))


def squeeze_excite() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.a(x)
        return net.end(y * torch.sigmoid(net.up(F.silu(net.down(F.adaptive_avg_pool2d(y, 1))))))

    return Wired(wiring, a=block(3, 8), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), end=end(8))


def depthwise() -> nn.Module:
    layers = [block(3, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.PReLU(8), block(8, 4)]
    return nn.Sequential(*layers, *head(4))


def transposed() -> nn.Module:
    layers = [
        block(3, 6),
        nn.ConvTranspose2d(6, 8, 2, stride=2),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=1.0),
    ]
    return nn.Sequential(*layers, *head(8))


def hidden_units() -> nn.Module:
    """Linear layers alone, batch norm without affine parameters between them."""
    layers = [
        nn.Flatten(),
        nn.Linear(192, 12),
        nn.BatchNorm1d(12, affine=False),
        nn.GELU(),
        nn.Linear(12, 7),
        nn.Tanh(),
    ]
    return nn.Sequential(*layers, nn.Linear(7, 4))


def two_outputs() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> dict[str, Tensor]:
        y = net.a(x)
        return {"class": net.end(net.b(y)), "map": net.c(y)}

    return Wired(wiring, a=block(3, 8), b=block(8, 6), c=nn.Conv2d(8, 2, 1), end=end(6))


def spatial_mean() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.fc(net.a(x)[:, :, ::2, 1:].mean((-1, -2)))

    return Wired(wiring, a=block(3, 8), fc=nn.Linear(8, 5))


def of(name: str, shape: tuple[int, ...], **arguments: object) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """A registered model, and its images."""
    return lambda: build(Ref.of(name, arguments), shape, 10), shape


EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": of("resnet20", (3, 16, 16), width=4),
    "resnet8": of("resnet", (3, 8, 8), width=5, depth=8),
    "vgg11": of("vgg11", (3, 32, 32), width=4),
    "mobilenetv2": of("mobilenetv2", (3, 16, 16), width=0.25),
    "small": of("small", (1, 28, 28), width=8),
    "lenet_300_100": of("lenet_300_100", (1, 8, 8)),
    "conv2": of("conv2", (3, 8, 8)),
    "chain": (chain, (1, 6, 6)),
    **{
        make.__name__: (make, IMAGES)
        for make in (
            concat,
            concat_with_input,
            dense_residual,
            overlapping_sums,
            padded,
            residual_inplace,
            squeeze_excite,
            depthwise,
            transposed,
            hidden_units,
            two_outputs,
            spatial_mean,
        )
    },
}


def grouped() -> nn.Module:
    return nn.Sequential(block(3, 8), block(8, 8, groups=2), block(8, 4), *head(4))


def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), block(8, 4), *head(4))


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), block(2, 4), *head(4, side=16))


def first_half() -> nn.Module:
    return Wired(lambda net, x: net.end(net.b(net.a(x)[:, :4])), a=block(3, 8), b=block(4, 6), end=end(6))


def added_to_input() -> nn.Module:
    return Wired(lambda net, x: net.end(net.b(net.a(x) + x)), a=block(3, 3), b=block(3, 6), end=end(6))


def softmax_over_channels() -> nn.Module:
    return Wired(lambda net, x: net.end(net.b(net.a(x).softmax(1))), a=block(3, 8), b=block(8, 6), end=end(6))


def attention_map() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.a(x)
        return net.end(net.b(y * net.map(y)))

    return Wired(wiring, a=block(3, 8), map=block(8, 1), b=block(8, 6), end=end(6))


def mean_over_channels() -> nn.Module:
    return Wired(
        lambda net, x: net.end(net.b(net.a(x).mean(1, keepdim=True))), a=block(3, 8), b=block(1, 6), end=end(6)
    )


def own_scale() -> nn.Module:
    net = Wired(lambda net, x: net.end(net.b(net.a(x) * net.scale)), a=block(3, 8), b=block(8, 6), end=end(6))
    net.scale = nn.Parameter(torch.randn(1, 8, 1, 1))
    return net


def doubled() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.a(x)
        return net.end(torch.cat([y, y], 1) + net.b(x))

    return Wired(wiring, a=block(3, 4), b=block(3, 8), end=end(8))


def stacked_rows() -> nn.Module:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.end(torch.cat([net.a(x), net.b(x)], 2)[:, :, ::2])

    return Wired(wiring, a=block(3, 6), b=block(3, 6), end=end(6))


def generator() -> nn.Module:
    """One unit is one pixel of a channel."""

    def wiring(net: Wired, x: Tensor) -> Tensor:
        return net.end(net.b(net.fc(x.flatten(1)).view(-1, 4, 8, 8)))

    return Wired(wiring, fc=nn.Linear(192, 256), b=block(4, 6), end=end(6))


def flattened_concat() -> nn.Module:
    return Wired(
        lambda net, x: net.end(torch.cat([net.a(x), net.b(x)], 1)), a=block(3, 4), b=block(4 - 1, 6), end=end(10)
    )


WHOLE: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "grouped": (grouped, {"0.0": "'1.0' is a grouped convolution", "1.0": "'1.0' is a grouped convolution"}),
    "group_norm": (group_norm, {"0": "'1' (GroupNorm) works across channels"}),
    "pixel_shuffle": (pixel_shuffle, {"0": "it goes through the operation PixelShuffle"}),
    "first_half": (first_half, {"a.0": "it goes through the operation Slice"}),
    "added_to_input": (added_to_input, {"a.0": "it meets the model's input"}),
    "softmax_over_channels": (softmax_over_channels, {"a.0": "it goes through the operation Softmax"}),
    "attention_map": (attention_map, {"a.0": "'map.1' has fewer channels than what it meets"}),
    "mean_over_channels": (mean_over_channels, {"a.0": "it goes through the operation Mean"}),
    "own_scale": (own_scale, {"a.0": "it meets a parameter outside of any layer"}),
    "flattened_concat": (
        flattened_concat,
        {"b.0": "it goes through the operation Cat"},
    ),
    "doubled": (doubled, {"b.0": "it goes through the operation Cat"}),
    "stacked_rows": (stacked_rows, {"a.0": "it goes through the operation Cat"}),
    "generator": (generator, {"fc": "its channels are not coupled one by one"}),
}
