"""The loop on real images, and on a GPU."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prunetune.data import identify, load
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.prune import compute_mask
from prunetune.training import loop
from prunetune.training.admm import Penalty
from prunetune.training.loop import train
from prunetune.training.recipe import Recipe
from tests.support.train_makers import RECIPE, half_mask, network, run

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LONG = replace(RECIPE, epochs=5, augment=("crop", "flip"), precision="bf16")


class Waiting(nn.Module):
    """A network that asks the device for a number in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.body(images)
        return outputs if outputs.abs().max().item() < 1e9 else outputs.clamp(-1e9, 1e9)


class Gambling(Waiting):
    """A network that draws on the host."""

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images) * (1.0 if torch.rand(()) < 0.5 else 0.5)


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
    trained = train(model, data, recipe, order_seed=1, augment_seed=2, mask=compute_mask(model, 0.5))
    assert (trained.steps, trained.revived, trained.density) == (2 * 157, 0, pytest.approx(0.5, abs=1e-3))
    assert trained.test.value > 70
    assert trained.test.loss < 1


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_gpu_training_is_like_a_cpu_training(precision: str) -> None:
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


def dropping() -> nn.Module:
    return network().insert(5, nn.Dropout(0.3))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["masked", "dropout", "admm"])
def test_a_graph_leaves_the_bytes_of_the_steps_as_they_are(
    kind: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws other numbers in a graph's replay only if its generator were not advanced."""
    recipe = replace(LONG, optimizer=optimizer, learning_rate=2.0**-6)  # type: ignore[arg-type]
    mask = half_mask(network()) if kind == "masked" else None
    penalty = Penalty(0.5, rho=0.5) if kind == "admm" else None

    def trained() -> tuple[str, tuple[float, ...], int, list[str]]:
        notices: list[str] = []
        model = dropping() if kind == "dropout" else network()
        found = run(model, recipe, device="cuda", mask=mask, penalty=penalty, on_notice=notices.append)
        return digest_tensors(dict(found.state)), found.train_loss, found.revived, notices

    recorded = trained()
    monkeypatch.setattr(loop, "recorder_for", lambda device, ranks: None)
    assert recorded == trained()
    assert recorded[2:] == (0, [])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("model", "why"),
    [(Waiting, "the host waits for the device"), (Gambling, "random numbers are drawn on the host")],
)
def test_a_network_that_no_graph_can_hold_runs_step_by_step(model: type[nn.Module], why: str) -> None:
    notices: list[str] = []
    trained = run(model(), LONG, device="cuda", on_notice=notices.append)
    assert trained.train_loss[-1] < trained.train_loss[0]
    assert notices == [f"runs step by step, without a CUDA graph: {why} in every step"]
