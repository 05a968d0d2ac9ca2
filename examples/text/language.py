"""A language model of characters, on the documentation that comes with Python: how does "The assert stateme" go on?"""

from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTH = 64  # characters of a text
CHARACTERS = 128  # ASCII: a character's number is its token


def data(train: int = 640, test: int = 200):
    """Consecutive pieces of what `help("assert")` and the like print; every token is predicted from those before it."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[: (train + test) * LENGTH].view(-1, LENGTH)
    return {
        "train": {"input_ids": pieces[:train], "labels": pieces[:train]},
        "test": {"input_ids": pieces[train:], "labels": pieces[train:]},
    }


def network(width: int = 64, layers: int = 1):
    """A small Llama with weights drawn anew: nothing is downloaded."""
    config = LlamaConfig(
        vocab_size=CHARACTERS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        use_cache=False,  # of keys and values, which an exported file does not hold
    )
    return LlamaForCausalLM(config)
