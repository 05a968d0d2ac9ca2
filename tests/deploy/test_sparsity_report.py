"""The report of every layer: what is pruned, what is not and why, and each way in which sparsity is lost in silence."""

import sys
from subprocess import run

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunetune as pt
from prunetune.sparsity.torch_prune import from_torch_prune
from tests.support.refusals import refused

UNNAMED = "in scope, but no mask names it"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))


def mask() -> pt.Mask:
    """Keeps 8 of 32 and 2 of 8 weights."""
    return pt.Mask({"3.weight": torch.arange(32).reshape(4, 8) < 8, "4.weight": torch.arange(8).reshape(2, 4) % 4 == 0})


def held() -> nn.Sequential:
    model = network()
    pt.apply_mask(model, mask())
    return model


def test_every_parameter_has_a_row_with_its_reason() -> None:
    rows = pt.sparsity_report(held()).rows
    assert [(r.name, r.kind, r.total, r.nonzero, r.density, r.held, r.reason, r.revived) for r in rows] == [
        ("0.weight", "Conv2d", 8, 8, 1.0, False, "first convolution", 0),
        ("0.bias", "Conv2d", 2, 2, 1.0, False, "bias", 0),
        ("1.weight", "BatchNorm2d", 2, 2, 1.0, False, "normalisation", 0),
        ("1.bias", "BatchNorm2d", 2, 0, 0.0, False, "normalisation", 0),
        ("3.weight", "Linear", 32, 8, 0.25, True, "", 0),
        ("3.bias", "Linear", 4, 4, 1.0, False, "bias", 0),
        ("4.weight", "Linear", 8, 2, 0.25, True, "", 0),
        ("4.bias", "Linear", 2, 2, 1.0, False, "bias", 0),
    ]


def test_sums_and_no_problems() -> None:
    found = pt.sparsity_report(held())
    assert (found.masked, found.masked_nonzeros) == (40, 10)
    assert (found.parameters, found.nonzeros, found.density) == (60, 28, 28 / 60)
    assert found.covered == 40 / 60
    assert (
        found.coverage == "coverage: the mask names 66.7% of the parameters; all of them together are sparse by 53.3%"
    )
    assert found.problems == ()


def test_the_table() -> None:
    assert str(pt.sparsity_report(held())) == "\n".join(
        [
            "parameter          kind         weights  non-zero  density  held  not pruned because",
            "------------------------------------------------------------------------------------",
            "0.weight           Conv2d             8         8   1.0000  no    first convolution",
            "0.bias             Conv2d             2         2   1.0000  no    bias",
            "1.weight           BatchNorm2d        2         2   1.0000  no    normalisation",
            "1.bias             BatchNorm2d        2         0   0.0000  no    normalisation",
            "3.weight           Linear            32         8   0.2500  yes",
            "3.bias             Linear             4         4   1.0000  no    bias",
            "4.weight           Linear             8         2   0.2500  yes",
            "4.bias             Linear             2         2   1.0000  no    bias",
            "------------------------------------------------------------------------------------",
            "named by the mask                    40        10   0.2500",
            "all parameters                       60        28   0.4667",
            "coverage: the mask names 66.7% of the parameters; all of them together are sparse by 53.3%",
        ]
    )


def test_without_a_mask() -> None:
    found = pt.sparsity_report(network())
    assert found.problems == ("! no mask: nothing is pruned or held; call apply_mask(model, mask)",)
    assert {row.name for row in found.rows if row.reason == UNNAMED} == {"3.weight", "4.weight"}
    assert (found.masked, found.masked_nonzeros, found.nonzeros) == (0, 0, 58)
    assert str(found).splitlines()[-4].split() == ["named", "by", "the", "mask", "0", "0", "–"]


def test_a_mask_that_nobody_applied() -> None:
    assert pt.sparsity_report(network(), mask()).problems == (
        "! 3.weight: pruned weights that are not zero: 24",
        "! 4.weight: pruned weights that are not zero: 6",
        "! the model is not held: an optimizer's next step may revive weights; call apply_mask(model, mask)",
    )


def test_a_model_that_was_let_go_is_sparse_and_then_revived() -> None:
    model = held()
    pt.remove_mask(model)
    not_held = ("! the model is not held: an optimizer's next step may revive weights; call apply_mask(model, mask)",)
    assert pt.sparsity_report(model, mask()).problems == not_held
    with torch.no_grad():
        last = model.get_parameter("4.weight")
        last[1, 3] = 0.5
        last[0, 0] = 0.5  # a kept one
    found = pt.sparsity_report(model, mask())
    assert found.problems == ("! 4.weight: pruned weights that are not zero: 1", *not_held)
    assert [row.revived for row in found.rows if row.name == "4.weight"] == [1]


def test_looking_does_not_zero_what_came_back_to_life() -> None:
    model = held()
    model.get_parameter("3.weight").data.fill_(1.0)  # a write that nothing records, until the next forward pass
    for _ in range(2):
        assert pt.sparsity_report(model).problems == ("! 3.weight: pruned weights that are not zero: 24",)
    model(torch.ones(1, 1, 3, 3))
    assert pt.sparsity_report(model).problems == ()


def test_a_layer_in_scope_that_the_mask_leaves_out() -> None:
    model = network()
    pt.apply_mask(model, {"3.weight": mask()["3.weight"]})
    assert pt.sparsity_report(model).problems == (f"! 4.weight: {UNNAMED}",)
    excluded = pt.sparsity_report(model, scope=pt.Scope(exclude=("4.*",)))
    assert excluded.problems == ()
    assert next(row.reason for row in excluded.rows if row.name == "4.weight") == "excluded by '4.*'"
    included = pt.sparsity_report(model, scope=pt.Scope(include=("0.weight",)))
    assert included.problems == (f"! 0.weight: {UNNAMED}", f"! 4.weight: {UNNAMED}")


def test_another_mask_than_the_one_that_is_held() -> None:
    model, kept = held(), dict(mask())
    stricter = {**kept, "4.weight": torch.zeros(2, 4)}
    assert pt.sparsity_report(model, stricter).problems == (
        "! 4.weight: pruned weights that are not zero: 2",
        "! 4.weight: not held by this mask; call apply_mask(model, mask)",
        "! 4.weight: no weight of it is left, so that nothing comes through its layer",
    )
    looser = {**kept, "4.weight": torch.ones(2, 4)}
    assert pt.sparsity_report(model, looser).problems == ()  # what is held keeps less than it


def test_a_tied_weight_counts_once_under_its_first_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    found = pt.sparsity_report(model, {"1.weight": torch.eye(4)})
    assert [(row.name, row.reason) for row in found.rows] == [("0.weight", ""), ("1.weight", "tied to '0.weight'")]
    assert (found.parameters, found.masked) == (16, 16)


def test_weights_as_torch_prunes_them() -> None:
    model = network()
    torch_prune.l1_unstructured(model[3], "weight", 0.75)
    torch_prune.l1_unstructured(model[4], "bias", 1)
    found = pt.sparsity_report(model)
    rows = {row.name: row for row in found.rows}
    assert (rows["3.weight"].nonzero, rows["3.weight"].held, rows["3.weight"].reason) == (8, True, "")
    assert (rows["4.bias"].nonzero, rows["4.bias"].held, rows["4.bias"].reason) == (1, True, "")
    assert found.problems == (f"! 4.weight: {UNNAMED}",)
    assert (found.parameters, found.masked, found.masked_nonzeros) == (60, 34, 9)
    with refused("mask", "torch.nn.utils.prune", "form"):
        pt.sparsity_report(model, from_torch_prune(model))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with refused("mask", "3.weigth", "3.weight"):
        pt.sparsity_report(network(), {"3.weigth": torch.ones(4, 8)})
    with refused("scope.exclude", "head", "matches"):
        pt.sparsity_report(network(), scope=pt.Scope(exclude=("head",)))


def test_a_model_without_parameters() -> None:
    found = pt.sparsity_report(nn.Flatten())
    assert (found.rows, found.density) == ((), 1.0)
    assert "all parameters" in str(found)


def test_the_name_costs_nothing_until_it_is_used() -> None:
    code = "import sys, prunetune; assert 'sparsity_report' in prunetune.__all__; assert 'torch' not in sys.modules"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_mask_that_leaves_most_of_a_model_out_is_a_problem() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(8, 8), "head": nn.Linear(8, 4)})
    pt.apply_mask(model, pt.compute_mask(model, 0.5))
    report = pt.sparsity_report(model)
    assert report.covered == 32 / 612
    (problem,) = report.problems
    assert problem == (
        "! the mask names 5.2% of the parameters; the largest that it leaves out is lstm.weight_ih_l0 (256 weights): "
        "recurrent weight; scope.include '*weight_ih_l0' prunes it"
    )
    assert report.coverage in str(report)
