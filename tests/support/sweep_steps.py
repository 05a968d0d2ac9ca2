"""What somebody does with a network: prunes it, trains on, copies, stores, shrinks and exports it; each checked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import prunetune as pt
from prunetune.deploy.bitmask import load_bitmask
from prunetune.deploy.channel_surgery import TOLERANCE, shrink
from prunetune.sparsity.mask import Mask
from tests.support.channel_nets import randomised

Inputs = Tensor | dict[str, Tensor]
Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
STEPS = 3


class Network(NamedTuple):
    """An architecture, what it is called with, and what is prunable of it."""

    make: Callable[[], nn.Module]
    inputs: Inputs
    scope: pt.Scope = pt.Scope()

    def drawn(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.make()


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All floating-point outputs, from the same random numbers every time."""
    torch.manual_seed(7)
    given = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and x.is_floating_point()]


def others(inputs: Inputs, size: int = 2) -> Inputs:
    """Other inputs of the same kind, `size` of them."""
    if isinstance(inputs, dict):
        return {name: others(x, size) for name, x in inputs.items()}  # type: ignore[misc]
    generator, shape = torch.Generator().manual_seed(11), (size, *inputs.shape[1:])
    if inputs.is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(3, 1 + int(inputs.max()), shape, generator=generator)


def check_mask(model: nn.Module, mask: Mask) -> None:
    """Half of each layer, the largest."""
    for name, keep in mask.items():
        weight = model.get_parameter(name).detach().abs()
        kept = 0
        for value in keep.flatten().tolist():
            kept += value
        assert abs(kept - 0.5 * keep.numel()) <= 0.5, name
        assert weight[keep].min() >= weight[~keep].max(), name


def train(model: nn.Module, inputs: Inputs, optimizer: Optimizer, before_and_after: Callable[[], None]) -> None:
    """Three steps, with what the user does before a forward pass and after a step."""
    model.train()
    made = optimizer(model.parameters())
    for _ in range(STEPS):
        before_and_after()
        made.zero_grad()
        torch.stack([x.square().mean() for x in outputs(model, inputs) if x.requires_grad]).sum().backward()
        made.step()
        before_and_after()


def check_held(network: Network, optimizer: Optimizer) -> None:
    """Every parameter after three steps is that of a loop that multiplies by the mask; and what is kept moved."""
    model, slow, start = network.drawn(), network.drawn(), network.drawn()
    mask = pt.compute_mask(model, 0.5, scope=network.scope)
    pt.apply_mask(model, mask)

    def multiply() -> None:
        with torch.no_grad():
            for name, keep in mask.items():
                slow.get_parameter(name).mul_(keep)

    train(slow, network.inputs, optimizer, multiply)
    train(model, network.inputs, optimizer, lambda: None)
    wanted = dict(slow.named_parameters())
    moved = []
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
        keep = mask.get(name, torch.ones(parameter.shape, dtype=torch.bool))
        assert not parameter[~keep].any(), name
        if parameter.grad is not None and parameter.grad[keep].any():
            assert not torch.equal(parameter[keep], start.get_parameter(name)[keep]), name
            moved.append(name)
    assert 4 * len(mask.keys() & set(moved)) > len(mask)  # some have no part in the outputs


def check_copy(network: Network, optimizer: Optimizer) -> None:
    """A copy has the mask, keeps it, and is not the original."""
    model = network.drawn()
    mask = pt.compute_mask(model, 0.5, scope=network.scope)
    pt.apply_mask(model, mask)
    copy = deepcopy(model)
    assert pt.get_mask(copy).digest == mask.digest
    train(copy, network.inputs, optimizer, lambda: None)
    for name, keep in mask.items():
        assert not copy.get_parameter(name)[~keep].any(), name
    wanted = mask.apply(dict(network.drawn().named_parameters()))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name


def check_files(network: Network, folder: Path) -> None:
    """What is saved and loaded into a new network gives equal outputs, bit for bit."""
    model = network.drawn()
    pt.apply_mask(model, pt.compute_mask(model, 0.5, scope=network.scope))
    for name in ("m.safetensors", "m.bitmask.safetensors"):
        assert pt.export(model, None, folder / name).zeros_exact
    dense, compact = network.drawn(seed=1), network.drawn(seed=2)
    load_model(dense, folder / "m.safetensors")
    compact.load_state_dict(load_bitmask(folder / "m.bitmask.safetensors"))
    with torch.no_grad():
        wanted = outputs(model.eval(), network.inputs)
        for loaded in (dense, compact):
            for a, b in zip(wanted, outputs(loaded.eval(), network.inputs), strict=True):
                assert torch.equal(a, b)


def shrunk(network: Network) -> float:
    """The share of parameters that is left without half of all channels; the outputs, for other inputs, stay."""
    model = randomised(network.drawn()).eval()
    mask = pt.compute_mask(model, 0.5, pattern="channel", example_inputs=network.inputs, scope=network.scope)
    small = shrink(model, mask, network.inputs)
    masked = deepcopy(model)
    with torch.no_grad():
        for name, keep in mask.items():
            masked.get_parameter(name).mul_(keep)
        compare(outputs(masked, others(network.inputs)), outputs(small, others(network.inputs)))
    return size(small) / size(model)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def compare(wanted: list[Tensor], found: list[Tensor]) -> None:
    """Equal up to what another order of sums makes."""
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= TOLERANCE * torch.finfo(a.dtype).eps * a.abs().max()


def exported(network: Network, path: Path) -> None:
    """A graph's file that takes another number of examples, and says what the network says."""
    model = network.drawn().eval()
    pt.apply_mask(model, pt.compute_mask(model, 0.5, scope=network.scope))
    assert pt.export(model, None, path, network.inputs).zeros_exact
    given = others(network.inputs, 3)
    with torch.no_grad():
        compare(outputs(model, given), RUNS[path.suffix](path, given))


def run_program(path: Path, inputs: Inputs) -> list[Tensor]:
    return outputs(torch.export.load(path).module(), inputs)


def run_onnx(path: Path, inputs: Inputs) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    given = inputs if isinstance(inputs, dict) else dict(zip(names, [inputs], strict=True))
    found: Sequence[Any] = session.run(None, {name: given[name].numpy() for name in names})
    return [torch.from_numpy(x) for x in found if x.dtype == "float32"]


RUNS: Mapping[str, Callable[[Path, Inputs], list[Tensor]]] = {".pt2": run_program, ".onnx": run_onnx}
