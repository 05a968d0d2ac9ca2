"""Held zeros through training: against a hand-written loop that multiplies by the mask after every step."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from prunetune.sparsity.enforce import apply_mask, remove_mask

Make = Callable[[Any], Optimizer]
Batch = tuple[Tensor, Tensor]
STEPS = 5


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    )


def half_of(model: nn.Module, *names: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(model.get_parameter(name).shape, generator=generator) < 0.5 for name in names}


def batches(count: int = STEPS) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 1, 6, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator))
        for _ in range(count)
    ]


def pruned_are_zero(model: nn.Module, mask: Mapping[str, Tensor]) -> bool:
    return all(not model.get_parameter(name)[~keep].count_nonzero() for name, keep in mask.items())


@torch.no_grad()
def multiply(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    for name, keep in mask.items():
        model.get_parameter(name).mul_(keep)


def backward(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


def by_hand(model: nn.Module, mask: Mapping[str, Tensor], make: Make, data: list[Batch]) -> None:
    optimizer = make(model.parameters())
    multiply(model, mask)
    for batch in data:
        backward(model, optimizer, batch)
        optimizer.step()
        multiply(model, mask)


def held(model: nn.Module, mask: Mapping[str, Tensor], optimizer: Optimizer, data: list[Batch]) -> Iterator[None]:
    """A plain training loop that knows of no mask; yields after every optimizer step, before anything else happens."""
    for batch in data:
        backward(model, optimizer, batch)
        optimizer.step()
        assert pruned_are_zero(model, mask)
        yield


def require_equal(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def optimizers() -> Iterator[Any]:
    sgd = torch.optim.SGD
    plain: dict[str, Callable[..., Optimizer]] = {
        "sgd": partial(sgd, lr=0.1),
        "momentum": partial(sgd, lr=0.1, momentum=0.9),
        "nesterov": partial(sgd, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        "maximize": partial(sgd, lr=0.01, momentum=0.9, maximize=True),
        "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
        "amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
        "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, centered=True),
        "adagrad": partial(torch.optim.Adagrad, lr=0.01),
        "nadam": partial(torch.optim.NAdam, lr=0.01),
        "asgd": partial(torch.optim.ASGD, lr=0.01),
        "rprop": partial(torch.optim.Rprop, lr=0.01),
    }
    for name, make in plain.items():
        for way in ({"foreach": False}, {"foreach": True}):
            yield pytest.param(partial(make, **way), id=f"{name}-{'foreach' if way['foreach'] else 'loop'}")
    for name in ("momentum", "nesterov", "adam", "amsgrad", "adamw", "adagrad"):
        yield pytest.param(partial(plain[name], fused=True), id=f"{name}-fused")


@pytest.mark.parametrize("make", list(optimizers()))
def test_every_optimizer_follows_the_loop_written_by_hand(make: Make) -> None:
    ours, theirs = network(), network()
    mask = half_of(ours, "3.weight", "6.weight")
    optimizer = make(ours.parameters())
    start = deepcopy(ours.state_dict())
    apply_mask(ours, mask, optimizer)
    assert pruned_are_zero(ours, mask)
    for _ in held(ours, mask, optimizer, batches()):
        pass
    by_hand(theirs, mask, make, batches())
    require_equal(ours, theirs)
    for name, keep in mask.items():
        assert (ours.get_parameter(name)[keep] != start[name][keep]).float().mean() > 0.9  # the kept ones do train


def test_without_hold_momentum_revives_zeros() -> None:
    """The classic bug, planted: weights are zeroed once, and momentum (or a gradient) brings them back."""
    model = network()
    mask = half_of(model, "3.weight", "6.weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    multiply(model, mask)
    backward(model, optimizer, batches()[0])
    optimizer.step()
    assert not pruned_are_zero(model, mask)


def test_stale_momentum_and_a_new_optimizer_midway_revive_nothing() -> None:
    model, data = network(), batches(6)
    mask = half_of(model, "3.weight", "6.weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in data[:2]:  # dense training leaves momentum everywhere
        backward(model, optimizer, batch)
        optimizer.step()
    apply_mask(model, mask)
    assert optimizer.state[model.get_parameter("3.weight")]["momentum_buffer"][~mask["3.weight"]].count_nonzero()
    for _ in held(model, mask, optimizer, data[2:4]):
        pass
    later = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in held(model, mask, later, data[4:]):
        pass
    optimizer.step()  # the old one once more, its momentum still stale
    assert pruned_are_zero(model, mask)


def test_state_of_the_given_optimizer_is_cleaned_where_pruned_and_only_there() -> None:
    model = network()
    mask = half_of(model, "3.weight")
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    backward(model, optimizer, batches()[0])
    optimizer.step()
    before = deepcopy(optimizer.state_dict()["state"])
    apply_mask(model, mask, optimizer)
    keep, after = mask["3.weight"], optimizer.state_dict()["state"]
    position = [name for name, _ in model.named_parameters()].index("3.weight")
    for index, state in after.items():
        for key, value in state.items():
            expected = before[index][key]
            if index == position and value.shape == keep.shape:
                expected = torch.where(keep, expected, 0)
            assert torch.equal(value, expected), (index, key)
    assert not after[position]["exp_avg"][~keep].count_nonzero()
    assert before[position]["exp_avg"][~keep].count_nonzero()


def test_a_resumed_optimizer_state_revives_nothing() -> None:
    ours, theirs, data = network(), network(), batches(4)
    mask = half_of(ours, "3.weight", "6.weight")
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    by_hand(theirs, mask, make, data)
    apply_mask(ours, mask)
    first = make(ours.parameters())
    for _ in held(ours, mask, first, data[:2]):
        pass
    resumed = network(7)
    apply_mask(resumed, mask)
    resumed.load_state_dict(deepcopy(ours.state_dict()))
    second = make(resumed.parameters())
    second.load_state_dict(deepcopy(first.state_dict()))
    for _ in held(resumed, mask, second, data[2:]):
        pass
    require_equal(resumed, theirs)


def test_mixed_precision_with_a_gradient_scaler() -> None:
    def train(model: nn.Module, after: Callable[[], object]) -> None:
        optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu")
        for images, labels in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            after()
            scaler.update()

    ours, theirs = network(), network()
    mask = half_of(ours, "3.weight", "6.weight")
    apply_mask(ours, mask)
    zero_after_every_step: list[bool] = []
    train(ours, lambda: zero_after_every_step.append(pruned_are_zero(ours, mask)))
    multiply(theirs, mask)
    train(theirs, lambda: multiply(theirs, mask))
    assert zero_after_every_step == [True] * STEPS
    require_equal(ours, theirs)


def test_gradient_accumulation_and_clipping() -> None:
    def train(model: nn.Module, after: Callable[[], object]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for index, (images, labels) in enumerate(batches(6)):
            cross_entropy(model(images), labels).backward()
            if index % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                after()
                optimizer.zero_grad()

    ours, theirs = network(), network()
    mask = half_of(ours, "3.weight", "6.weight")
    apply_mask(ours, mask)
    zero_after_every_step: list[bool] = []
    train(ours, lambda: zero_after_every_step.append(pruned_are_zero(ours, mask)))
    multiply(theirs, mask)
    train(theirs, lambda: multiply(theirs, mask))
    assert zero_after_every_step == [True] * 3
    require_equal(ours, theirs)


def test_lbfgs_whose_closure_runs_many_times_in_one_step() -> None:
    def train(model: nn.Module, before: Callable[[], object], after: Callable[[], object]) -> None:
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
        for batch in batches(3):

            def closure(batch: Batch = batch) -> Tensor:
                before()
                return backward(model, optimizer, batch)

            optimizer.step(closure)
            after()

    ours, theirs = network(), network()
    mask = half_of(ours, "3.weight", "6.weight")
    apply_mask(ours, mask)
    zero_after_every_step: list[bool] = []
    train(ours, lambda: None, lambda: zero_after_every_step.append(pruned_are_zero(ours, mask)))
    train(theirs, lambda: multiply(theirs, mask), lambda: multiply(theirs, mask))
    assert zero_after_every_step == [True] * 3
    require_equal(ours, theirs)


class Attention(nn.Module):
    """`out_proj` is read by `attention`, its own forward pass is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(36, 5)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1)
        return self.head(self.attention(rows, rows, rows, need_weights=False)[0].flatten(1))


def test_attention_that_uses_weights_without_their_modules_forward() -> None:
    torch.manual_seed(0)
    ours = Attention()
    theirs = deepcopy(ours)
    mask = half_of(ours, "attention.out_proj.weight", "attention.in_proj_weight")
    make = partial(torch.optim.Adam, lr=0.01)
    apply_mask(ours, mask)
    for _ in held(ours, mask, make(ours.parameters()), batches()):
        with torch.no_grad():
            ours.attention.out_proj.weight.data.add_(1)  # a write that nothing records ...
            out = ours.eval()(batches(1)[0][0])
            assert pruned_are_zero(ours, mask)  # ... is undone where the forward pass begins
            ours.train().attention.out_proj.weight.data.add_(-1)
            multiply(ours, mask)
            assert out.isfinite().all()
    fresh = deepcopy(theirs)
    apply_mask(fresh, mask)
    for _ in held(fresh, mask, make(fresh.parameters()), batches()):
        pass
    by_hand(theirs, mask, make, batches())
    require_equal(fresh, theirs)


def test_tied_weights() -> None:
    def tied() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.Linear(36, 5))
        model[3].weight = model.get_parameter("1.weight")
        return model

    ours, theirs = tied(), tied()
    mask = half_of(ours, "1.weight")
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    apply_mask(ours, mask)
    for _ in held(ours, mask, make(ours.parameters()), batches()):
        assert ours.get_parameter("3.weight") is ours.get_parameter("1.weight")
    by_hand(theirs, mask, make, batches())
    require_equal(ours, theirs)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("held_first", [False, True])
def test_averaged_copies_of_the_weights(use_buffers: bool, held_first: bool) -> None:
    model = network()
    mask = half_of(model, "3.weight", "6.weight")

    def average() -> AveragedModel:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)

    averaged = None if held_first else average()
    apply_mask(model, mask)
    averaged = averaged or average()
    expected = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    first = True
    for _ in held(model, mask, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batches()):
        averaged.update_parameters(model)
        for name, tensor in model.named_parameters():
            expected[name] = tensor.detach().clone() if first else torch.lerp(expected[name], tensor.detach(), 0.5)
        first = False
        assert pruned_are_zero(averaged.module, mask)
    for name, tensor in averaged.module.named_parameters():
        assert torch.equal(tensor, expected[name])


def test_a_copy_and_its_original_train_apart_and_both_stay_sparse() -> None:
    model = network()
    mask = half_of(model, "3.weight", "6.weight")
    apply_mask(model, mask)
    copy = deepcopy(model)
    before = deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1, momentum=0.9)
    for parameter in copy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # without any forward pass in between
    assert pruned_are_zero(copy, mask)
    for _ in held(copy, mask, optimizer, batches()):
        pass
    require_equal(model, network_with(before))
    remove_mask(model)
    for _ in held(copy, mask, optimizer, batches()):  # letting the original go does not let the copy go
        pass


def network_with(state: Mapping[str, Tensor]) -> nn.Module:
    model = network()
    model.load_state_dict(state)
    return model


def test_several_forward_passes_before_one_backward_pass() -> None:
    model = network()
    mask = half_of(model, "3.weight", "6.weight")
    apply_mask(model, mask)
    (first, _), (second, _) = batches(2)
    (model(first) - model(second)).square().mean().backward()
    (checkpoint(model, first, use_reentrant=False)).square().mean().backward()
    assert pruned_are_zero(model, mask)


def test_gradients_of_pruned_weights_are_left_alone() -> None:
    """Criteria that let weights grow back read them."""
    model = network()
    mask = half_of(model, "6.weight")
    apply_mask(model, mask)
    backward(model, torch.optim.SGD(model.parameters(), lr=0.1), batches()[0])
    gradient = model.get_parameter("6.weight").grad
    assert gradient is not None
    assert gradient[~mask["6.weight"]].count_nonzero()


def test_non_finite_gradients_leave_exact_zeros() -> None:
    model = network()
    mask = half_of(model, "6.weight")
    apply_mask(model, mask)
    model.get_parameter("6.weight").grad = torch.full((5, 24), torch.nan)
    torch.optim.SGD([model.get_parameter("6.weight")], lr=0.1).step()
    assert pruned_are_zero(model, mask)
    assert model.get_parameter("6.weight")[mask["6.weight"]].isnan().all()
