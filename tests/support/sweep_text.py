"""Small transformers of Hugging Face for text, of random weights: encoders, decoders, and those of both."""

from typing import Any

import torch
import transformers

from tests.support.sweep_steps import Inputs, Network

WORDS = 30
IDS = torch.randint(3, WORDS, (2, 6), generator=torch.Generator().manual_seed(1))
TEXT = {"input_ids": IDS}
PAIR = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}

BLOCKS = {"num_hidden_layers": 1, "num_attention_heads": 2}
WIDTHS = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 16}
ENCODER = {**WIDTHS, **BLOCKS}
MARKED = {**ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**MARKED, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_local_experts": 3, "num_experts": 3, "num_experts_per_tok": 2}
BOTH = {
    "vocab_size": WORDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 16,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}


def of(model: str, config: str, inputs: Inputs, **settings: Any) -> Network:
    """A model of transformers, by the names of its class and of its configuration's."""
    return Network(lambda: getattr(transformers, model)(getattr(transformers, config)(**settings)), inputs)


def text(model: str, config: str, **settings: Any) -> Network:
    return of(model, config, TEXT, **settings)


ENCODERS: dict[str, Network] = {
    "bert": text("BertForSequenceClassification", "BertConfig", **ENCODER),
    "bert-mlm": text("BertForMaskedLM", "BertConfig", **ENCODER),
    "roberta": text("RobertaForTokenClassification", "RobertaConfig", **ENCODER),
    "distilbert": text(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        vocab_size=WORDS,
        dim=16,
        hidden_dim=24,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=16,
    ),
    "albert": text("AlbertForMaskedLM", "AlbertConfig", **ENCODER, embedding_size=8),
    "deberta-v2": text("DebertaV2Model", "DebertaV2Config", **ENCODER, relative_attention=True, pos_att_type="p2c|c2p"),
    "electra": text("ElectraForPreTraining", "ElectraConfig", **ENCODER, embedding_size=8),
    "mobilebert": text(
        "MobileBertModel",
        "MobileBertConfig",
        **ENCODER,
        embedding_size=8,
        true_hidden_size=16,
        intra_bottleneck_size=16,
        num_feedforward_networks=2,
    ),
    "fnet": text(
        "FNetModel", "FNetConfig", vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=1
    ),
    "squeezebert": text("SqueezeBertModel", "SqueezeBertConfig", **ENCODER, embedding_size=16),
    "modernbert": text("ModernBertModel", "ModernBertConfig", **MARKED, cls_token_id=1, sep_token_id=2),
}

DECODERS: dict[str, Network] = {
    "gpt2": text(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=WORDS,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt-neox": text("GPTNeoXForCausalLM", "GPTNeoXConfig", **DECODER),
    "opt": text(
        "OPTForCausalLM",
        "OPTConfig",
        **{k: v for k, v in DECODER.items() if k != "intermediate_size"},
        ffn_dim=24,
        word_embed_proj_dim=16,
    ),
    "bloom": text(
        "BloomForCausalLM",
        "BloomConfig",
        vocab_size=WORDS,
        hidden_size=16,
        n_layer=1,
        n_head=2,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "llama": text("LlamaForCausalLM", "LlamaConfig", **HEADS),
    "qwen2": text("Qwen2ForCausalLM", "Qwen2Config", **GROUPED),
    "qwen3-moe": text("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **HEADS, **EXPERTS, moe_intermediate_size=12),
    "mixtral": text("MixtralForCausalLM", "MixtralConfig", **HEADS, num_local_experts=3, num_experts_per_tok=2),
    "phi-3": text("Phi3ForCausalLM", "Phi3Config", **GROUPED),
    "gemma-2": text("Gemma2ForCausalLM", "Gemma2Config", **HEADS),
    "falcon": text(
        "FalconForCausalLM",
        "FalconConfig",
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "mamba": text(
        "MambaForCausalLM",
        "MambaConfig",
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        state_size=4,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}

ENCODER_DECODERS: dict[str, Network] = {
    "t5": of(
        "T5ForConditionalGeneration",
        "T5Config",
        PAIR,
        vocab_size=WORDS,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        use_cache=False,
        decoder_start_token_id=0,
    ),
    "bart": of("BartForConditionalGeneration", "BartConfig", PAIR, **BOTH),
    "whisper": of(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "input_features": torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2)),
            "decoder_input_ids": IDS[:, :4],
        },
        **{k: v for k, v in BOTH.items() if k != "max_position_embeddings"},
        num_mel_bins=8,
        max_source_positions=8,
        max_target_positions=16,
        begin_suppress_tokens=None,
    ),
}
