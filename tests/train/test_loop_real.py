"""The loop on real images, and on a GPU."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from train_makers import RECIPE, half_mask, network, run

from prunetune.sparsity.choose import prune
from prunetune.train.data import identify, load
from prunetune.train.loop import train
from prunetune.train.recipe import Recipe


@pytest.mark.slow
def test_a_sparse_network_learns_fashion() -> None:
    data = load(identify("fashion-mini"))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=0.1)
    trained = train(model, data, recipe, order_seed=1, augment_seed=2, mask=prune(model, 0.5))
    assert (trained.steps, trained.revived, trained.density) == (2 * 157, 0, pytest.approx(0.5, abs=1e-3))
    assert trained.test.accuracy > 70
    assert trained.test.loss < 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_gpu_training_is_like_a_cpu_training(precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    recipe = replace(RECIPE, augment=("crop", "flip"), precision=precision)  # type: ignore[arg-type]
    mask = half_mask(network())
    generator = torch.cuda.get_rng_state()
    cpu, gpu = (run(recipe=recipe, mask=mask, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(generator, torch.cuda.get_rng_state())
    assert gpu.train_loss == pytest.approx(cpu.train_loss, rel=2e-2)
    assert gpu.data_order_digest == cpu.data_order_digest
    assert gpu.start_digest == cpu.start_digest
    assert (gpu.revived, gpu.density) == (0, 0.5)
    assert all(tensor.device.type == "cpu" for tensor in gpu.state.values())
