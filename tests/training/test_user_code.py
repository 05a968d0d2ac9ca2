"""Networks and losses that fail only when they are trained: one line that names them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.data.dataset import Dataset
from prunetune.errors import ConfigError
from prunetune.training.loop import train
from prunetune.training.recipe import Recipe, Schedule
from tests.support.refusals import refused


class Auxiliary(nn.Module):
    """A second head in training mode, as GoogLeNet and Inception have it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        found = self.head(x.flatten(1))
        return (found, found) if self.training else found


class Torn(Auxiliary):
    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1)[:, :3] if self.training else x.flatten(1))


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def one_hot_forgotten(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def of_both_heads(outputs: Any, targets: Tensor) -> Tensor:
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((nn.functional.cross_entropy(head, targets) for head in heads), torch.zeros(()))


def trained(model: nn.Module, images: int = 8, loss: Callable[..., Tensor] | None = None) -> None:
    def part(n: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n) % 2

    data = Dataset.of("noise", part(images), part(4), outputs=2)
    ref = Ref.of(f"{__name__}:{loss.__name__}") if loss is not None else None
    recipe = Recipe(1, 4, 0.1, schedule=Schedule("constant"), loss=ref)
    train(model, data, recipe, order_seed=0, augment_seed=0)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("model", "images", "loss", "words"),
    [
        (Auxiliary, 8, None, "model: gives a tuple in training mode; must give logits alone"),
        (normed, 9, None, "model: cannot be trained on a batch of 1: it raised ValueError: Expected more than 1 value"),
        (Torn, 8, None, "model: cannot be trained on a batch of 4: it raised RuntimeError: mat1 and mat2"),
        (normed, 8, one_hot_forgotten, f"recipe.loss: '{__name__}:one_hot_forgotten' raised RuntimeError: The size"),
    ],
    ids=["auxiliary head", "a last batch of one", "another width", "loss"],
)
def test_one_line_names_what_failed(
    model: Callable[[], nn.Module], images: int, loss: Callable[..., Tensor] | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(model(), images, loss)
    assert str(caught.value).startswith(words)


def test_a_loss_of_ones_own_may_take_both_heads() -> None:
    trained(Auxiliary(), loss=of_both_heads)


def test_short_memory_is_still_told_as_such() -> None:
    class Hungry(Auxiliary):
        def forward(self, x: Tensor) -> Any:
            if self.training:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000 bytes")
            return super().forward(x)

    with refused("recipe.batch_size", "4", "memory"):
        trained(Hungry())
