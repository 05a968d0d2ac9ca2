"""The loop-compatibility matrix: optimizers x ways in which people train, save, copy, wrap and resume.

Every cell is trained twice: held, by a loop that knows of no mask; and by the slow loop that multiplies the weights by
the mask before every forward pass and after every step. Zeros are exact after every step, the kept weights bit-equal.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunetune.sparsity.enforce import apply_mask, get_mask, remove_mask
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_files import read_state
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import list_parameters
from tests.support.forked import run_ranks
from tests.support.refusals import refused

Make = Callable[[Any], Optimizer]
Batch = tuple[Tensor, Tensor]
STEPS = 6


class ScheduleFree(Optimizer):
    """Schedule-free SGD (Defazio et al. 2024), as a user writes it: `train` and `eval` rewrite the weights in place."""

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "count": 0, "training": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as users write it
        for group in self.param_groups:
            group["count"] += 1
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                y.lerp_(z, 1 / group["count"]).add_(y.grad, alpha=group["lr"] * (group["beta"] / group["count"] - 1))
                z.sub_(y.grad, alpha=group["lr"])

    @torch.no_grad()
    def eval(self) -> None:
        for group in self.param_groups:
            for y in group["params"]:
                y.lerp_(self.state[y]["z"], 1 - 1 / group["beta"])


OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "adamw-fused": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop-foreach": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, foreach=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.01),
    "schedule-free": ScheduleFree,
}


class Run(NamedTuple):
    """A training under way: the model, what its forward pass is called through, and the optimizer."""

    model: nn.Module
    call: Callable[[Tensor], Tensor]
    optimizer: Optimizer


Midway = Callable[[Run, Make, Mask | None], Run]
"""What somebody does half-way; the mask is given where the model is held, and None in the loop by hand."""


class Way(NamedTuple):
    """How a training differs from the plainest one."""

    wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda model: model
    midway: Midway = lambda run, make, mask: run
    every: int = 1  # batches for one step
    clip: bool = False
    bfloat16: bool = False
    scale: bool = False


def from_state_dicts(run: Run, make: Make, mask: Mask | None) -> Run:
    """A fresh model and optimizer that read a checkpoint, by way of a file."""
    file = io.BytesIO()
    torch.save({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    model = network(9)
    if mask is not None:
        apply_mask(model, mask)
    model.load_state_dict(stored["model"])
    return with_state(model, make, stored["optimizer"])


def from_copy(run: Run, make: Make, mask: Mask | None, again: Callable[[Any], Any] = deepcopy) -> Run:
    return with_state(again(run.model), make, deepcopy(run.optimizer.state_dict()))


def with_state(model: nn.Module, make: Make, state: dict[str, Any]) -> Run:
    optimizer = make(model.parameters())
    optimizer.load_state_dict(state)
    return Run(model, model, optimizer)


def dense_checkpoint(run: Run, make: Make, mask: Mask | None) -> Run:
    """Weights of a dense network are read into the model that is being trained."""
    run.model.load_state_dict(network(9).state_dict())
    return run


def new_optimizer(run: Run, make: Make, mask: Mask | None) -> Run:
    return run._replace(optimizer=make(run.model.parameters()))


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    torch._dynamo.reset()
    return cast(Callable[[Tensor], Tensor], torch.compile(model, backend="aot_eager"))


def functional(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: torch.func.functional_call(model, dict(model.named_parameters()), (inputs,))


WAYS: dict[str, Way] = {
    "plain": Way(),
    "state-dicts": Way(midway=from_state_dicts),
    "deepcopy": Way(midway=from_copy),
    "pickle": Way(midway=partial(from_copy, again=lambda model: pickle.loads(pickle.dumps(model)))),
    "dense-checkpoint": Way(midway=dense_checkpoint),
    "new-optimizer": Way(midway=new_optimizer),
    "accumulation-and-clipping": Way(every=2, clip=True),
    "bfloat16": Way(bfloat16=True),
    "disabled-scaler": Way(bfloat16=True, scale=True),
    "functional-call": Way(wrap=functional),
    "compiled": Way(wrap=compiled),
}


def cells() -> Iterator[Any]:
    for way in WAYS:
        for optimizer in OPTIMIZERS:
            if way != "compiled" or optimizer in {"sgd", "adamw-fused"}:  # compiling takes its time
                yield pytest.param(OPTIMIZERS[optimizer], WAYS[way], id=f"{way}-{optimizer}")


def test_the_page_shows_this_matrix_and_no_more() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "how-to" / "loops.md").read_text().splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("| half-way"))
    rows = list(takewhile(lambda line: line.startswith("| `"), lines[head + 2 :]))
    _, *names = (cell.strip() for cell in lines[head].strip("|").split("|"))
    shown = {
        f"{row.split('`')[1]}-{name}"
        for row in rows
        for name, cell in zip(names, row.strip("|").split("|")[1:], strict=True)
        if cell.strip() == "yes"
    }
    assert shown == {cell.id for cell in cells()}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int = STEPS) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(count)
    ]


def random_mask() -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(network().get_parameter(name).shape, generator=generator) < 0.4 for name in NAMES})


NAMES = ("0.weight", "3.weight", "5.weight")


def pruned_are_zero(model: nn.Module, mask: Mask) -> bool:
    return all(not model.get_parameter(name)[~keep].count_nonzero() for name, keep in mask.items())


@torch.no_grad()
def multiply(model: nn.Module, mask: Mask) -> None:
    for name, keep in mask.items():
        model.get_parameter(name).mul_(keep)


def train(
    run: Run,
    make: Make,
    way: Way,
    mask: Mask | None,
    before: Callable[[nn.Module], object],
    after: Callable[[nn.Module], object],
) -> nn.Module:
    """`before` every forward pass and `after` every step something may be done; a held training does nothing."""
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for index, (inputs, labels) in enumerate(batches()):
        if index == STEPS // 2:
            run = way.midway(run, make, mask)
        before(run.model)
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bfloat16):
            loss = cross_entropy(run.call(inputs), labels)
        scaler.scale(loss).backward() if way.scale else loss.backward()
        if way.clip:
            nn.utils.clip_grad_norm_(run.model.parameters(), 0.3)
        if (index + 1) % way.every == 0:
            scaler.step(run.optimizer) if way.scale else run.optimizer.step()
            after(run.model)
            run.optimizer.zero_grad()
    return run.model


def both(make: Make, way: Way) -> tuple[nn.Module, nn.Module]:
    """The held model, whose zeros were looked at after every step, and the one by hand."""
    mask = random_mask()
    ours, theirs = network(), network()
    apply_mask(ours, mask)
    looked: list[bool] = []
    nothing: Callable[[nn.Module], object] = lambda model: None  # noqa: E731
    look: Callable[[nn.Module], object] = lambda model: looked.append(pruned_are_zero(model, mask))  # noqa: E731
    by_hand = partial(multiply, mask=mask)
    ours = train(Run(ours, way.wrap(ours), make(ours.parameters())), make, way, mask, nothing, look)
    theirs = train(Run(theirs, way.wrap(theirs), make(theirs.parameters())), make, way, None, by_hand, by_hand)
    assert looked == [True] * (STEPS // way.every)
    return ours, theirs


def require_equal(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("make", "way"), list(cells()))
def test_the_matrix(make: Make, way: Way) -> None:
    ours, theirs = both(make, way)
    require_equal(ours, theirs)
    remove_mask(ours)
    assert list(ours.state_dict()) == list(network().state_dict())
    for name, keep in random_mask().items():
        assert torch.equal(ours.get_parameter(name) != 0, keep)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMIZERS.items()])
def test_an_average_of_the_weights_is_as_sparse(make: Make) -> None:
    mask = random_mask()
    ours, theirs = network(), network()
    apply_mask(ours, mask)
    multiply(theirs, mask)
    averages = [AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)) for model in (ours, theirs)]
    optimizers = [make(model.parameters()) for model in (ours, theirs)]
    for inputs, labels in batches():
        for model, average, optimizer in zip((ours, theirs), averages, optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if model is theirs:
                multiply(theirs, mask)
            average.update_parameters(model)
        assert pruned_are_zero(averages[0].module, mask)
    require_equal(averages[0], averages[1])


def test_an_optimizer_that_rewrites_weights_outside_its_step() -> None:
    """Schedule-free optimizers switch between two sets of weights, and the other one knows of no mask."""
    ours, theirs = both(ScheduleFree, Way())
    mask, inputs = random_mask(), batches(1)[0][0]
    for model in (ours, theirs):
        optimizer = ScheduleFree(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        multiply(theirs, mask)
        optimizer.eval()
    assert not pruned_are_zero(theirs, mask)  # it does revive them
    multiply(theirs, mask)
    assert torch.equal(ours(inputs), theirs(inputs))
    assert pruned_are_zero(ours, mask)
    require_equal(ours, theirs)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMIZERS.items()])
def test_an_optimizer_made_before_or_after_is_the_same(make: Make) -> None:
    early, late = network(), network()
    before = make(early.parameters())
    for model in (early, late):
        apply_mask(model, random_mask())
    for model, optimizer in ((early, before), (late, make(late.parameters()))):
        for inputs, labels in batches(3):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            assert pruned_are_zero(model, random_mask())
    require_equal(early, late)


def test_the_mask_is_on_the_users_own_tensors() -> None:
    """Not on a copy, which would be pruned while the user trains something else."""
    model = network()
    parameters = list(model.parameters())
    places = [parameter.data_ptr() for parameter in parameters]
    mask = compute_mask(model, 0.8)
    require_equal(model, network())
    apply_mask(model, mask)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [parameter.data_ptr() for parameter in parameters] == places
    assert [int(model.get_parameter(name).count_nonzero()) for name in NAMES] == [14, 19, 5]


def test_no_layer_is_left_out_without_a_word() -> None:
    model = nn.Sequential(network(), nn.LSTM(3, 4), nn.Bilinear(4, 4, 2))
    rows = list_parameters(model)
    assert [row.name for row in rows] == [name for name, _ in model.named_parameters()]
    assert [row.name for row in rows if row.prunable] == list(compute_mask(model, 0.5))
    assert all(row.reason for row in rows)


def test_parts_on_several_devices() -> None:
    """Half of the model has no memory yet, as in loaders that place a large model layer by layer."""
    model, mask = network(), random_mask()
    model[3].to("meta")
    apply_mask(model, mask)
    assert not model.get_parameter("0.weight")[~mask["0.weight"]].count_nonzero()
    model[3].to_empty(device="cpu")
    model.load_state_dict(network(4).state_dict())
    assert pruned_are_zero(model, mask)
    assert get_mask(model) == mask


def test_prefixes_of_wrappers_are_named_and_read(tmp_path: Path) -> None:
    model, mask = network(), random_mask()
    wrapped = cast(nn.Module, torch.compile(model, backend="eager"))
    with refused("mask", "0.weight", "_orig_mod.0.weight"):
        apply_mask(wrapped, mask)
    apply_mask(model, mask)
    assert list(get_mask(wrapped)) == [f"_orig_mod.{name}" for name in mask]
    with refused("mask", "_orig_mod.0.weight", "0.weight"):
        apply_mask(network(), get_mask(wrapped))
    torch.save({f"module.{name}": tensor for name, tensor in wrapped.state_dict().items()}, tmp_path / "ddp.pt")
    plain = network(3)
    plain.load_state_dict(read_state(tmp_path / "ddp.pt"))
    require_equal(plain, model)


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for held_first in (True, False):
        model = train_in_parallel(rank, held_first)
        torch.save(model.state_dict(), Path(folder) / f"{held_first}-{rank}.pt")
    torch.distributed.destroy_process_group()


def train_in_parallel(rank: int, held_first: bool) -> nn.Module:
    """DDP over the halves of every batch, held before or after it is wrapped, bit-equal with the loop by hand."""
    mask = random_mask()
    ours, theirs = network(), network()
    if held_first:
        apply_mask(ours, mask)
    wrapped = [nn.parallel.DistributedDataParallel(model) for model in (ours, theirs)]
    if not held_first:
        apply_mask(wrapped[0], {f"module.{name}": keep for name, keep in mask.items()})
    multiply(theirs, mask)
    optimizers = [OPTIMIZERS["sgd"](model.parameters()) for model in wrapped]
    for inputs, labels in batches():
        for model, optimizer in zip(wrapped, optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(model(inputs[rank::2]), labels[rank::2]).backward()
            optimizer.step()
            if model is wrapped[1]:
                multiply(theirs, mask)
        assert pruned_are_zero(ours, mask)
    require_equal(ours, theirs)
    return ours


def test_data_parallel_in_two_processes(tmp_path: Path) -> None:
    assert run_ranks(one_of_two, 2, str(tmp_path)) == [0, 0]
    first, *others = (torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*.pt")))
    assert len(others) == 3
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    assert not torch.equal(first["0.weight"], random_mask().apply(network().state_dict())["0.weight"])
