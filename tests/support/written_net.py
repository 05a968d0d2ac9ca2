"""The network of `user_net` with the number of its last channels written into its code."""

from torch import Tensor, nn

from tests.support import user_net


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 16 * 25)


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    layers = list(user_net.build(input_shape, outputs).children())
    layers[5] = Flat()
    return nn.Sequential(*layers)
