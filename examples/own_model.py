"""A model and data of your own, for the command line: a minute or two on two cores for each command.

prunetune prune --model own_model:Net --data own_model:load --epochs 3 --sparsity 0.5,0.8 --export onnx
prunetune sensitivity --model own_model:Net --data own_model:load --set data_args.validation=0.1 --set epochs=3
prunetune audit own_model.yaml --epochs 3 --seeds 2

Run them in this folder. `own_model.yaml` beside this file is a study of the same model.
"""

import torch
from torch import Tensor, nn

from prunetune.data import identify, load_examples


class Net(nn.Module):
    """Called with the shape of an example and the number of classes, where its parameters have these names."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.features = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten())
        self.head = nn.Linear(16 * (height // 4) * (width // 4), outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def load(count: int = 4000) -> dict[str, tuple[Tensor, Tensor]]:
    """Your data: inputs and classes to train on, and those that results are reported on. Here some that are at hand."""
    data = load_examples(identify("fashion-mini"))
    train, test = data.train.gather(torch.arange(count)), data.test.gather(torch.arange(1000))
    return {name: (part.inputs / 255, part.targets) for name, part in (("train", train), ("test", test))}
