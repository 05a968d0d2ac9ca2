"""Shrinking: the outputs stay, the work falls, what is kept is kept bit for bit, and what cannot shrink is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunetune.deploy.channel_surgery import channel_savings, shrink
from prunetune.sparsity.channel_operations import ChannelPad
from prunetune.sparsity.enforce import apply_mask, get_mask
from prunetune.sparsity.forward_pass import tensors_in
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope
from tests.support.channel_nets import EXACT, IMAGES, WHOLE, Wired, block, chain, randomised
from tests.support.refusals import refused

pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def zeroed(model: nn.Module, mask: Mask) -> nn.Module:
    """The masked model, made without `apply_mask`."""
    model.load_state_dict(mask.apply(model.state_dict()))
    return model


def outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tensors_in(model.eval()(inputs))


def work(model: nn.Module, inputs: Tensor) -> int:
    """Multiplications of one example in convolutions and linear layers, counted as they run."""
    counts: list[int] = []

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        places = args[0] if transposed else output
        counts.append(places[0].numel() * layer.get_parameter("weight")[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    outputs(model, inputs)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("sparsity", [0.3, 0.8])
@pytest.mark.parametrize("name", EXACT)
def test_the_same_outputs_with_less(name: str, sparsity: float) -> None:
    make, shape = EXACT[name]
    model, inputs = randomised(make()), drawn(2, *shape)
    mask = compute_mask(model, sparsity, pattern="channel", example_inputs=inputs)
    before = digest_tensors(model.state_dict())
    small = shrink(model, mask, inputs)
    assert digest_tensors(model.state_dict()) == before
    others = drawn(5, *shape) * 3  # not those that shrink has looked at
    masked = zeroed(model, mask)
    for wanted, found in zip(outputs(masked, others), outputs(small, others), strict=True):
        assert wanted.shape == found.shape
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert work(small, inputs) < work(model, inputs)
    gone = sum(int((~kept).sum()) for kept in mask.values())
    assert size(model) - size(small) == gone


def test_hand_counts_of_a_chain() -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    small = shrink(model, compute_mask(model, 0.5, pattern="channel", example_inputs=inputs), inputs)
    #            convolution 1→4     batch norm  convolution 4→6     linear 24→10
    assert size(model) == (4 * 9 + 4) + (4 + 4) + (6 * 4 * 9 + 6) + (24 * 10 + 10)
    assert size(small) == (2 * 9 + 2) + (2 + 2) + (3 * 2 * 9 + 3) + (12 * 10 + 10)
    assert work(model, inputs) == 16 * 4 * 9 + 4 * 6 * 4 * 9 + 24 * 10 == 1680
    assert work(small, inputs) == 16 * 2 * 9 + 4 * 3 * 2 * 9 + 12 * 10 == 624
    shapes = {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()}
    assert shapes == {
        "0.weight": (2, 1, 3, 3),
        "0.bias": (2,),
        "1.weight": (2,),
        "1.bias": (2,),
        "1.running_mean": (2,),
        "1.running_var": (2,),
        "1.num_batches_tracked": (),
        "3.weight": (3, 2, 3, 3),
        "3.bias": (3,),
        "5.weight": (10, 12),
        "5.bias": (10,),
    }
    assert repr(small[0]).startswith("Conv2d(1, 2,")  # type: ignore[index]
    assert repr(small[5]).startswith("Linear(in_features=12,")  # type: ignore[index]


def test_what_is_kept_is_kept_bit_for_bit() -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small, state = shrink(model, mask, inputs).state_dict(), model.state_dict()
    one, two = mask["0.bias"], mask["3.bias"]
    assert small["0.weight"].equal(state["0.weight"][one])
    assert small["1.running_var"].equal(state["1.running_var"][one])
    assert small["3.weight"].equal(state["3.weight"][two][:, one])
    assert small["5.weight"].equal(state["5.weight"][:, two.repeat_interleave(4)])
    assert small["5.bias"].equal(state["5.bias"])


def test_modes_gradients_and_holds() -> None:
    model, inputs = randomised(chain()).train(), drawn(1, 1, 6, 6)
    model[1].eval()  # type: ignore[index]
    model[3].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    apply_mask(model, mask)
    small = shrink(model, get_mask(model), inputs)
    assert get_mask(model) == mask
    assert [module.training for module in small.modules()] == [module.training for module in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    with refused("model", "held"):
        get_mask(small)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    F.cross_entropy(small(drawn(8, 1, 6, 6)), torch.arange(8)).backward()
    optimizer.step()  # it trains on


def test_a_mask_of_ones_and_half_precision() -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    ones = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    assert digest_tensors(shrink(model, ones, inputs).state_dict()) == digest_tensors(model.state_dict())
    model, inputs = model.bfloat16(), inputs.bfloat16()
    small = shrink(model, compute_mask(model, 0.5, pattern="channel", example_inputs=inputs), inputs)
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"doubled", "flattened_concat", "stacked_rows"}))
def test_around_what_is_kept_whole_the_rest_shrinks(name: str) -> None:
    model, inputs = randomised(WHOLE[name][0]()), drawn(2, *IMAGES)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    assert size(small) < size(model)
    for wanted, found in zip(outputs(zeroed(model, mask), inputs), outputs(small, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.weight", lambda kept: kept[0, 0, 0, 0].logical_not_()),
        ("1.bias", lambda kept: kept.logical_not_()),
        ("3.bias", lambda kept: kept.fill_(True)),
        ("3.weight", lambda kept: kept[:, 0].logical_not_()),
        ("5.weight", lambda kept: kept[0].fill_(True)),
    ],
)
def test_a_mask_of_anything_but_channels_is_refused(name: str, change: Callable[[Tensor], object]) -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    mask = {
        key: kept.clone() for key, kept in compute_mask(model, 0.5, pattern="channel", example_inputs=inputs).items()
    }
    change(mask[name])
    with refused("mask", "prune"):
        shrink(model, mask, inputs)


@pytest.mark.parametrize("missing", ["0.bias", "1.weight", "1.bias", "3.bias", "5.weight", "3.weight"])
def test_a_mask_that_leaves_a_layer_out_is_refused(missing: str) -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    mask = dict(compute_mask(model, 0.5, pattern="channel", example_inputs=inputs))
    del mask[missing]
    with refused("mask", "prune"):
        shrink(model, mask, inputs)


def test_an_unstructured_mask_and_one_that_keeps_nothing_are_refused() -> None:
    model, inputs = randomised(chain()), drawn(1, 1, 6, 6)
    with refused("mask", "3.weight", "prune"):
        shrink(model, compute_mask(model, 0.5), inputs)
    nothing = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters() if name[0] != "5"}
    with refused("mask", "'0'", "prunes"):
        shrink(model, nothing, inputs)
    output = {"5.weight": torch.ones(10, 24), "5.bias": torch.tensor([0.0] + 9 * [1.0])}
    output["5.weight"][0] = 0
    with refused("mask", "5.weight", "'5'", "reaches"):
        shrink(model, output, inputs)
    with refused("mask", "x"):
        shrink(model, {"x": torch.ones(1)}, inputs)


def written_out() -> nn.Module:
    """The number of channels stands in its code."""
    return Wired(
        lambda net, x: net.fc(F.max_pool2d(net.a(x), 2).reshape(2, 8 * 16)), a=block(3, 8), fc=nn.Linear(128, 5)
    )


def test_the_layer_whose_channels_are_written_out_is_named() -> None:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.b(net.a(x))
        return net.d(net.c(y.reshape(2, 8 * 64)).relu())

    layers = {"a": block(3, 6), "b": block(6, 8), "c": nn.Linear(512, 10), "d": nn.Linear(10, 5)}
    model, inputs = randomised(Wired(wiring, **layers)), drawn(2, *IMAGES)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    with refused("model", "b.0.*", "scope.exclude", "leave"):
        shrink(model, mask, inputs)
    mask = compute_mask(model, 0.5, pattern="channel", scope=Scope(exclude=("b.0.*",)), example_inputs=inputs)
    small = shrink(model, mask, inputs)  # a's channels stay too: b's weight has slices of them
    widths = {name: len(small.get_parameter(f"{name}.bias")) for name in ("a.0", "b.0", "c", "d")}
    assert widths == {"a.0": 6, "b.0": 8, "c": 5, "d": 5}


def test_what_could_go_is_known_before_training() -> None:
    inputs = drawn(2, 3, 5, 16)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    found = channel_savings(model, 0.5, inputs)
    assert (found.macs, found.macs_left, found.share) == (3 * 5 * 2048, 3 * 5 * 1024, 0.5)
    assert str(found) == "Channels: at sparsity 0.5, 50.0% of the multiply-accumulates can go"
    assert found.whole == {"2": "it reaches the output"}


def test_little_that_could_go_is_told_with_the_reasons() -> None:
    layers: list[nn.Module] = [nn.Linear(32, 32), nn.LayerNorm(32)]
    model = nn.Sequential(*layers, nn.Linear(32, 32), nn.Softmax(-1), nn.Linear(32, 1), nn.ReLU(), nn.Linear(1, 2))
    model = nn.Sequential(model, nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    found = channel_savings(model, 0.5, drawn(2, 32))
    before, after = 2 * 32 * 32 + 32 + 2 + 3 * 4, 2 * 32 * 32 + 32 + 1 + 1 + 1 + 2  # all of two outputs lose one
    assert (found.macs, found.macs_left) == (before, after)
    assert str(found) == (
        "Channels: at sparsity 0.5, 0.4% of the multiply-accumulates can go; whole stay "
        "'0.0': '0.1' (LayerNorm) works across channels; '0.2': it goes through the operation Softmax; "
        "'6': it reaches the output"
    )


def test_what_cannot_shrink_is_refused() -> None:
    inputs = drawn(2, *IMAGES)
    model = randomised(written_out())
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    with refused("model", "shrink"):
        shrink(model, mask, inputs)


def test_a_shortcut_padded_with_channels() -> None:
    pad, x = ChannelPad(3, 8), drawn(2, 3, 4, 4)
    whole = pad(x)
    assert whole.shape == (2, 8, 4, 4)
    assert whole[:, 2:5].equal(x)
    assert not whole[:, [0, 1, 5, 6, 7]].any()
    pad.remove([0, 3, 6])
    assert (pad.inputs, pad.outputs) == (2, 5)
    assert pad(x[:, [0, 2]]).equal(whole[:, [1, 2, 4, 5, 7]])
    assert not pad.state_dict()
