"""Zero channels around a feature map, as a module, so that it can be seen which channel goes where."""

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn import functional


class ChannelPad(nn.Module):
    """Pads (N, inputs, H, W) with zero channels on both sides to (N, outputs, H, W), half (rounded down) before.

    The parameter-free shortcut of He et al. 2015 (option A). In a bare `functional.pad` a channel changes its number
    unseen, so that channels could not be removed on both sides alike. Has no entries in a state dict.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Input channel i becomes output channel i + `before`."""
        return functional.pad(x, (0, 0, 0, 0, self.before, self.outputs - self.inputs - self.before))

    def remove(self, channels: Collection[int]) -> None:
        """Leave these output channels out, and the inputs that would become them: the caller gives these no more."""
        end = self.before + self.inputs
        self.inputs -= sum(self.before <= channel < end for channel in channels)
        self.before -= sum(channel < self.before for channel in channels)
        self.outputs -= len(channels)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.inputs}, {self.outputs}, before={self.before}"
