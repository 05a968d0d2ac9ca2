"""Small transformers as they come from the library, for tasks on tokens. Workers import it too."""

from typing import Any

from torch import nn

from tests.support.task_makers import counting


def gpt2(outputs: int) -> nn.Module:
    """Two blocks; embedding and head share their weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size: dict[str, Any] = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(vocab_size=outputs, bos_token_id=0, eos_token_id=0, **size))


def bert(outputs: int) -> nn.Module:
    """One block with a class a token."""
    from transformers import BertConfig, BertForTokenClassification

    size: dict[str, Any] = {
        "num_labels": outputs,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return BertForTokenClassification(BertConfig(vocab_size=20, max_position_embeddings=16, **size))


def texts() -> dict[str, Any]:
    """The sequences under the names of transformers' arguments, the padding masked."""
    parts = counting()
    return {
        part: {"input_ids": ids, "attention_mask": (targets != -100).long(), "labels": targets}
        for part, (ids, targets) in parts.items()
    }
