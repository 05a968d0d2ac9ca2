"""Masked gradients, against slow loops in which every gradient is multiplied by the mask before anything uses it."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from prunetune.sparsity.enforce import apply_mask, masks_gradients, remove_mask
from tests.support.forked import run_ranks

Mask = dict[str, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))


def sparse_mask(density: float = 0.1) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(network().get_parameter(name).shape, generator=generator) < density for name in NAMES}


NAMES = ("0.weight", "2.weight")


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(count)
    ]


def held(**how: Any) -> nn.Sequential:
    model = network()
    apply_mask(model, sparse_mask(), **how)
    return model


def backward(model: nn.Module, call: Callable[[Tensor], Tensor] | None = None, at: int = 0) -> None:
    inputs, labels = batches()[at]
    cross_entropy((call or model)(inputs), labels).backward()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: cast(Tensor, parameter.grad).clone() for name, parameter in model.named_parameters()}


def masked_by_hand(found: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = sparse_mask()
    return {name: torch.where(mask[name], tensor, 0) if name in mask else tensor for name, tensor in found.items()}


def require_masked(model: nn.Module, whole: dict[str, Tensor]) -> None:
    """Zero where pruned, and the very bits of the whole gradient where kept."""
    expected = masked_by_hand(whole)
    for name, tensor in gradients(model).items():
        assert torch.equal(tensor.view(torch.int32), expected[name].view(torch.int32)), name


def whole_gradients(passes: int = 1) -> dict[str, Tensor]:
    model = held()
    for at in range(passes):
        backward(model, at=at)
    return gradients(model)


def test_by_default_gradients_are_left_alone() -> None:
    model = held()
    backward(model)
    assert not masks_gradients(model)
    assert all(gradients(model)[name][~keep].count_nonzero() for name, keep in sparse_mask().items())


def test_masked_gradients_are_zero_where_pruned_and_bit_equal_where_kept() -> None:
    model = held(gradients=True)
    backward(model)
    assert masks_gradients(model)
    require_masked(model, whole_gradients())


def test_the_norm_is_that_of_the_kept_positions() -> None:
    """Against a sum over single numbers in double precision."""
    model, whole, mask = held(gradients=True), whole_gradients(), sparse_mask()
    backward(model)
    squares = [
        float(value) ** 2
        for name, tensor in whole.items()
        for value, keep in zip(tensor.flatten(), mask.get(name, torch.ones_like(tensor)).flatten(), strict=True)
        if keep
    ]
    norm = float(clip_grad_norm_(model.parameters(), 1e9))
    assert norm == pytest.approx(sum(squares) ** 0.5, rel=1e-5)
    assert float(clip_grad_norm_(held_with_whole().parameters(), 1e9)) > 1.1 * norm


def held_with_whole() -> nn.Module:
    model = held()
    backward(model)
    return model


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "adafactor": partial(torch.optim.Adafactor, lr=0.01),
}


def by_hand(make: Callable[..., torch.optim.Optimizer], clip: float) -> nn.Module:
    model, mask = network(), sparse_mask()
    optimizer = make(model.parameters())
    for at in range(len(batches())):
        multiply(model, mask)
        optimizer.zero_grad()
        backward(model, at=at)
        for name, keep in mask.items():
            cast(Tensor, model.get_parameter(name).grad).mul_(keep)
        clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    multiply(model, mask)
    return model


@torch.no_grad()
def multiply(model: nn.Module, mask: Mask) -> None:
    for name, keep in mask.items():
        model.get_parameter(name).mul_(keep)


def trained(make: Callable[..., torch.optim.Optimizer], clip: float, **how: bool) -> nn.Module:
    model = held(**how)
    optimizer = make(model.parameters())
    for at in range(len(batches())):
        optimizer.zero_grad()
        backward(model, at=at)
        clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_follows_the_loop_by_hand(name: str) -> None:
    make = OPTIMIZERS[name]
    assert equal(trained(make, 0.05, gradients=True), by_hand(make, 0.05))


def test_whole_gradients_clip_another_training() -> None:
    assert not equal(trained(OPTIMIZERS["sgd"], 0.05), by_hand(OPTIMIZERS["sgd"], 0.05))


def test_without_clipping_elementwise_optimizers_do_not_see_the_difference() -> None:
    for name in ("sgd", "adamw"):
        assert equal(trained(OPTIMIZERS[name], 1e9, gradients=True), trained(OPTIMIZERS[name], 1e9))


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_accumulated_and_cleared(to_none: bool) -> None:
    model = held(gradients=True)
    backward(model)
    model.zero_grad(set_to_none=to_none)
    for at in range(3):
        backward(model, at=at)
    require_masked(model, whole_gradients(3))


def test_a_gradient_that_is_there_already_is_masked() -> None:
    model = held()
    backward(model)
    apply_mask(model, sparse_mask(), gradients=True)
    require_masked(model, whole_gradients())


def thawed(model: nn.Module) -> nn.Module:
    model.requires_grad_(False)
    apply_mask(model, sparse_mask(), gradients=True)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    return model.requires_grad_(True)


def replaced(model: nn.Module) -> nn.Module:
    model.load_state_dict(deepcopy(model.state_dict()), assign=True)
    return model


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "there and back": lambda model: model.double().float(),
    "thawed": thawed,
    "replaced": replaced,
    "held again": lambda model: (apply_mask(model, sparse_mask(), gradients=True), model)[1],
}


@pytest.mark.parametrize("way", WAYS)
def test_masking_goes_along(way: str) -> None:
    model = WAYS[way](held(gradients=True))
    backward(model)
    assert masks_gradients(model)
    require_masked(model, whole_gradients())


@pytest.mark.parametrize("again", [lambda model: remove_mask(model), lambda model: apply_mask(model, sparse_mask())])
@pytest.mark.parametrize("copied", [False, True])
def test_release_and_a_plain_hold_let_gradients_go(again: Callable[[nn.Module], None], copied: bool) -> None:
    model = deepcopy(held(gradients=True)) if copied else held(gradients=True)
    again(model)
    backward(model)
    assert not masks_gradients(model)
    assert all(not parameter._backward_hooks for parameter in model.parameters())
    whole = whole_gradients()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in gradients(model).items())


def test_a_copy_masks_by_itself() -> None:
    model = held(gradients=True)
    twin = deepcopy(model)
    remove_mask(model)
    backward(twin)
    require_masked(twin, whole_gradients())


def test_under_torch_compile() -> None:
    torch._dynamo.reset()
    model = held(gradients=True)
    call = cast(Callable[[Tensor], Tensor], torch.compile(model, backend="aot_eager"))
    backward(model, call)
    for name, keep in sparse_mask().items():
        assert not gradients(model)[name][~keep].count_nonzero()
        assert torch.allclose(gradients(model)[name], masked_by_hand(whole_gradients())[name], atol=1e-6)
    torch._dynamo.reset()


def test_a_scaler_sees_masked_gradients_and_skips_no_step_for_a_pruned_infinity() -> None:
    """An infinite gradient at a pruned place would make it skip the step."""
    model = held(gradients=True)
    pruned = model.get_parameter("0.weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = model.get_parameter("4.bias").detach().clone()
    inputs, labels = batches()[0]
    spoil = torch.where(sparse_mask()["0.weight"], 0.0, float("inf"))
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(model(inputs), labels)
    pruned.register_hook(lambda gradient: gradient)
    scaler.scale(loss + (pruned * spoil.nan_to_num(posinf=3e38)).sum() * 1e3).backward()
    scaler.unscale_(optimizer)
    assert not cast(Tensor, pruned.grad)[~sparse_mask()["0.weight"]].count_nonzero()
    assert torch.isfinite(clip_grad_norm_(model.parameters(), 1.0))
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert not torch.equal(model.get_parameter("4.bias"), before)


def test_a_second_derivative_is_that_of_the_masked_gradient() -> None:
    model, inputs = held(gradients=True), batches()[0][0]
    weight, keep = model.get_parameter("0.weight"), sparse_mask()["0.weight"]
    (first,) = torch.autograd.grad(model(inputs).sum(), [weight], create_graph=True)
    assert first.requires_grad
    assert not first[~keep].count_nonzero()


def test_the_sparse_gradient_of_an_embedding() -> None:
    layer = nn.Embedding(10, 4, sparse=True)
    mask = torch.rand(10, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    apply_mask(layer, {"weight": mask}, gradients=True)
    layer(torch.tensor([1, 3, 3])).sum().backward()
    found = cast(Tensor, layer.weight.grad)
    assert found.is_sparse
    assert torch.equal(found.to_dense(), torch.tensor([0, 1, 0, 2, *[0] * 6]).unsqueeze(1) * mask.float())


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    compare_wrapped(rank)  # its networks go before the group: after it they may wait for ever, or end the process
    torch.distributed.destroy_process_group()


def compare_wrapped(rank: int) -> None:
    wrapped = [nn.parallel.DistributedDataParallel(held(gradients=masked)) for masked in (True, False)]
    inputs, labels = batches()[0]
    for model in wrapped:
        cross_entropy(model(inputs[rank::2]), labels[rank::2]).backward()
    require_masked(wrapped[0].module, gradients(wrapped[1].module))


def test_data_parallel_averages_masked_gradients(tmp_path: Path) -> None:
    assert run_ranks(one_of_two, 2, str(tmp_path)) == [0, 0]
