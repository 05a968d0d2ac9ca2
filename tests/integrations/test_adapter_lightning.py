"""The Lightning callback in real trainings: what `hold` alone gives there, and what only the callback gives."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunetune as pt
from prunetune.errors import InvariantError
from tests.support.adapter_optimizers import OPTIMIZERS, Make

pytest.importorskip("lightning", reason="needs the extra prunetune[lightning]")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from prunetune.integrations.lightning import PruneCallback
from tests.support.refusals import refused

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.. is deprecated:FutureWarning"),  # Lightning 2.6 with torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # tiny data sets in memory
    pytest.mark.filterwarnings("ignore:.*number of training batches"),  # fewer than the logging interval
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),  # checkpoints of the first of two trainings
]
NAMES = ("net.0.weight", "net.2.weight")


class Module(LightningModule):
    def __init__(self, seed: int = 0, make: Make = OPTIMIZERS["adamw"]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.make = make
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.parameters())


class Watch(Callback):
    """Density of all prunable weights after every batch."""

    def __init__(self) -> None:
        self.densities: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.densities.append(density(pl_module))


def density(model: nn.Module) -> float:
    weights = [model.get_parameter(name) for name in NAMES]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)


def trainer(folder: Path, epochs: int, *callbacks: Callback) -> Trainer:
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        default_root_dir=folder,
        callbacks=[*callbacks, keep],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_hold_alone_keeps_zeros_through_fit_and_leaves_no_mask_in_the_checkpoint(tmp_path: Path) -> None:
    module, watch = Module(), Watch()
    pt.apply_mask(module, pt.compute_mask(module, 0.75))
    trainer(tmp_path, 2, watch).fit(module, data())
    assert watch.densities == [0.25] * 8
    fresh, again = Module(1), Watch()
    trainer(tmp_path, 3, again).fit(fresh, data(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert again.densities
    assert min(again.densities) > 0.5  # revived without a word: what the callback is there for


def test_prunes_the_model_as_it_is_at_the_start(tmp_path: Path) -> None:
    module, watch, callback = Module(), Watch(), PruneCallback(0.75)
    expected = pt.compute_mask(module, 0.75)
    runner = trainer(tmp_path, 2, watch, callback)
    runner.fit(module, data())
    assert pt.get_mask(module) == expected
    assert watch.densities == [0.25] * 8
    assert runner.callback_metrics["density"] == 0.25


def test_prunes_at_a_later_epoch_by_the_weights_of_then(tmp_path: Path) -> None:
    module, watch = Module(), Watch()
    trainer(tmp_path, 3, watch, PruneCallback(0.5, "magnitude", "global", epoch=2)).fit(module, data())
    assert watch.densities == [1.0] * 8 + [0.5] * 4
    dense = Module()
    state = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    assert "prunetune_mask" not in state
    dense.load_state_dict(state["state_dict"])
    assert pt.get_mask(module) == pt.compute_mask(dense, 0.5, allocation="global")


def test_a_ready_mask(tmp_path: Path) -> None:
    module, mask = Module(), {"net.0.weight": torch.eye(16, 6)}
    trainer(tmp_path, 1, PruneCallback(mask=mask)).fit(module, data())
    assert torch.equal(module.get_parameter("net.0.weight") != 0, torch.eye(16, 6).bool())
    assert module.get_parameter("net.2.weight").count_nonzero() == 48


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_gives_the_weights_of_a_training_that_was_never_cut(optimizer: str, tmp_path: Path) -> None:
    make = OPTIMIZERS[optimizer]
    whole = Module(0, make)
    trainer(tmp_path / "whole", 4, PruneCallback(0.75)).fit(whole, data())
    trainer(tmp_path, 2, PruneCallback(0.75)).fit(Module(0, make), data())
    resumed, watch = Module(5, make), Watch()
    trainer(tmp_path, 4, watch, PruneCallback(0.75)).fit(resumed, data(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert watch.densities == [0.25] * 8
    assert pt.get_mask(resumed) == pt.get_mask(whole)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


@pytest.mark.slow
def test_resuming_in_a_fresh_process_holds_the_same_mask(tmp_path: Path) -> None:
    module = Module()
    trainer(tmp_path, 1, PruneCallback(0.75)).fit(module, data())
    code = f"""
import warnings; warnings.simplefilter("ignore")
from pathlib import Path
import prunetune as pt
from tests.integrations.test_adapter_lightning import Module, PruneCallback, data, density, trainer
module, folder = Module(7), Path({str(tmp_path)!r})
trainer(folder, 3, PruneCallback(0.75)).fit(module, data(), ckpt_path=folder / "epoch=0.ckpt")
print(pt.get_mask(module).digest, density(module))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{pt.get_mask(module).digest} 0.25"


def test_a_second_fit_goes_on_with_the_same_mask(tmp_path: Path) -> None:
    module, callback = Module(), PruneCallback(0.75)
    trainer(tmp_path, 1, callback).fit(module, data())
    mask = pt.get_mask(module)
    trainer(tmp_path, 1, callback).fit(module, data())
    assert pt.get_mask(module) == mask
    other = Module(3)
    trainer(tmp_path, 1, callback).fit(other, data())  # and another model gets its own
    assert pt.get_mask(other) == pt.compute_mask(Module(3), 0.75) != mask


def test_a_stricter_second_fit_prunes_further_and_a_laxer_one_is_refused(tmp_path: Path) -> None:
    module = Module()
    trainer(tmp_path, 1, PruneCallback(0.5)).fit(module, data())
    first = pt.get_mask(module)
    trainer(tmp_path, 1, PruneCallback(0.75)).fit(module, data())
    second = pt.get_mask(module)
    assert (first.density, second.density, density(module)) == (0.5, 0.25, 0.25)
    assert not any((second[name] & ~first[name]).any() for name in NAMES)
    with refused("density", "remove_mask", "call"):
        trainer(tmp_path, 1, PruneCallback(0.5)).fit(module, data())
    with refused("mask", "remove_mask", "already"):
        trainer(tmp_path, 1, PruneCallback(mask={"net.0.weight": torch.ones(16, 6)})).fit(module, data())
    assert density(module) == 0.25


def test_callbacks_of_disjoint_scopes_prune_each_its_own(tmp_path: Path) -> None:
    module = Module()
    one = PruneCallback(0.75, scope=pt.Scope(include=("net.0.weight",), exclude=("net.2.weight",)))
    two = PruneCallback(0.5, scope=pt.Scope(include=("net.2.weight",), exclude=("net.0.weight",)), epoch=1)
    trainer(tmp_path, 2, one, two).fit(module, data())
    held = pt.get_mask(module)
    assert {name: float(keep.float().mean()) for name, keep in held.items()} == {NAMES[0]: 0.25, NAMES[1]: 0.5}
    assert [int(module.get_parameter(name).count_nonzero()) for name in NAMES] == [24, 24]


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("average_first", [True, False])
def test_averages_of_the_weights_are_pruned_too(tmp_path: Path, epoch: int, average_first: bool) -> None:
    module, callbacks = Module(), [PruneCallback(0.75, epoch=epoch), EMAWeightAveraging()]
    trainer(tmp_path, 4, *(reversed(callbacks) if average_first else callbacks)).fit(module, data())
    assert density(module) == 0.25  # before anything, such as taking a state dict, zeroes it again


def test_lost_zeros_fail_the_training(tmp_path: Path) -> None:
    class Revive(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pt.remove_mask(pl_module)
            pl_module.get_parameter("net.0.weight").data.add_(1)

    with pytest.raises(InvariantError, match=r"net.0.weight: 72 pruned weights are no longer zero"):
        trainer(tmp_path, 1, PruneCallback(0.75), Revive()).fit(Module(), data())


def test_the_page_shows_the_optimizers_of_the_adapters() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "loops.md").read_text()
    assert f"| adapter | {' | '.join(OPTIMIZERS)} |" in text


def test_wrong_requests_are_refused_in_one_line(tmp_path: Path) -> None:
    with refused("sparsity", "ready"):
        PruneCallback()
    with refused("sparsity", "ready"):
        PruneCallback(0.5, mask={"net.0.weight": torch.eye(16, 6)})
    with refused("epoch", "5", "ended"):
        trainer(tmp_path, 1, PruneCallback(0.5, epoch=5)).fit(Module(), data())
    with refused("mask", "0.weight", "net.0.weight"):
        trainer(tmp_path, 1, PruneCallback(mask={"0.weight": torch.eye(16, 6)})).fit(Module(), data())


def test_gradient_clip_val_counts_kept_weights_alone(tmp_path: Path) -> None:
    """Against a loop by hand that multiplies every gradient by the mask before it clips."""
    make = OPTIMIZERS["sgd"]
    module, by_hand = Module(0, make), Module(0, make)
    runner = trainer(tmp_path, 1, PruneCallback(0.75))
    runner.gradient_clip_val = 0.05
    runner.fit(module, data())
    mask, optimizer = pt.compute_mask(by_hand, 0.75), by_hand.configure_optimizers()
    for batch in data():
        multiply(by_hand, mask)
        optimizer.zero_grad()
        by_hand.training_step(batch, 0).backward()
        for name, keep in mask.items():
            by_hand.get_parameter(name).grad.mul_(keep)  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        optimizer.step()
    multiply(by_hand, mask)
    for name, tensor in by_hand.state_dict().items():
        assert torch.allclose(module.state_dict()[name], tensor, rtol=1e-6, atol=0), name


@torch.no_grad()
def multiply(module: Module, mask: pt.Mask) -> None:
    for name, keep in mask.items():
        module.get_parameter(name).mul_(keep)
