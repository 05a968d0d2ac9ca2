"""Loops of Hugging Face Accelerate: `hold` alone through `prepare`, and the mask in `save_state` and `load_state`."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import prunetune as pt
from tests.support.adapter_optimizers import OPTIMIZERS, Make

pytest.importorskip("accelerate", reason="needs the extra prunetune[transformers]")

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from prunetune.integrations.accelerate import MaskState
from prunetune.sparsity.enforce import masks_gradients
from tests.support.refusals import refused


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def prepared(model: nn.Module, make: Make = OPTIMIZERS["adamw"], **settings: Any) -> tuple[Accelerator, nn.Module, Any]:
    AcceleratorState._reset_state()  # one per process, made by the first accelerator
    accelerator = Accelerator(cpu=True, **settings)
    return accelerator, *accelerator.prepare(model, make(model.parameters()))


def batches(count: int) -> list[Tensor]:
    return list(torch.randn(count, 8, 6, generator=torch.Generator().manual_seed(1)))


def train(accelerator: Accelerator, model: nn.Module, optimizer: Any, data: list[Tensor]) -> list[float]:
    """The loop of Accelerate's documentation; the density after every batch."""
    densities: list[float] = []
    for inputs in data:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        densities.append(density(model))
    return densities


def density(model: nn.Module) -> float:
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("settings", [{}, {"mixed_precision": "bf16"}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("held_first", [True, False])
def test_hold_alone_is_enough_to_train(held_first: bool, settings: dict[str, Any]) -> None:
    model = network()
    mask = pt.compute_mask(model, 0.75)
    if held_first:
        pt.apply_mask(model, mask)
    accelerator, ready, optimizer = prepared(model, **settings)
    if not held_first:
        pt.apply_mask(ready, mask, optimizer)
    assert train(accelerator, ready, optimizer, batches(6)) == [0.25] * 6
    assert pt.get_mask(accelerator.unwrap_model(ready)) == mask
    assert list(accelerator.get_state_dict(ready)) == list(network().state_dict())


def test_hold_alone_leaves_no_mask_in_a_saved_state(tmp_path: Path) -> None:
    model = network()
    pt.apply_mask(model, pt.compute_mask(model, 0.75))
    accelerator, ready, optimizer = prepared(model)
    train(accelerator, ready, optimizer, batches(2))
    accelerator.save_state(str(tmp_path))
    other, fresh, its_optimizer = prepared(network(1))
    other.load_state(str(tmp_path))
    assert min(train(other, fresh, its_optimizer, batches(2))) > 0.5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loaded_state_goes_on_as_if_never_cut(name: str, compiled: bool, tmp_path: Path) -> None:
    def start(seed: int) -> tuple[Accelerator, nn.Module, Any]:
        accelerator, model, ready_optimizer = prepared(network(seed), OPTIMIZERS[name])
        ready = cast(nn.Module, torch.compile(model, backend="eager")) if compiled else model
        accelerator.register_for_checkpointing(MaskState(ready))
        return accelerator, ready, ready_optimizer

    accelerator, model, optimizer = start(0)
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    pt.apply_mask(plain, pt.compute_mask(plain, 0.75))
    train(accelerator, model, optimizer, batches(4)[:2])
    accelerator.save_state(str(tmp_path))
    train(accelerator, model, optimizer, batches(4)[2:])
    other, resumed, its_optimizer = start(1)
    other.load_state(str(tmp_path))
    assert train(other, resumed, its_optimizer, batches(4)[2:]) == [0.25] * 2
    again = other.unwrap_model(resumed, keep_torch_compile=False)
    assert pt.get_mask(again) == pt.get_mask(plain)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
    torch._dynamo.reset()


def test_a_state_saved_while_nothing_is_held_is_refused(tmp_path: Path) -> None:
    accelerator, model, _ = prepared(network())
    accelerator.register_for_checkpointing(MaskState(model))
    with refused("model", "held"):
        accelerator.save_state(str(tmp_path))


@pytest.mark.parametrize("masked", [True, False])
def test_a_loaded_state_masks_gradients_as_the_saved_one(masked: bool, tmp_path: Path) -> None:
    accelerator, model, _ = prepared(network())
    pt.apply_mask(model, pt.compute_mask(model, 0.75), gradients=masked)
    accelerator.register_for_checkpointing(MaskState(model))
    accelerator.save_state(str(tmp_path))
    other, resumed, _ = prepared(network(1))
    other.register_for_checkpointing(MaskState(resumed))
    other.load_state(str(tmp_path))
    assert masks_gradients(resumed) is masked
    assert pt.get_mask(resumed) == pt.get_mask(model)


def test_a_state_of_an_earlier_version_is_the_mask_alone() -> None:
    model = network()
    mask = pt.compute_mask(model, 0.75)
    MaskState(model).load_state_dict(dict(mask))
    assert pt.get_mask(model) == mask
    assert not masks_gradients(model)
