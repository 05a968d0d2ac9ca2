"""Zero channels around a feature map, as a module, so that channels can be removed on either side of it."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelPad(nn.Module):
    """Pads (N, inputs, ...) with zero channels on both sides to (N, outputs, ...), half of them (rounded down) before.

    The parameter-free shortcut of He et al. 2015 (option A). Written as a bare `functional.pad` nobody could see which
    channel goes where; as a module, channels can be removed on either side, each by itself. Has no parameters and no
    state-dict entries.
    """

    source: Tensor | None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.register_buffer("source", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        if self.source is not None:
            return functional.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)
        before = (self.outputs - self.inputs) // 2
        return functional.pad(x, (0, 0, 0, 0, before, self.outputs - self.inputs - before))

    def remove_inputs(self, channels: Collection[int]) -> None:
        """Take these input channels for gone: the outputs that they went to are zero."""
        kept = [channel for channel in range(self.inputs) if channel not in channels]
        place = {channel: i for i, channel in enumerate(kept)}
        self._become([place.get(source, len(kept)) for source in self._sources()], len(kept))

    def remove_outputs(self, channels: Collection[int]) -> None:
        """Leave these output channels out."""
        sources = self._sources()
        self._become([sources[i] for i in range(self.outputs) if i not in channels], self.inputs)

    def _sources(self) -> list[int]:
        """Of every output the input that it is; `inputs`, one past the last, for a zero channel."""
        if self.source is not None:
            return self.source.tolist()
        before = (self.outputs - self.inputs) // 2
        return [i - before if 0 <= i - before < self.inputs else self.inputs for i in range(self.outputs)]

    def _become(self, sources: list[int], inputs: int) -> None:
        device = self.source.device if self.source is not None else None
        self.source = torch.tensor(sources, dtype=torch.int64, device=device)
        self.inputs, self.outputs = inputs, len(sources)
