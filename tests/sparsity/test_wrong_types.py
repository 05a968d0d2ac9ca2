"""What the public functions say to a value of a type that they do not take: one line that names argument and value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunetune as pt
from prunetune.deploy.bitmask import load_bitmask, save_bitmask
from prunetune.deploy.channel_surgery import shrink
from prunetune.deploy.latency import latencies
from prunetune.deploy.sizes import count, file_sizes
from prunetune.errors import ConfigError
from prunetune.sparsity.criteria import Magnitude
from prunetune.sparsity.torch_prune import fold_masks, from_torch_prune, split_masks, to_torch_prune

NAME = "weight"


def net() -> nn.Module:
    return nn.Linear(4, 4)


def mask() -> dict[str, Tensor]:
    return {NAME: torch.eye(4, dtype=torch.bool)}


def inputs() -> Tensor:
    return torch.zeros(2, 4)


# A call, and how its error begins: the argument, and the value as it was given.
CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (pt.list_parameters, (None,), {}, "model: None; must be a torch.nn.Module"),
    (pt.list_parameters, (nn.Linear,), {}, "model: <class 'torch.nn.modules.linear.Linear'> is a class; must be"),
    (pt.list_parameters, (net(), "head.*"), {}, "scope: 'head.*' is a str; must be a Scope, such as Scope("),
    (pt.Scope, (3,), {}, "scope.include: 3 is a int; must be patterns of names, such as 'head.*'"),
    (pt.Scope, (), {"exclude": None}, "scope.exclude: None; must be patterns"),
    (pt.Scope, (["a", 3],), {}, "scope.include: 3 is no text"),
    (pt.Mask, (3,), {}, "mask: 3 is a int; must be a Mask, or a dict"),
    (pt.Mask, ({NAME: 3},), {}, "mask: 'weight' is a int; it must be a tensor"),
    (pt.Mask, ({3: torch.ones(2)},), {}, "mask: a name: 3 is a int; must be the name of a parameter"),
    (pt.Mask.load, (3,), {}, "path: 3 is a int; must be a path, such as 'mask.safetensors'"),
    (pt.Mask(mask()).save, (None,), {}, "path: None; must be a path"),
    (
        pt.Mask(mask()).apply,
        (net(),),
        {},
        "state: Linear(in_features=4, out_features=4, bias=True) is a Linear; must be",
    ),
    (pt.Mask(mask()).subset, (["wieght"],), {}, "names: unknown 'wieght'; did you mean 'weight'?"),
    (pt.Mask(mask()).subset, (NAME,), {}, "names: 'weight' is a str; must be a list of parameter names"),
    (pt.apply_mask, (net(), None), {}, "mask: None; must be a Mask, or a dict"),
    (pt.apply_mask, ("model.pt", mask()), {}, "model: 'model.pt' is a str; must be a torch.nn.Module"),
    (pt.apply_mask, (net(), mask(), "sgd"), {}, "optimizer: 'sgd' is a str; must be a torch.optim.Optimizer, or None"),
    (pt.get_mask, (None,), {}, "model: None; must be a torch.nn.Module"),
    (pt.remove_mask, (3,), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (pt.compute_mask, ("x", 0.5), {}, "model: 'x' is a str; must be a torch.nn.Module"),
    (pt.compute_mask, (net(), "0.5"), {}, "sparsity: '0.5' is a str; must be a number, such as 0.9"),
    (pt.compute_mask, (net(), None), {}, "sparsity: None; must be a number"),
    (pt.compute_mask, (net(), torch.ones(2)), {}, "sparsity: tensor([1., 1.]) is a Tensor; must be a number"),
    (pt.compute_mask, (net(), 80), {}, "sparsity: 80.0 is not a share of weights to prune; it must lie in (0, 1)"),
    (pt.compute_mask, (net(), 0.5), {"criterion": 3}, "criterion: 3 is a int; must be a name, such as 'magnitude'"),
    (pt.compute_mask, (net(), 0.5), {"criterion": Magnitude}, "criterion: <class 'prunetune.sparsity.criteria.Magn"),
    (pt.compute_mask, (net(), 0.5), {"allocation": ["erk"]}, "allocation: ['erk'] is a list; must be a name"),
    (pt.compute_mask, (net(), 0.5), {"pattern": (2, 4)}, "pattern: (2, 4) is a tuple; must be a name"),
    (pt.compute_mask, (net(), 0.5), {"scope": ("a",)}, "scope: ('a',) is a tuple; must be a Scope"),
    (pt.compute_mask, (net(), 0.5, "snip"), {"batches": 3}, "batches: 3 is a int; must be pairs (inputs, targets)"),
    (
        pt.compute_mask,
        (net(), 0.5, "snip"),
        {"batches": [(inputs(), inputs())], "loss": "mse"},
        "loss: 'mse' is a str; must be",
    ),
    (pt.correlation, (3, net(), 0.2), {}, "a: 3 is a int; must be a torch.nn.Module or a state dict"),
    (pt.correlation, (net(), 4, 0.2), {}, "b: 4 is a int; must be a torch.nn.Module or a state dict"),
    (pt.correlation, (net(), net(), None), {}, "p: None; must be a number, such as 0.2"),
    (pt.correlation, (net(), net(), 20), {}, "p: 20.0 is not a share of weights; it must lie in (0, 1)"),
    (pt.correlation, (net(), net(), 0.2), {"mask": 3}, "mask: 3 is a int; must be a Mask"),
    (pt.correlation, (net(), net(), 0.2), {"names": NAME}, "names: 'weight' is a str; must be a list of"),
    (pt.correlation, (net(), net(), 0.2), {"names": 3}, "names: 3 is a int; must be a list of tensors' names"),
    (pt.correlation, ({"a": 3}, {"a": 3}, 0.2), {}, "nothing to compare: no floating-point tensor"),
    (pt.export, (None, None, "x.onnx"), {}, "model: None; must be a torch.nn.Module"),
    (pt.export, (net(), 3, "x.safetensors"), {}, "mask: 3 is a int; must be a Mask"),
    (pt.export, (net(), None, None), {}, "path: None; must be a path, such as 'model.onnx'"),
    (pt.export, (net(), None, "x.pt2", 3), {}, "example_inputs: 3 is a int; must be a tensor, a tuple or a dict"),
    (pt.export, (net(), None, "x.pt2", inputs()), {"tolerance": "a"}, "tolerance: 'a' is a str; must be a number"),
    (pt.export, (net(), None, "x.pt2", inputs()), {"batch_dim": "a"}, "batch_dim: 'a' is a str; must be the number"),
    (pt.sparsity_report, (3,), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (pt.sparsity_report, (net(), "mask.pt"), {}, "mask: 'mask.pt' is a str; must be a Mask"),
    (pt.sparsity_report, (net(), None, "x"), {}, "scope: 'x' is a str; must be a Scope"),
    (pt.recommend, (3,), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (pt.recommend, (net(),), {"sparsity": "x"}, "sparsity: 'x' is a str; must be a number"),
    (
        pt.recommend,
        (net(),),
        {"initial": 3},
        "initial: 3 is a int; must be a module, a state dict or a checkpoint file",
    ),
    (pt.recommend, (net(),), {"initial": net(), "p": 0.2}, "p: 0.2 is a float; must be a list of shares of weights"),
    (pt.recommend, (), {"audit": 3}, "audit: 3 is a int; must be a path"),
    (from_torch_prune, (None,), {}, "model: None; must be a torch.nn.Module or a state dict"),
    (to_torch_prune, (3, mask()), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (fold_masks, (net(),), {}, "state: Linear(in_features=4, out_features=4, bias=True) is a Linear; must be"),
    (split_masks, (3, mask()), {}, "state: 3 is a int; must be a state dict"),
    (shrink, (3, mask(), inputs()), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (
        latencies,
        (net(), inputs()),
        {},
        "models: Linear(in_features=4, out_features=4, bias=True) is a Linear; must be a dict",
    ),
    (latencies, ({"a": 3}, inputs()), {}, "models: 'a': 3 is a int; must be a torch.nn.Module"),
    (latencies, ({"a": net()}, inputs()), {"rounds": "6"}, "rounds: '6' is a str; must be a number of rounds"),
    (count, (3, inputs()), {}, "model: 3 is a int; must be a torch.nn.Module"),
    (
        file_sizes,
        (net(),),
        {},
        "state: Linear(in_features=4, out_features=4, bias=True) is a Linear; must be a state dict",
    ),
    (load_bitmask, (3,), {}, "path: 3 is a int; must be a path"),
    (save_bitmask, (net(), "x"), {}, "state: Linear(in_features=4, out_features=4, bias=True) is a Linear; must be"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "beginning"), CALLS, ids=[call[3][:40] for call in CALLS])
def test_a_wrong_type_is_one_line_that_names_argument_and_value(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    beginning: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    assert str(error.value).startswith(beginning)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_wrong_optimizer_leaves_the_model_as_it_was() -> None:
    model = net()
    with pytest.raises(ConfigError):
        pt.apply_mask(model, mask(), "sgd")  # pyright: ignore[reportArgumentType]
    assert all(parameter.all() for parameter in model.parameters())
    with pytest.raises(ConfigError):
        pt.get_mask(model)
