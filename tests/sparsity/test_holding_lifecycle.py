"""What becomes of held zeros when models are saved, loaded, copied, moved, wrapped, compiled or let go."""

import gc
import pickle
from copy import deepcopy
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunetune.sparsity.enforce import _BY_PARAMETER, apply_mask, get_mask, remove_mask
from prunetune.sparsity.mask import Mask
from tests.support.refusals import refused


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)))


@pytest.fixture
def mask() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "0.weight": torch.rand(8, 6, generator=generator) < 0.5,
        "2.1.weight": torch.rand(3, 8, generator=generator) < 0.5,
    }


@pytest.fixture
def model(mask: dict[str, Tensor]) -> nn.Sequential:
    held = network()
    apply_mask(held, mask)
    return held


def pruned_are_zero(model: nn.Module, mask: dict[str, Tensor]) -> bool:
    return all(not model.get_parameter(name)[~keep].count_nonzero() for name, keep in mask.items())


def push(model: nn.Module) -> None:
    """One optimizer step that moves every weight, without a forward pass."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_zeroes_at_once_and_touches_nothing_else(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    for name, dense in network().state_dict().items():
        expected = torch.where(mask[name], dense, 0) if name in mask else dense
        assert torch.equal(model.state_dict()[name], expected)


def test_nothing_of_the_model_shows_it(model: nn.Sequential) -> None:
    assert list(model.state_dict()) == list(network().state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in network().named_parameters()]
    assert not list(model.named_buffers())
    assert len(list(model.modules())) == len(list(network().modules()))


def test_the_mask_can_be_asked_back(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    assert get_mask(model) == Mask(mask)
    assert list(get_mask(model[2])) == ["1.weight"]
    with refused("model", "held"):
        get_mask(network())


def test_a_dense_state_loads_sparse(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    torch.manual_seed(5)
    dense = {name: torch.randn_like(tensor) for name, tensor in network().state_dict().items()}
    model.load_state_dict(dense)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, torch.where(mask[name], dense[name], 0) if name in mask else dense[name])


def test_a_state_loaded_by_assignment_is_held(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    model.load_state_dict(network().state_dict(), assign=True)
    assert pruned_are_zero(model, mask)
    push(model)
    assert pruned_are_zero(model, mask)


def test_a_state_is_sparse_even_after_a_write_that_nothing_saw(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    for parameter in model.parameters():
        parameter.data.add_(1)
    state = model.state_dict()
    assert all(not state[name][~keep].count_nonzero() for name, keep in mask.items())
    assert state["0.weight"][mask["0.weight"]].count_nonzero() == mask["0.weight"].sum()


def test_states_survive_a_file(model: nn.Sequential, mask: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "state.pt")
    plain = network()
    plain.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert pruned_are_zero(plain, mask)
    push(plain)
    assert not pruned_are_zero(plain, mask)  # a state is plain weights: it holds nobody


@pytest.mark.parametrize(
    "again", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_and_pickles_of_the_model_hold(
    again: type[nn.Sequential], model: nn.Sequential, mask: dict[str, Tensor]
) -> None:
    other = again(model)
    push(other)
    assert pruned_are_zero(other, mask)
    assert get_mask(other) == Mask(mask)
    push(again(other)[2])
    remove_mask(other)
    push(other)
    assert not pruned_are_zero(other, mask)
    push(model)
    assert pruned_are_zero(model, mask)


def test_a_copy_of_a_part_holds(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    part = deepcopy(model[2])
    push(part)
    assert not part.get_parameter("1.weight")[~mask["2.1.weight"]].count_nonzero()


@pytest.mark.parametrize("swap", [False, True])
def test_conversion_of_the_model_keeps_holding(swap: bool, model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    model(torch.randn(2, 6, dtype=torch.float64))
    push(model)
    assert model.get_parameter("0.weight").dtype is torch.float64
    assert pruned_are_zero(model, mask)


def test_a_visit_to_the_meta_device_keeps_the_mask(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    model.to("meta")
    model(torch.ones(1, 6, device="meta"))
    model.to_empty(device="cpu")
    model.load_state_dict(network().state_dict())
    assert pruned_are_zero(model, mask)
    assert get_mask(model) == Mask(mask)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_moving_to_a_gpu_and_back(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    model.cuda()
    push(model)
    assert pruned_are_zero(model.cpu(), mask)
    push(model)
    assert pruned_are_zero(model, mask)


def test_a_replaced_parameter_is_held_from_the_next_forward_pass_on(
    model: nn.Sequential, mask: dict[str, Tensor]
) -> None:
    model[0].weight = nn.Parameter(torch.ones(8, 6))
    model.get_submodule("2.1").weight = nn.Parameter(torch.ones(3, 8))
    model[0](torch.ones(1, 6))  # the layer's own forward pass finds its own
    assert not model.get_parameter("0.weight")[~mask["0.weight"]].count_nonzero()
    model(torch.ones(1, 6))
    push(model)
    assert pruned_are_zero(model, mask)
    assert len([key for key in _BY_PARAMETER if key in {id(p) for p in model.parameters()}]) == 2


def test_a_second_hold_replaces_the_first(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    other = {"0.weight": ~mask["0.weight"]}
    apply_mask(model, other)
    assert not model.get_parameter("0.weight").count_nonzero()
    push(model)
    assert torch.equal(model.get_parameter("0.weight") != 0, other["0.weight"])
    assert model.get_parameter("2.1.weight").count_nonzero() == 24
    assert get_mask(model) == Mask(other)
    hooked = [module for module in model.modules() if module._forward_pre_hooks]
    assert hooked == [model, model[0]]
    assert [len(module._forward_pre_hooks) for module in hooked] == [1, 1]


def test_release_leaves_zeros_and_no_trace(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    remove_mask(model)
    assert pruned_are_zero(model, mask)
    fresh = network()
    for ours, theirs in zip(model.modules(), fresh.modules(), strict=True):
        assert ours.__dict__.keys() == theirs.__dict__.keys()
        for hooks in ("_forward_pre_hooks", "_state_dict_pre_hooks", "_load_state_dict_post_hooks"):
            assert not getattr(ours, hooks)
    model.load_state_dict(fresh.state_dict())
    assert torch.equal(model.get_parameter("0.weight"), fresh.get_parameter("0.weight"))
    push(model)
    assert torch.equal(model.get_parameter("0.weight"), fresh.get_parameter("0.weight") - 1)


def test_hooks_of_others_stay() -> None:
    model = network()
    called: list[str] = []
    model[0].register_forward_pre_hook(lambda *_: called.append("theirs"))
    apply_mask(model, {"0.weight": torch.ones(8, 6)})
    remove_mask(model)
    model(torch.ones(1, 6))
    assert called == ["theirs"]


def test_forgotten_models_leave_nothing_behind(mask: dict[str, Tensor]) -> None:
    gc.collect()
    before = len(_BY_PARAMETER)
    model = network()
    apply_mask(model, mask)
    assert len(_BY_PARAMETER) == before + 2
    del model
    gc.collect()
    assert len(_BY_PARAMETER) == before


def test_a_model_that_is_one_layer() -> None:
    model = nn.Linear(2, 2, bias=False)
    apply_mask(model, {"weight": torch.eye(2)})
    push(model)
    assert torch.equal(model.weight != 0, torch.eye(2, dtype=torch.bool))
    assert list(get_mask(model)) == ["weight"]


def test_a_tied_weight_is_held_once_under_its_first_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model.get_parameter("0.weight")
    keep = torch.eye(4)
    for given in ({"1.weight": keep}, {"0.weight": keep, "1.weight": keep}):
        apply_mask(model, given)
        assert get_mask(model) == Mask({"0.weight": keep})
        push(model)
        assert torch.equal(model.get_parameter("1.weight") != 0, keep.bool())
        assert model.get_parameter("1.weight") is model.get_parameter("0.weight")
    with refused("mask", "1.weight", "0.weight", "tied"):
        apply_mask(model, {"0.weight": keep, "1.weight": 1 - keep})


def test_a_mask_that_does_not_fit_is_refused_and_changes_nothing(model: nn.Sequential, mask: dict[str, Tensor]) -> None:
    with refused("mask", "0.wieght", "0.weight"):
        apply_mask(model, {"2.0.weight": torch.zeros(8, 8), "0.wieght": mask["0.weight"]})
    with refused("mask", "0.weight", "(6, 8)", "(8, 6)", "shape"):
        apply_mask(model, {"0.weight": mask["0.weight"].t()})
    with refused("mask", "0", "1", "values"):
        apply_mask(model, {"0.weight": torch.full((8, 6), 0.5)})
    assert model.get_parameter("2.0.weight").count_nonzero() == 64
    assert get_mask(model) == Mask(mask)


def test_weights_that_somebody_else_passes_in_are_not_touched(model: nn.Sequential) -> None:
    theirs = {name: tensor.detach().clone().fill_(1.0) for name, tensor in model.named_parameters()}
    functional_call(model, theirs, (torch.ones(1, 6),))
    assert all((tensor == 1).all() for tensor in theirs.values())
    gradients = torch.func.grad(lambda p: functional_call(model, p, (torch.ones(1, 6),)).sum())(theirs)
    assert gradients["0.weight"].count_nonzero() == 48


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forward_passes_without_gradients_zero_too(
    mode: type[torch.no_grad], model: nn.Sequential, mask: dict[str, Tensor]
) -> None:
    model.get_parameter("0.weight").data.add_(1)
    with mode():
        model(torch.ones(1, 6))
    assert pruned_are_zero(model, mask)
    model(torch.ones(1, 6)).sum().backward()
    push(model)
    assert pruned_are_zero(model, mask)


@pytest.mark.parametrize("wrapped_first", [False, True])
def test_a_compiled_model_without_graph_breaks(wrapped_first: bool, mask: dict[str, Tensor]) -> None:
    model = network()
    torch._dynamo.reset()
    compiled = cast(nn.Module, torch.compile(model, backend="eager", fullgraph=True))
    if wrapped_first:
        apply_mask(compiled, {f"_orig_mod.{name}": keep for name, keep in mask.items()})
    else:
        apply_mask(model, mask)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        compiled(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
        assert pruned_are_zero(model, mask)
    torch._dynamo.reset()


def test_exported_programs_hold_no_trace_of_it(model: nn.Sequential) -> None:
    exported = torch.export.export(model.eval(), (torch.ones(1, 6),))
    plain = torch.export.export(network().eval(), (torch.ones(1, 6),))
    assert exported.graph_module.code == plain.graph_module.code


def test_data_parallel_in_one_process(mask: dict[str, Tensor], tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = network()
        apply_mask(model, mask)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            parallel(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()
            assert pruned_are_zero(model, mask)
        model.get_parameter("0.weight").data.add_(1)
        parallel(torch.randn(4, 6))
        assert pruned_are_zero(model, mask)
        del parallel  # before the group: what is left of one after it may wait for ever
    finally:
        torch.distributed.destroy_process_group()
