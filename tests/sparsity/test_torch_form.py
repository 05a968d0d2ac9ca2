"""The form of `torch.nn.utils.prune`, read and written, against torch's own pruning."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from prunetune.sparsity.enforce import apply_mask, is_held
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_files import read_mask, read_state
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope, list_parameters
from prunetune.sparsity.torch_prune import (
    effective_weights,
    fold_masks,
    from_torch_prune,
    masks_in,
    split_masks,
    to_torch_prune,
)
from tests.support.refusals import refused

INPUT = torch.linspace(-1, 1, 12).reshape(2, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)))


def linears(model: nn.Sequential) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return found[0], found[1], found[2]


def pruned_by_torch() -> nn.Sequential:
    """Two weights by magnitude, one of them twice, and a bias at random; one layer is left alone."""
    model = network()
    first, second, _ = linears(model)
    torch_prune.l1_unstructured(first, "weight", 0.25)
    torch_prune.l1_unstructured(first, "weight", 0.5)
    torch_prune.random_unstructured(second, "bias", 3)
    torch_prune.l1_unstructured(second, "weight", 0.5)
    return model


def mask() -> Mask:
    generator = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (8, 6), "2.1.weight": (3, 8), "2.1.bias": (3,)}
    return Mask({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()})


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def removed(model: nn.Module) -> nn.Module:
    """Torch's own way out of its form."""
    for module in model.modules():
        for name in ("weight", "bias"):
            if hasattr(module, f"{name}_orig"):
                torch_prune.remove(module, name)
    return model


def test_the_masks_of_torch_are_read() -> None:
    model = pruned_by_torch()
    first, second, _ = linears(model)
    found = from_torch_prune(model)
    buffers = {"0.weight": first.weight_mask, "2.0.weight": second.weight_mask, "2.0.bias": second.bias_mask}
    assert same(dict(found), {name: torch.as_tensor(buffer).bool() for name, buffer in buffers.items()})
    assert {name: int((~kept).sum()) for name, kept in found.items()} == {  # 12 of 48, then 18 of the 36 left
        "0.weight": 30,
        "2.0.weight": 32,
        "2.0.bias": 3,
    }
    assert from_torch_prune(model.state_dict()) == found


def test_global_pruning_agrees_with_ours_and_is_read() -> None:
    model = network()
    ours = compute_mask(model, 0.7, allocation="global")
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in linears(model)], pruning_method=torch_prune.L1Unstructured, amount=0.7
    )
    assert from_torch_prune(model) == ours


def test_reading_changes_nothing() -> None:
    model = pruned_by_torch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    from_torch_prune(model)
    effective_weights(model)
    assert same(model.state_dict(), before)


def test_no_mask_to_read() -> None:
    for source in (network(), removed(pruned_by_torch()), {"a_orig": torch.ones(2), "b_mask": torch.ones(2)}):
        assert masks_in(source) == {}
        with refused("model", "torch.nn.utils.prune", "form"):
            from_torch_prune(source)


def test_a_state_folds_to_what_torch_s_own_remove_leaves() -> None:
    model = pruned_by_torch()
    folded = fold_masks(model.state_dict())
    assert same(folded, removed(model).state_dict())
    plain = network()
    plain.load_state_dict(folded)
    assert torch.equal(plain(INPUT), model(INPUT))


def test_fold_masks_leaves_other_names_alone_and_in_order() -> None:
    state = {"a_orig": torch.ones(2), "b_mask": torch.zeros(2), "c": torch.ones(1)}  # none has its partner
    assert list(fold_masks(state)) == list(state)
    pair = {"z": torch.ones(1), "w_mask": torch.tensor([0.0, 1.0]), "w_orig": torch.tensor([torch.nan, 2.0])}
    folded = fold_masks(pair)
    assert list(folded) == ["z", "w"]
    assert folded["w"].tolist() == [0.0, 2.0]  # a product would leave the NaN


def test_a_pair_of_two_shapes_is_refused_in_one_line() -> None:
    state = {"w_orig": torch.ones(2, 3), "w_mask": torch.ones(3)}
    with refused("state", "w_mask", "w_orig", "(3,)", "(2, 3)", "shape"):
        fold_masks(state)


def test_a_model_is_put_into_the_form() -> None:
    model, kept = network(), mask()
    sparse = kept.apply(model.state_dict())
    to_torch_prune(model, dict(kept))
    assert from_torch_prune(model) == kept
    assert all(torch_prune.is_pruned(model.get_submodule(name)) for name in ("0", "2.1"))
    assert not torch_prune.is_pruned(model.get_submodule("2.0"))
    assert same(fold_masks(model.state_dict()), sparse)
    plain = network()
    plain.load_state_dict(sparse)
    assert torch.equal(model(INPUT), plain(INPUT))


def test_an_optimizer_made_before_trains_the_same_parameters_and_zeros_stay() -> None:
    model, kept = network(), mask()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = model.get_parameter("0.weight")
    to_torch_prune(model, kept)
    assert model.get_parameter("0.weight_orig") is before
    for _ in range(3):
        model(INPUT).square().sum().backward()
        optimizer.step()
    effective = effective_weights(model)
    assert not torch.equal(effective["0.weight"], kept.apply(network().state_dict())["0.weight"])
    assert all(not effective[name][~keep].count_nonzero() for name, keep in kept.items())


def test_states_convert_both_ways() -> None:
    model, kept = network(), mask()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split = split_masks(plain, dict(kept))
    to_torch_prune(model, kept)
    assert same(split, model.state_dict())  # the very tensors that torch itself keeps, types included
    assert {split[name].dtype for name in split if name.endswith("_mask")} == {torch.float32}
    assert same(fold_masks(split), kept.apply(plain))
    assert from_torch_prune(split) == kept
    model.load_state_dict(split)


def test_round_trip_from_torch_to_held_and_back() -> None:
    model = pruned_by_torch()
    found, output = from_torch_prune(model), model(INPUT)
    apply_mask(removed(model), found)
    assert torch.equal(model(INPUT), output)
    to_torch_prune(model, found)
    assert not is_held(model)
    assert from_torch_prune(model) == found
    assert torch.equal(model(INPUT), output)


def test_refused_by_name_before_anything_changes() -> None:
    model = network()
    for wrong, mentions in (
        ({"0.weight": torch.ones(8, 6), "1.weight": torch.ones(2)}, ("1.weight", "unknown")),
        ({"0.weight": torch.ones(8, 5)}, ("0.weight", "(8, 5)")),
    ):
        with refused("mask", *mentions):
            to_torch_prune(model, wrong)
        with refused("mask", *mentions):
            split_masks(model.state_dict(), wrong)
    assert same(model.state_dict(), network().state_dict())


def test_a_tied_weight_is_refused() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    for name, other in (("0.weight", "1.weight"), ("1.weight", "0.weight")):
        with refused("mask", name, other, "tied"):
            to_torch_prune(tied, {name: torch.ones(4, 4)})
    to_torch_prune(tied, {"0.bias": torch.zeros(4)})
    assert list(from_torch_prune(tied)) == ["0.bias"]


def test_a_tied_pair_counts_once_or_under_each_name() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert list(effective_weights(tied)) == ["0.weight"]
    assert list(effective_weights(tied, remove_duplicate=False)) == ["0.weight", "1.weight"]


def test_a_model_in_the_form_is_refused_in_one_clear_line() -> None:
    model, kept = pruned_by_torch(), mask()
    for use in (
        lambda: apply_mask(model, kept),
        lambda: to_torch_prune(model, kept),
        lambda: kept.apply(model.state_dict()),
    ):
        with refused("mask", "0.weight", "torch.nn.utils.prune", "fold_masks"):
            use()


def test_the_layer_table_says_so() -> None:
    model = pruned_by_torch()
    reasons = {row.name: row.reason for row in list_parameters(model)}
    form = "in the form of torch.nn.utils.prune"
    assert {name for name, reason in reasons.items() if reason == form} == {
        "0.weight_orig",
        "2.0.weight_orig",
        "2.0.bias_orig",
    }
    assert reasons["0.bias"] == "bias"
    assert reasons["2.1.weight"] == "linear weight"


def test_a_mask_of_one_s_own_is_not_that_form() -> None:
    layer = nn.Linear(3, 2)
    layer.register_buffer("weight_mask", torch.ones(2, 3))
    assert list_parameters(layer, Scope())[0].reason == "linear weight"
    assert masks_in(layer) == {}
    assert list(fold_masks(layer.state_dict())) == ["weight", "bias", "weight_mask"]


def test_a_state_in_the_form_does_not_load_into_a_plain_model_and_read_from_a_file_does(tmp_path: Path) -> None:
    model = pruned_by_torch()
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"0.weight".*Unexpected key.*"0.weight_orig"'):
        network().load_state_dict(model.state_dict())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        plain = network()
        plain.load_state_dict(read_state(tmp_path / name))
        assert torch.equal(plain(INPUT), model(INPUT))


def test_a_mask_is_read_from_a_checkpoint_in_the_form_and_from_a_file_of_masks(tmp_path: Path) -> None:
    model = pruned_by_torch()
    found = from_torch_prune(model)
    found.save(tmp_path / "mask.safetensors")
    torch.save(nn.ModuleDict({"module": model}).state_dict(), tmp_path / "ddp.pt")
    assert read_mask(tmp_path / "mask.safetensors") == read_mask(tmp_path / "ddp.pt") == found
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with refused("mask", "0", "1", "values"):
        read_mask(tmp_path / "weights.pt")
    with refused("mask", "No such file", "read"):
        read_mask(tmp_path / "none")
