"""Channels of feed-forward blocks on (N, L, C), of tied tensors, and of networks whose group search had no end."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from channel_nets import Wired, block, randomised
from prunetune.deploy.shrink import shrink
from prunetune.errors import RequestError
from prunetune.sparsity.channel_groups import channel_groups
from prunetune.sparsity.channel_trace import tensors_in
from prunetune.sparsity.channel_walk import walk
from prunetune.sparsity.choose import prune
from prunetune.sparsity.scope import Scope

SEQUENCE = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
IDS = {"input_ids": torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}


def feed_forward(bias: bool = True, width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(16, width, bias=bias), nn.GELU(), nn.Linear(width, 16, bias=bias))


def gated() -> nn.Module:
    layers = {"gate": nn.Linear(16, 12), "up": nn.Linear(16, 12), "down": nn.Linear(12, 16, bias=False)}
    return Wired(lambda net, x: net.down(F.silu(net.gate(x)) * net.up(x)), **layers)


def mean_of_sequence() -> nn.Module:
    return Wired(lambda net, x: net.fc(net.a(x).tanh().mean(1)), a=nn.Linear(16, 12), fc=nn.Linear(12, 3))


def first_of_sequence() -> nn.Module:
    return Wired(lambda net, x: net.fc(net.a(x).tanh()[:, 0]), a=nn.Linear(16, 12), fc=nn.Linear(12, 3))


FREE: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "bias": (feed_forward, SEQUENCE),
    "no bias": (lambda: feed_forward(bias=False), SEQUENCE),
    "as wide as long": (lambda: feed_forward(width=5), SEQUENCE),
    "four dimensions": (feed_forward, SEQUENCE[:, None]),
    "not contiguous": (feed_forward, SEQUENCE.transpose(0, 1)),
    "gated": (gated, SEQUENCE),
    "mean": (mean_of_sequence, SEQUENCE),
    "first": (first_of_sequence, SEQUENCE),
}


@pytest.mark.parametrize("name", FREE)
def test_hidden_channels_of_a_sequence_go_and_the_outputs_stay(name: str) -> None:
    make, inputs = FREE[name]
    model = randomised(make())
    free = [group for group in channel_groups(model, inputs) if not group.whole]
    assert [group.channels for group in free] == [len(free[0].outputs)]
    mask = prune(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)  # compares the outputs
    first, *_, last = [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
    assert first.out_features == last.in_features == round(0.5 * free[0].channels)


def along_time() -> nn.Module:
    return Wired(lambda net, x: net.b(net.a(x).transpose(1, 2)), a=nn.Linear(16, 12), b=nn.Linear(5, 4))


def flattened() -> nn.Module:
    return Wired(lambda net, x: net.b(net.a(x).flatten(1)), a=nn.Linear(16, 12), b=nn.Linear(60, 4))


def rows_of_images() -> nn.Module:
    return Wired(lambda net, x: net.b(net.a(x)), a=nn.Conv2d(2, 16, 1), b=nn.Linear(16, 4))


def pooled_over_channels() -> nn.Module:
    return Wired(lambda net, x: net.b(F.avg_pool2d(net.a(x)[:, None], (1, 2))), a=nn.Linear(16, 12), b=nn.Linear(6, 4))


def normed_over_time() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def functional() -> nn.Module:
    return Wired(
        lambda net, x: net.c(F.linear(net.a(x), net.b.weight)), a=nn.Linear(16, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 4)
    )


def classes_first() -> nn.Module:
    """The class token makes a concatenation along time, which Torch-Pruning takes for channels."""
    net = Wired(
        lambda net, x: net.b(torch.cat([net.token.expand(2, 1, 8), net.a(x)], 1)), a=nn.Linear(16, 8), b=nn.Linear(8, 4)
    )
    net.token = nn.Parameter(torch.randn(1, 1, 8))
    return net


MIXED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "transposed": (along_time, SEQUENCE, "a"),
    "flattened": (flattened, SEQUENCE, "a"),
    "rows of images": (rows_of_images, torch.randn(2, 2, 16, 16), "a"),
    "pooled": (pooled_over_channels, SEQUENCE, "a"),
    "batch norm over time": (normed_over_time, SEQUENCE, "0"),
    "functional": (functional, SEQUENCE, "a"),
    "class token": (classes_first, SEQUENCE, "a"),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_the_channels_of_a_sequence_keeps_them_whole(name: str) -> None:
    make, inputs, layer = MIXED[name]
    reasons = {group.layer: group.whole for group in channel_groups(make(), inputs)}
    assert reasons[layer]


def test_convolutions_beside_a_sequence_keep_their_flattened_channels() -> None:
    def wiring(net: Wired, x: Tensor) -> Tensor:
        y = net.fc(net.conv(x).flatten(1))
        return y + net.b(net.a(x[:, 0])).mean(1)

    layers = {"conv": block(3, 6), "fc": nn.Linear(6 * 64, 4), "a": nn.Linear(8, 10), "b": nn.Linear(10, 4)}
    model, inputs = randomised(Wired(wiring, **layers)), torch.randn(2, 3, 8, 8)
    mask = prune(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    shapes = {name: tuple(small.get_parameter(f"{name}.weight").shape) for name in ("conv.0", "fc", "a", "b")}
    assert shapes == {"conv.0": (3, 3, 3, 3), "fc": (4, 192), "a": (5, 8), "b": (4, 5)}


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
DECODER = {**SMALL, "vocab_size": 30, "num_key_value_heads": 1, "use_cache": False}


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))


def masked_bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **SMALL))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, patch_size=4, **SMALL))


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "llama": (llama, IDS),
    "bert, tied": (masked_bert, IDS),
    "vit": (vit, torch.randn(2, 3, 8, 8)),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_feed_forward_blocks_of_published_transformers_shrink(name: str) -> None:
    make, inputs = PUBLISHED[name]
    model = make().eval()
    mask = prune(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    widths = [layer.out_features for layer in small.modules() if isinstance(layer, nn.Linear)]
    assert widths.count(6) == (4 if name == "llama" else 2)
    assert 12 not in widths


def test_a_tied_tensor_keeps_only_its_own_groups_whole() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    model[2].weight = model[0].weight
    inputs = torch.randn(3, 6)
    tied = "'{}.weight' is tied to '{}.weight'"
    reasons = {group.layer: group.whole for group in channel_groups(model, inputs)}
    assert reasons == {"0": tied.format(0, 2), "2": tied.format(2, 0), "4": None, "6": "it reaches the output"}
    mask = prune(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    assert small[4].weight.shape == (4, 6)  # type: ignore[union-attr]
    assert small[2].weight is small[0].weight  # type: ignore[union-attr]


def test_a_module_registered_twice_keeps_only_its_own_groups_whole() -> None:
    twice = nn.Linear(6, 6)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(3, 6)
    mask = prune(model, 0.5, pattern="channel", example_inputs=inputs)
    assert shrink(model, mask, inputs)[3].weight.shape == (4, 6)  # type: ignore[union-attr]
    assert mask["0.weight"].all()


def test_a_walk_stops_at_its_limit_and_the_group_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = feed_forward(), torch.randn(3, 16)
    monkeypatch.setattr("prunetune.sparsity.channel_groups.walk", lambda *args: walk(*args, limit=20))
    first, _ = channel_groups(model, inputs)
    assert first.whole == "it is coupled with more than can be followed"


def test_an_excluded_layer_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []

    def noted(graph: Any, layer: Any, outputs: Any) -> Any:
        searched.append(layer.out_features)
        return walk(graph, layer, outputs)

    monkeypatch.setattr("prunetune.sparsity.channel_groups.walk", noted)
    groups = channel_groups(feed_forward(), SEQUENCE, Scope(exclude=("0.weight",)))
    assert groups[0].whole == "'0.weight' is excluded by '0.weight'"
    assert searched == [16]


def test_outputs_beside_none_and_caches_are_found() -> None:
    x, y = torch.ones(1), torch.zeros(2)
    assert tensors_in({"a": x, "b": (None, [y, object()]), "c": torch.ones(1, dtype=torch.long)}) == [x, y]
    model = Wired(lambda net, x: (net.ffn(x), None), ffn=feed_forward())
    mask = prune(model, 0.5, pattern="channel", example_inputs={"x": SEQUENCE})
    assert shrink(model, mask, {"x": SEQUENCE}).ffn[0].out_features == 6  # type: ignore[index, union-attr]


def test_what_torch_pruning_fails_at_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr("torch_pruning.dependency.index_mapping.update_index_mapping", broken)
    with pytest.raises(
        RequestError, match=r"^model: Torch-Pruning cannot follow its channels: ZeroDivisionError: [^\n]*$"
    ):
        channel_groups(feed_forward(), SEQUENCE)
