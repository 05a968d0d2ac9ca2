"""Attention heads of published transformers go whole: the small network is the masked one, and works as before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import prunetune as pt
from prunetune.deploy.channel_surgery import shrink
from prunetune.sparsity.channel_blocks import blocks_of
from prunetune.sparsity.channel_coupling import channel_groups
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope
from tests.support.refusals import refused

pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
IDS = torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(0))
PADDED = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
PAIR = PADDED | {"decoder_input_ids": IDS.flip(1)}
IMAGES = {"pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))}


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, **SMALL))


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=30, num_key_value_heads=2, use_cache=False, **SMALL)
    )


def gpt2() -> nn.Module:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 24, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=30, use_cache=False, **sizes))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, patch_size=4, **SMALL))


def t5() -> nn.Module:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=30, use_cache=False, **sizes))


BERTS, LLAMAS = "bert.encoder.layer.{}.attention.self", "model.layers.{}.self_attn"
QUERIES: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor], str, int, int]] = {  # heads, and a head's width
    "bert": (bert, PADDED, BERTS + ".query", 4, 8),
    "llama, grouped queries": (llama, PADDED, LLAMAS + ".q_proj", 2, 16),
    "gpt2": (gpt2, PADDED, "transformer.h.{}.attn.c_attn", 4, 8),
    "vit": (vit, IMAGES, "vit.layers.{}.attention.q_proj", 4, 8),
    "t5, cross attention": (t5, PAIR, "decoder.block.{}.layer.1.EncDecAttention.q", 4, 8),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():  # so that biases, which are born zero, matter
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUERIES)
def test_half_of_the_heads_go_and_the_rest_is_the_masked_network(name: str, tmp_path: Path) -> None:
    make, inputs, layer, heads, width = QUERIES[name]
    model = made(make)
    groups = {group.layer: group for group in channel_groups(model, inputs)}
    assert {(groups[layer.format(i)].channels, groups[layer.format(i)].width) for i in (0, 1)} == {(heads, width)}
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=inputs)
    small = shrink(model, mask, inputs)
    for i in (0, 1):
        for block in blocks_of(small):
            if block.layer == layer.format(i):
                assert block.channels == heads // 2
    others = {key: x.flip(0) for key, x in inputs.items()}  # another padding than the one that shrink has looked at
    model.load_state_dict(mask.apply(model.state_dict()))
    with torch.no_grad():
        wanted = model(**others).logits
        torch.testing.assert_close(small(**others).logits, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(made(make)(**others).logits, wanted, rtol=1e-2, atol=1e-2)
    save_model(small, str(tmp_path / "small.safetensors"))
    again = shrink(made(make), mask, inputs)  # other weights in the shapes of the file
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    load_model(again, str(tmp_path / "small.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(**others).logits, small(**others).logits)


def test_a_head_is_what_it_is_by_hand() -> None:
    """Heads 1 and 3 of GPT-2, and the key and value head 0 of Llama with its two query heads, zeroed by hand."""
    model = made(gpt2)
    mask = {name: torch.ones(parameter.shape, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for head in (1, 3):
        rows = slice(8 * head, 8 * head + 8)
        for part in range(3):
            mask["transformer.h.0.attn.c_attn.weight"].view(32, 3, 32)[:, part, rows] = False
            mask["transformer.h.0.attn.c_attn.bias"].view(3, 32)[part, rows] = False
        mask["transformer.h.0.attn.c_proj.weight"][rows] = False
    small: Any = shrink(model, mask, PADDED)
    first, second = (block.attn for block in small.transformer.h)
    assert (first.num_heads, first.split_size, first.c_attn.nf, first.c_proj.nx) == (2, 16, 48, 16)
    assert (second.num_heads, second.split_size, second.c_attn.nf) == (4, 32, 96)
    model = made(llama)
    mask = {name: torch.ones(parameter.shape, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for leaf, width in {"q_proj": 16, "k_proj": 8, "v_proj": 8}.items():
        mask[f"model.layers.1.self_attn.{leaf}.weight"][:width] = False
    mask["model.layers.1.self_attn.o_proj.weight"][:, :16] = False
    attention: Any = shrink(model, mask, PADDED).get_submodule("model.layers.1.self_attn")
    sizes = [getattr(attention, f"{leaf}_proj").out_features for leaf in "qkvo"]
    assert (sizes, attention.o_proj.in_features, attention.num_key_value_groups) == ([16, 8, 8, 32], 16, 2)


def test_a_mask_of_half_a_head_is_refused() -> None:
    model = made(bert)
    mask = dict(compute_mask(model, 0.5, pattern="channel", example_inputs=PADDED))
    mask["bert.encoder.layer.0.attention.self.key.weight"] = torch.ones(32, 32, dtype=torch.bool)
    with refused("mask", "'bert.encoder.layer.0.attention.self.key.weight'", "whole channels"):
        shrink(model, Mask(mask), PADDED)


def test_heads_stay_where_the_scope_excludes_them_and_where_a_bias_couples_them() -> None:
    groups = channel_groups(made(llama), PADDED, Scope(exclude=("*layers.0*.v_proj.weight",)))
    reasons = {group.layer: group.whole for group in groups}
    for leaf in "qkv":
        assert "excluded by '*layers.0*.v_proj.weight'" in (reasons[f"model.layers.0.self_attn.{leaf}_proj"] or "")
    assert reasons["model.layers.1.self_attn.q_proj"] is None
    reasons = {group.layer: group.whole for group in channel_groups(made(t5), PAIR)}
    for leaf in "qkv":
        assert reasons[f"encoder.block.1.layer.0.SelfAttention.{leaf}"] == (
            "its heads share a position bias with those of other layers"
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_network_without_some_heads_is_exported(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if suffix == "onnx" else "torch")
    model = made(vit)
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=IMAGES, round_to=8)
    small = shrink(model, mask, IMAGES)
    written = pt.export(small, None, tmp_path / f"small.{suffix}", IMAGES)
    assert written.bytes < pt.export(model, mask, tmp_path / f"whole.{suffix}", IMAGES).bytes
