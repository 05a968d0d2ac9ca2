"""Channels of feed-forward blocks on (N, L, C), of tied tensors, and of networks whose group search had no end."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunetune.deploy.channel_surgery import shrink
from prunetune.sparsity.channel_coupling import channel_groups, read_groups, walk
from prunetune.sparsity.channel_trace import trace
from prunetune.sparsity.forward_pass import tensors_in
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope
from tests.support.channel_nets import Wired, block, randomised
from tests.support.refusals import refused

pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")

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
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
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
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    shapes = {name: tuple(small.get_parameter(f"{name}.weight").shape) for name in ("conv.0", "fc", "a", "b")}
    assert shapes == {"conv.0": (3, 3, 3, 3), "fc": (4, 192), "a": (5, 8), "b": (4, 5)}


SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
DECODER: dict[str, Any] = {**SMALL, "vocab_size": 30, "num_key_value_heads": 1, "use_cache": False}


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))


def masked_bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **SMALL))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, patch_size=4, **SMALL))


def mixture() -> nn.Module:
    sizes = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    config = transformers.Qwen2MoeConfig(**DECODER, **sizes, shared_expert_intermediate_size=12)
    return transformers.Qwen2MoeForCausalLM(config)


def neox() -> nn.Module:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(vocab_size=30, **SMALL))


def bart() -> nn.Module:
    sides = [
        {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 12} for side in ("encoder", "decoder")
    ]
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(vocab_size=30, d_model=16, **sides[0], **sides[1])
    )


PAIR = IDS | {"decoder_input_ids": IDS["input_ids"]}
PUBLISHED: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {  # how many layers have 12 outputs
    "llama": (llama, IDS, 4),
    "qwen2, experts": (mixture, IDS, 4),
    "gpt-neox": (neox, IDS, 2),
    "bert, tied": (masked_bert, IDS, 2),
    "bart, tied": (bart, PAIR, 2),
    "vit": (vit, torch.randn(2, 3, 8, 8), 2),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_feed_forward_blocks_of_published_transformers_shrink(name: str) -> None:
    make, inputs, wide = PUBLISHED[name]
    model = make().eval()
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    before, after = ([m.out_features for m in net.modules() if isinstance(m, nn.Linear)] for net in (model, small))
    assert (before.count(12), after.count(12)) == (wide, 0)
    assert after.count(6) == before.count(6) + wide
    named = inputs if isinstance(inputs, dict) else {"pixel_values": inputs}
    others = {key: x.flip(0).flip(-1) for key, x in named.items()}  # not those that shrink has looked at
    model.load_state_dict(mask.apply(model.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(small(**others).logits, model(**others).logits, rtol=1e-4, atol=1e-5)


def shifted() -> nn.Module:
    """Torch-Pruning takes the shift along time for one of channels, and its own search for groups never ends."""

    def wiring(net: Wired, x: Tensor) -> Tensor:
        for _ in range(4):
            y = net.a(x)
            x = net.b(F.gelu(y + torch.cat([y[:, 2:], y[:, :2]], 1)))
        return x

    return Wired(wiring, a=nn.Linear(16, 12), b=nn.Linear(12, 16))


def folded() -> nn.Module:
    """Time and channels change places, are folded into each other, cut and joined."""

    def wiring(net: Wired, x: Tensor) -> Tensor:
        for layer in (net.a, net.b, net.c):
            y = layer(x)
            parts = y.reshape(2, 8, -1).transpose(1, 2).flatten(1).unflatten(1, (16, -1)).chunk(2, 1)
            x = torch.cat([parts[1], parts[0]], 1).reshape(2, 5, 16) + y
        return net.d(x)

    return Wired(wiring, **{name: nn.Linear(16, 16) for name in "abcd"})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("make", [shifted, folded])
def test_the_search_for_groups_ends_and_what_it_finds_is_exact(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(randomised(make()), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=SEQUENCE)
    small = shrink(model, mask, SEQUENCE)
    assert small[1].out_features == 6  # type: ignore[index, union-attr]
    assert small[0].a.out_features == model[0].a.out_features  # type: ignore[index, union-attr]
    model.load_state_dict(mask.apply(model.state_dict()))
    torch.testing.assert_close(small(SEQUENCE.flip(0)), model(SEQUENCE.flip(0)), rtol=1e-4, atol=1e-4)


def test_what_an_operation_cannot_number_stays_whole_and_the_rest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, node: object) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr("torch_pruning.dependency.index_mapping.update_reshape_index_mapping", broken)
    layers = {"a": block(3, 6), "b": block(6, 4), "c": nn.Linear(4 * 64, 10), "d": nn.Linear(10, 5)}
    model = Wired(lambda net, x: net.d(net.c(net.b(net.a(x)).flatten(1)).relu()), **layers)
    found = {group.layer: group.whole for group in channel_groups(model, torch.randn(2, 3, 8, 8))}
    why = found.pop("b.0") or ""
    assert why.startswith("Torch-Pruning fails to number the channels of the operation ")
    assert why.endswith(" (ZeroDivisionError)")
    assert found == {"a.0": None, "c": None, "d": "it reaches the output"}


def test_a_walk_that_cannot_go_on_keeps_its_group_whole_and_what_leads_back_into_it() -> None:
    layers = {"a": nn.Linear(16, 12), "b": nn.Linear(16, 12), "c": nn.Linear(12, 8), "d": nn.Linear(8, 4)}
    model = Wired(lambda net, x: net.d(net.c(net.a(x) + net.b(x)).relu()), **layers).eval()
    graph, failures = trace(model, SEQUENCE[:, 0]), iter([IndexError("list index out of range")])

    def broken(indices: list[Any]) -> list[Any]:
        for error in failures:  # the first time alone
            raise error
        return indices

    for edge in graph.module2node[model.a].dependencies:
        if edge.trigger.__name__ == "prune_out_channels":
            edge.index_mapping[0] = broken
    assert {group.layer: group.whole for group in read_groups(graph, model)} == {
        "a": "Torch-Pruning fails to number its channels (IndexError)",
        "b": "it is coupled with 'a', which stays whole",
        "c": None,
        "d": "it reaches the output",
    }


def test_networks_that_draw_are_compared_with_equal_draws() -> None:
    model = Wired(lambda net, x: net.b(net.a(x)) + torch.rand(5), a=feed_forward(), b=nn.Linear(16, 5))
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=SEQUENCE)
    before = torch.get_rng_state()
    assert shrink(model, mask, SEQUENCE).a[0].out_features == 6  # type: ignore[index, union-attr]
    assert torch.get_rng_state().equal(before)


def test_a_tied_tensor_keeps_only_its_own_groups_whole() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    model[2].weight = model[0].weight
    inputs = torch.randn(3, 6)
    tied = "'{}.weight' is tied to '{}.weight'"
    reasons = {group.layer: group.whole for group in channel_groups(model, inputs)}
    assert reasons == {"0": tied.format(0, 2), "2": tied.format(2, 0), "4": None, "6": "it reaches the output"}
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    assert small[4].weight.shape == (4, 6)  # type: ignore[union-attr]
    assert small[2].weight is small[0].weight  # type: ignore[union-attr]


def test_a_module_registered_twice_keeps_only_its_own_groups_whole() -> None:
    twice = nn.Linear(6, 6)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(3, 6)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    assert shrink(model, mask, inputs)[3].weight.shape == (4, 6)  # type: ignore[union-attr]
    assert mask["0.weight"].all()


def test_a_walk_stops_at_its_limit_and_the_group_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = feed_forward(), torch.randn(3, 16)
    monkeypatch.setattr("prunetune.sparsity.channel_coupling.walk", lambda *args: walk(*args, limit=20))
    first, _ = channel_groups(model, inputs)
    assert first.whole == "it is coupled with more than can be followed"


def test_an_excluded_layer_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []

    def noted(graph: Any, layer: Any, outputs: Any) -> Any:
        searched.append(layer.out_features)
        return walk(graph, layer, outputs)

    monkeypatch.setattr("prunetune.sparsity.channel_coupling.walk", noted)
    groups = channel_groups(feed_forward(), SEQUENCE, Scope(exclude=("0.weight",)))
    assert groups[0].whole == "'0.weight' is excluded by '0.weight'"
    assert searched == [16]


def test_outputs_beside_none_and_caches_are_found() -> None:
    x, y = torch.ones(1), torch.zeros(2)
    assert tensors_in({"a": x, "b": (None, [y, object()]), "c": torch.ones(1, dtype=torch.long)}) == [x, y]
    model = Wired(lambda net, x: (net.ffn(x), None), ffn=feed_forward())
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs={"x": SEQUENCE})
    assert shrink(model, mask, {"x": SEQUENCE}).ffn[0].out_features == 6  # type: ignore[index, union-attr]


def test_what_torch_pruning_fails_at_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr("torch_pruning.dependency.index_mapping.update_index_mapping", broken)
    with refused("model", "ZeroDivisionError", "follow"):
        channel_groups(feed_forward(), SEQUENCE)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_torch_pruning_warns_of_is_no_news(kind: Callable[..., nn.Module]) -> None:
    rnn = kind(16, 12, num_layers=2, bidirectional=True, batch_first=True)
    model = Wired(lambda net, x: net.head(net.rnn(x)[0][:, -1]), rnn=rnn, head=nn.Linear(24, 3))
    (group,) = channel_groups(model, SEQUENCE)  # warnings are errors here
    assert (group.layer, group.whole) == ("head", "it reaches the output")


def test_of_gpt2_heads_and_hidden_channels_are_known_and_the_rest_is_named() -> None:
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_inner=12, bos_token_id=0, eos_token_id=1
    )
    groups = channel_groups(transformers.GPT2Model(config), IDS)
    why = "the channels of transformers' Conv1D are not followed"
    places = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    whole = dict(zip(places, (None, why, None, why), strict=True))
    assert {group.layer: group.whole for group in groups} == {f"h.0.{place}": whole[place] for place in places}
    assert [group.channels for group in groups] == [2, 16, 12, 16]


def test_a_refusal_of_many_groups_is_short() -> None:
    model = nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.LayerNorm(16))))
    with refused("pattern", "LayerNorm", "28", "works") as caught:
        compute_mask(model, 0.5, pattern="channel", example_inputs=SEQUENCE)
    assert len(str(caught.value)) < 300
